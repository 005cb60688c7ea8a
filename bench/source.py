"""The identity of source: a digest of the definitions that decide a plug-in's result, wherever they lie.

A definition is a function, a class or an assignment at the top of a module. From the plug-in's own definition the
names that it reads are followed, through imports, to every definition it draws on: in ``bench`` and ``methods``, in
the plug-in's own distribution, and for ``FILE.py@name`` in the files beside it. Other libraries are provenance.

What counts is the syntax tree. Comments, formatting, docstrings, annotations, import lines, the order of
definitions, the names and places of files and the texts of errors do not. What the decorators of
:mod:`bench.registry` are told (name, version, knobs) stands in recipes and keys under its own name.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.ids import digest
from bench.syntax import Import, Module, Names, Ref, known, parse

OURS = ("bench", "methods")
MACHINERY = ("bench.source", "bench.syntax")  # no part of what it names: ``ID_VERSION`` tells of it
FILE = "scrollbench_file_"  # so begin the names of modules that are files (:mod:`bench.plugins`)
ROUNDS = 4  # how far a definition's hash sees what it draws on; what lies farther is still in the digest, by itself

Root = Callable[..., Any] | type | str
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
        for name in parse(*todo.pop()).imported:
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
    parsed = parse(file, module)
    names = [name] if name in parsed.definitions else sorted(parsed.definitions)  # a lambda: all that is there
    return scope, [(file, n) for n in names]


def _scope(module: str) -> _Scope:
    top, file = module.partition(".")[0], _loaded(module)
    if top in OURS:
        return _Scope(OURS)
    if top == "__main__" or top.startswith(FILE):  # a file of no distribution: only its neighbours are its own
        return _Scope(OURS, file.parent if file else None)
    if file is not None and top == module:
        return _Scope((*OURS, *_distribution(top)), file.parent)
    return _Scope((*OURS, top, *_distribution(top)))


@cache
def _distribution(top: str) -> Names:
    """The packages that came with a package."""
    packages = _packages(tuple((p, os.stat(p).st_mtime_ns) for p in sys.path if os.path.isdir(p)))
    owners = set(packages.get(top, ()))
    return tuple(name for name, distributions in packages.items() if owners & set(distributions))


@lru_cache(maxsize=1)
def _packages(state: tuple[tuple[str, int], ...]) -> Mapping[str, list[str]]:
    """The distributions of every package. Reading them takes seconds, so only when a search path has changed."""
    return importlib.metadata.packages_distributions()


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

    def module(self, name: str) -> Module | None:
        """A module in scope, parsed."""
        file = self.file(name)
        return parse(file, name) if file else None

    def hashes(self, start: Iterable[Definition]) -> dict[Definition, str]:
        """A hash for each definition that can be reached, which sees ``ROUNDS`` steps of what that one draws on."""
        reads: dict[Definition, tuple[str, list[tuple[Names, list[Definition]]]]] = {}
        todo = list(start)
        while todo:
            at = todo.pop()
            if at in reads:
                continue
            module = known[at[0]]
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

    def _follow(self, module: Module, ref: Ref) -> tuple[Names, list[Definition]]:
        """The definitions a chain of names stands for, and the names that are left over."""
        found = self._import(ref.bound, ref.names[1:]) if ref.bound else self._lookup(module, ref.names)
        return found if found is not None else (ref.names, [])

    def _lookup(self, module: Module, names: Names) -> tuple[Names, list[Definition]] | None:
        """The first name in a module: what it defines, and what it imports."""
        here: list[Definition] = [(module.path, names[0])] if names[0] in module.definitions else []
        there = self._import(module.imports[names[0]], names[1:]) if names[0] in module.imports else None
        if here:
            return names[1:], here + (there[1] if there else [])
        return there

    def _import(self, bound: Import, rest: Names) -> tuple[Names, list[Definition]] | None:
        module = None if bound.module in MACHINERY else self.module(bound.module)
        if module is None:  # another library, or a package that is not ours
            return None
        names = (bound.name, *rest) if bound.name else rest
        if not names:  # the module itself is handed on: anything of it may be used
            return (), [(module.path, d) for d in module.definitions]
        if names[0].startswith("__"):
            return names, []
        found = self._lookup(module, names)
        if found is None and (below := f"{bound.module}.{names[0]}") and self.file(below):
            return self._import(Import(below, ""), names[1:])
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
