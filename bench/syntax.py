"""One file of source as definitions: what each one says, and which names it reads from elsewhere.

The text of a definition is its syntax tree without what decides nothing (see :mod:`bench.source`); every name that it
does not bind itself is left blank in it and kept beside it, so that the text does not depend on names of files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import UsageError

REGISTRY = "bench.registry"  # whose decorators are no part of a definition

Names = tuple[str, ...]  # a.b.c as it is written


class Import(NamedTuple):
    """What an import binds: a module, or a name in it."""

    module: str
    name: str


class Ref(NamedTuple):
    """A chain of names read in a definition; ``bound`` where an import inside it says what the first one is."""

    names: Names
    bound: Import | None


known: dict[Path, Module] = {}
_stamps: dict[Path, tuple[int, int, str]] = {}


def parse(file: Path, name: str = "") -> Module:
    """A file's syntax; read again when it has changed."""
    stat = file.stat()
    stamp = (stat.st_mtime_ns, stat.st_size, name or file.stem)
    if _stamps.get(file) != stamp:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{file} is no Python source: {error}") from error
        known[file], _stamps[file] = Module(file, name or file.stem, tree), stamp
    return known[file]


@dataclass
class Module:
    path: Path
    name: str
    tree: ast.Module
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    _reads: dict[str, tuple[str, list[Ref]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for statement in self.tree.body:
            self._take(statement)

    def _take(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports |= self.bindings(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            self.imports |= {k: v for n in node.body for k, v in self.bindings(n).items()}
            for statement in node.orelse:
                self._take(statement)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        elif not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            names = list(bound([node]))
            for name in names:
                if name not in ("__all__", "__version__"):
                    self.definitions.setdefault(name, []).append(node)
            below = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            if not isinstance(node, _SCOPES):
                self.imports |= {k: v for n in below for k, v in self.bindings(n).items()}
            if not names and not below and not isinstance(node, ast.Pass):
                self.effects.append(node)

    def bindings(self, node: ast.AST) -> dict[str, Import]:
        """The names that an import statement binds."""
        if isinstance(node, ast.Import):
            return {
                a.asname or a.name.partition(".")[0]: Import(a.name if a.asname else a.name.partition(".")[0], "")
                for a in node.names
            }
        if isinstance(node, ast.ImportFrom):
            return {a.asname or a.name: Import(self._base(node), a.name) for a in node.names}
        return {}

    def _base(self, node: ast.ImportFrom) -> str:
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        return ".".join(p for p in (*parts, node.module) if p)

    @cached_property
    def imported(self) -> list[str]:
        """Every module an import statement of this file may mean."""
        found: dict[str, None] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= dict.fromkeys(a.name for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                found |= dict.fromkeys((base, *(f"{base}.{a.name}" for a in node.names)))
        return list(found)

    def read(self, name: str) -> tuple[str, list[Ref]]:
        """A definition as text in which what it reads from outside is left blank, and those blanks in order."""
        if name not in self._reads:
            reader = _Reader(self, name)
            text = ";".join(reader.write(n) for n in (self.definitions[name] if name else self.effects))
            self._reads[name] = text, reader.refs
        return self._reads[name]


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)
_SKIP = {"annotation", "returns", "type_params", "type_comment", "ctx", "kind", "decorator_list"}


def bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that statements bind in their own scope, imports aside."""
    for node in nodes:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
                continue
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
        if not isinstance(node, (*_SCOPES, *_COMPREHENSIONS)):
            yield from bound(ast.iter_child_nodes(node))


class _Reader:
    """Writes syntax as text. Names that a function binds itself stay; all others are blanks (``refs``)."""

    def __init__(self, module: Module, own: str) -> None:
        self.module, self.own, self.refs = module, own, list[Ref]()
        self.scopes: list[dict[str, Import | None]] = []

    def write(self, node: Any) -> str:
        """The text of a node, of a list of nodes, or of a plain value."""
        if isinstance(node, list):
            return "[" + ",".join(t for n in node if (t := self.write(n))) + "]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal):
            return ""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return ""  # docstrings, of attributes too
        if isinstance(node, ast.Raise):  # what an error says decides nothing
            said = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            return f"Raise({ast.unparse(said).rpartition('.')[2] if said else ''})"
        if isinstance(node, ast.Assert):
            return f"Assert({self.write(node.test)})"
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            names = _chain(node)
            if names:
                return self._name(names)
        if isinstance(node, ast.Name) and node.id == self.own and not self.scopes:
            return "Own"
        return self._scoped(node)

    def _name(self, names: Names) -> str:
        for scope in reversed(self.scopes):
            if names[0] in scope:
                origin = scope[names[0]]
                if origin is None:
                    return ".".join(names)
                self.refs.append(Ref(names, origin))
                return "_"
        self.refs.append(Ref(names, None))
        return "_"

    def _scoped(self, node: ast.AST) -> str:
        """A node that may have a scope of its own."""
        if isinstance(node, _COMPREHENSIONS):
            return self._within(dict.fromkeys(bound([g.target for g in node.generators])), node, _SKIP)
        if isinstance(node, _FUNCTIONS):
            before = self._plain(node, {*_SKIP, "body", "name"}, outer=True)
            body = node.body if isinstance(node.body, list) else [node.body]
            arguments = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            statements = list(_inside(body))
            imports = {k: v for n in statements for k, v in self.module.bindings(n).items()}
            free = {n for b in statements if isinstance(b, ast.Global) for n in b.names}
            own = {**dict.fromkeys([*arguments, *bound(body)]), **imports}
            scope = {k: v for k, v in own.items() if k not in free}
            self.scopes.append(scope)
            text = self.write(body) if isinstance(node.body, list) else self.write(node.body)
            self.scopes.pop()
            return f"{type(node).__name__}({self._title(node)}{before}{text})"
        if isinstance(node, ast.ClassDef):
            before = self._plain(node, {*_SKIP, "body", "name"}, outer=True)
            return f"ClassDef({self._title(node)}{before}{self._members(node.body)})"
        return self._plain(node, _SKIP)

    def _members(self, body: list[ast.stmt]) -> str:
        """A class's body. Its names are seen by its own statements, not by its methods."""
        scope = dict.fromkeys(bound(body))
        texts = []
        for statement in body:
            inner = isinstance(statement, _SCOPES)
            self.scopes += [] if inner else [scope]
            texts.append(self.write(statement) or "pass")
            if not inner:
                self.scopes.pop()
        return ",".join(t for t in texts if t != "pass")

    def _title(self, node: ast.AST) -> str:
        """Its name, unless that is only what this definition is called in its module."""
        name = getattr(node, "name", "")
        decorators = [d for d in getattr(node, "decorator_list", ()) if not self._registers(d)]
        return ("" if name == self.own and not self.scopes else name) + self.write(decorators)

    def _registers(self, decorator: ast.expr) -> bool:
        names = _chain(decorator.func) if isinstance(decorator, ast.Call) else ()
        if not names or names[-1] not in ("method", "metric") or self.scopes:
            return False
        origin = self.module.imports.get(names[0])
        return origin is not None and origin.module in (REGISTRY, "bench")

    def _within(self, scope: dict[str, Import | None], node: ast.AST, skip: set[str]) -> str:
        self.scopes.append(scope)
        text = self._plain(node, skip)
        self.scopes.pop()
        return text

    def _plain(self, node: ast.AST, skip: set[str], outer: bool = False) -> str:
        """Type and fields, without what is empty: Python's versions differ in that."""
        fields = (
            f"{name}={text}"
            for name, value in ast.iter_fields(node)
            if name not in skip and value is not None and value != [] and (text := self.write(value)) != "[]"
        )
        return ",".join(fields) if outer else f"{type(node).__name__}({','.join(fields)})"


def _inside(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The statements of a function, without those of functions and classes in it."""
    for node in body:
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield node
            if not isinstance(node, _SCOPES):
                yield from _inside(ast.iter_child_nodes(node))


def _chain(node: ast.AST) -> Names:
    """``a.b.c`` as names; nothing where it does not begin with a name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and (head := _chain(node.value)):
        return (*head, node.attr)
    return ()
