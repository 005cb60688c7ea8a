"""Plug-ins that are files: a module of ``FILE.py`` with the files beside it, as they are now."""

from __future__ import annotations

import hashlib
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bench.errors import UsageError
from bench.source import FILE, neighbours


def load_file(path: Path) -> types.ModuleType:
    """The module of a plug-in's file; loaded again when it, or a file that it imports from beside itself, has changed.

    Raises:
        UsageError: it does not import, or another module has the name of a file beside it.
    """
    files = {"": path, **neighbours(path)}
    return _load(path, tuple((name, p, p.stat().st_mtime_ns, p.stat().st_size) for name, p in files.items()))


Stamp = tuple[tuple[str, Path, int, int], ...]  # a file and what it imports from beside itself: name, path, time, size


@cache
def _load(path: Path, stamp: Stamp) -> types.ModuleType:
    name = f"{FILE}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    with _beside(path, {name: file for name, file, *_ in stamp if name}):
        try:  # compiled from the text: cached bytecode may be older than an edit within the same second
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            raise UsageError(f"{path} does not import: {error!r}") from error
    return module


@contextmanager
def _beside(plugin: Path, wanted: Mapping[str, Path]) -> Iterator[None]:
    """Let a plug-in import the files beside it, as they are now, and make sure that it gets those and no others."""
    for name, file in wanted.items():
        if _file_of(name) == file:
            del sys.modules[name]  # it may have been edited since
    if wanted and str(plugin.parent) not in sys.path:
        sys.path.append(str(plugin.parent))  # last: it must not hide a library from others
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
    for name, file in wanted.items():
        if (found := _file_of(name)) not in (None, file):
            raise UsageError(
                f"{plugin} imports {name!r}, which is {file} beside it, but another module of that name came first: "
                f"{found}. Give the file another name"
            )


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file else None
