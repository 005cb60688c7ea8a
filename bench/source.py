"""The identity of source: a digest of the definitions that decide a plug-in's result, wherever they lie.

A definition is a function, a class or an assignment at the top of a module. From the plug-in's own definition the
names that it reads are followed, through imports, to every definition it draws on: in ``bench`` and ``methods``, in
the plug-in's own distribution, and for ``FILE.py@name`` in the files beside it. Other libraries are provenance.

What counts is the syntax tree. Comments, formatting, docstrings, annotations, import lines, the order of
definitions, the names and places of files and the texts of errors do not. What the decorators of
:mod:`bench.registry` are told (name, version, knobs) stands in recipes and keys under its own name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import UsageError
from bench.ids import digest

OURS = ("bench", "methods")
REGISTRY = "bench.registry"  # whose decorators are no part of a definition
ROUNDS = 4  # how far a definition's hash sees what it draws on; what lies farther is still in the digest, by itself

Root = Callable[..., Any] | type | str
Names = tuple[str, ...]  # a.b.c as it is written
Definition = tuple[Path, str]  # "" stands for a module's statements that define nothing


def source_digest(*roots: Root) -> str:
    """Digest of what functions or classes are made of.

    Args:
        roots: functions, classes, or ``"module:name"``, which is read without being imported.

    Raises:
        UsageError: a function without a Python file, such as one typed at a prompt.
    """
    found: dict[Definition, str] = {}
    starts = []
    for root in roots:
        scope, start = _start(root)
        starts += start
        found |= scope.hashes(start)
    return digest([[found[d] for d in starts], sorted(set(found.values()))])


def reached(*roots: Root) -> set[Definition]:
    """The definitions that :func:`source_digest` covers, as (file, name)."""
    return {d for scope, start in map(_start, roots) for d in scope.hashes(start)}


def neighbours(file: Path) -> dict[str, Path]:
    """The modules beside a plug-in's file that it imports, itself or through another of them, by name."""
    scope, found, todo = _Scope((), file.parent), dict[str, Path](), [(file, file.stem)]
    while todo:
        for name in _parsed(*todo.pop()).imported:
            parts = name.split(".")
            for part in (".".join(parts[: i + 1]) for i in range(len(parts))):  # the packages on the way, too
                path = scope.file(part)
                if parts[0] not in OURS and path not in (None, file) and part not in found:
                    found[part] = path
                    todo.append((path, part))
    return found


def _start(root: Root) -> tuple[_Scope, list[Definition]]:
    """Where to look, and the definition to begin with."""
    if isinstance(root, str):
        module, _, name = root.partition(":")
        scope = _Scope(OURS)
    else:
        while isinstance(root, partial):
            root = root.func
        owner = root if hasattr(root, "__qualname__") else type(root)
        module, name = owner.__module__, owner.__qualname__.partition(".")[0]
        scope = _scope(module)
    file = scope.file(module) or _loaded(module)
    if file is None:
        raise UsageError(f"{module}.{name} has no Python file, so it has no identity; write it into a file")
    parsed = _parsed(file, module)
    names = [name] if name in parsed.definitions else sorted(parsed.definitions)  # a lambda: all that is there
    return scope, [(file, n) for n in names]


def _scope(module: str) -> _Scope:
    top, file = module.partition(".")[0], _loaded(module)
    if top in OURS:
        return _Scope(OURS)
    if file is not None and (top == module or top == "__main__"):  # a file: its neighbours are its own
        return _Scope((*OURS, *_distribution(top)), file.parent)
    return _Scope((*OURS, top, *_distribution(top)))


@cache
def _distribution(top: str) -> Names:
    """The packages that came with a package."""
    packages = importlib.metadata.packages_distributions()
    owners = set(packages.get(top, ()))
    return tuple(name for name, distributions in packages.items() if owners & set(distributions))


def _loaded(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and file.endswith(".py") else None


class _Scope:
    """Where definitions are looked for: some packages by name, and the folder of a plug-in's file."""

    def __init__(self, packages: Iterable[str], folder: Path | None = None) -> None:
        self.packages, self.folder = frozenset(packages), folder
        self._files: dict[str, Path | None] = {}

    def file(self, module: str) -> Path | None:
        """The Python file of a module in scope. Imports nothing."""
        if module not in self._files:
            self._files[module] = self._find(module)
        return self._files[module]

    def _find(self, module: str) -> Path | None:
        top, *rest = module.split(".")
        root = _package(top) if top in self.packages else self.folder / top if self.folder else None
        if root is None:
            return None
        path = root.joinpath(*rest)
        return next((p for p in (path / "__init__.py", path.with_name(f"{path.name}.py")) if p.is_file()), None)

    def module(self, name: str) -> _Module | None:
        """A module in scope, parsed."""
        file = self.file(name)
        return _parsed(file, name) if file else None

    def hashes(self, start: Iterable[Definition]) -> dict[Definition, str]:
        """A hash for each definition that can be reached, which sees ``ROUNDS`` steps of what that one draws on."""
        reads: dict[Definition, tuple[str, list[tuple[Names, list[Definition]]]]] = {}
        todo = list(start)
        while todo:
            at = todo.pop()
            if at in reads:
                continue
            module = _known[at[0]]
            text, refs = module.read(at[1])
            links = [self._follow(module, ref) for ref in refs]
            reads[at] = text, links
            todo += [d for _, found in links for d in found]
            todo += [(at[0], "")] if module.effects else []
        found = dict.fromkeys(reads, "")
        for _ in range(ROUNDS):
            found = {
                at: _hash(text, *(f"{names}{sorted(found[d] for d in to)}" for names, to in links))
                for at, (text, links) in reads.items()
            }
        return found

    def _follow(self, module: _Module, ref: _Ref) -> tuple[Names, list[Definition]]:
        """The definitions a chain of names stands for, and the names that are left over."""
        found = self._import(ref.bound, ref.names[1:]) if ref.bound else self._lookup(module, ref.names)
        return found if found is not None else (ref.names, [])

    def _lookup(self, module: _Module, names: Names) -> tuple[Names, list[Definition]] | None:
        """The first name in a module: what it defines, and what it imports."""
        here: list[Definition] = [(module.path, names[0])] if names[0] in module.definitions else []
        there = self._import(module.imports[names[0]], names[1:]) if names[0] in module.imports else None
        if here:
            return names[1:], here + (there[1] if there else [])
        return there

    def _import(self, bound: _Import, rest: Names) -> tuple[Names, list[Definition]] | None:
        module = self.module(bound.module)
        if module is None:  # another library, or a package that is not ours
            return None
        names = (bound.name, *rest) if bound.name else rest
        if not names:  # the module itself is handed on: anything of it may be used
            return (), [(module.path, d) for d in module.definitions]
        if names[0].startswith("__"):
            return names, []
        found = self._lookup(module, names)
        if found is None and (below := f"{bound.module}.{names[0]}") and self.file(below):
            return self._import(_Import(below, ""), names[1:])
        return found or (names, [(module.path, d) for d in module.definitions])


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _package(top: str) -> Path | None:
    """The folder of a top-level package, or the path of a single module without its ending."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin).with_suffix("")


# -- one file


class _Import(NamedTuple):
    """What an import binds: a module, or a name in it."""

    module: str
    name: str


class _Ref(NamedTuple):
    """A chain of names read in a definition; ``bound`` where an import inside it says what the first one is."""

    names: Names
    bound: _Import | None


_known: dict[Path, _Module] = {}
_stamps: dict[Path, tuple[int, int, str]] = {}


def _parsed(file: Path, name: str = "") -> _Module:
    """A file's syntax; read again when it has changed."""
    stat = file.stat()
    stamp = (stat.st_mtime_ns, stat.st_size, name or file.stem)
    if _stamps.get(file) != stamp:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"{file} is no Python source: {error}") from error
        _known[file], _stamps[file] = _Module(file, name or file.stem, tree), stamp
    return _known[file]


@dataclass
class _Module:
    path: Path
    name: str
    tree: ast.Module
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, _Import] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    _reads: dict[str, tuple[str, list[_Ref]]] = field(default_factory=dict)

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
            names = list(_bound([node]))
            for name in names:
                if name not in ("__all__", "__version__"):
                    self.definitions.setdefault(name, []).append(node)
            below = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            if not isinstance(node, _SCOPES):
                self.imports |= {k: v for n in below for k, v in self.bindings(n).items()}
            if not names and not below and not isinstance(node, ast.Pass):
                self.effects.append(node)

    def bindings(self, node: ast.AST) -> dict[str, _Import]:
        """The names that an import statement binds."""
        if isinstance(node, ast.Import):
            return {
                a.asname or a.name.partition(".")[0]: _Import(a.name if a.asname else a.name.partition(".")[0], "")
                for a in node.names
            }
        if isinstance(node, ast.ImportFrom):
            return {a.asname or a.name: _Import(self._base(node), a.name) for a in node.names}
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

    def read(self, name: str) -> tuple[str, list[_Ref]]:
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


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
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
            yield from _bound(ast.iter_child_nodes(node))


class _Reader:
    """Writes syntax as text. Names that a function binds itself stay; all others are blanks (``refs``)."""

    def __init__(self, module: _Module, own: str) -> None:
        self.module, self.own, self.refs = module, own, list[_Ref]()
        self.scopes: list[dict[str, _Import | None]] = []

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
                bound = scope[names[0]]
                if bound is None:
                    return ".".join(names)
                self.refs.append(_Ref(names, bound))
                return "_"
        self.refs.append(_Ref(names, None))
        return "_"

    def _scoped(self, node: ast.AST) -> str:
        """A node that may have a scope of its own."""
        if isinstance(node, _COMPREHENSIONS):
            return self._within(dict.fromkeys(_bound([g.target for g in node.generators])), node, _SKIP)
        if isinstance(node, _FUNCTIONS):
            before = self._plain(node, {*_SKIP, "body", "name"}, outer=True)
            body = node.body if isinstance(node.body, list) else [node.body]
            arguments = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
            statements = list(_inside(body))
            imports = {k: v for n in statements for k, v in self.module.bindings(n).items()}
            free = {n for b in statements if isinstance(b, ast.Global) for n in b.names}
            bound = {**dict.fromkeys([*arguments, *_bound(body)]), **imports}
            scope = {k: v for k, v in bound.items() if k not in free}
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
        scope = dict.fromkeys(_bound(body))
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
        bound = self.module.imports.get(names[0])
        return bound is not None and (bound.module in (REGISTRY, "bench"))

    def _within(self, scope: dict[str, _Import | None], node: ast.AST, skip: set[str]) -> str:
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
