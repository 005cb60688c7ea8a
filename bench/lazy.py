"""Rooms of a package that open when they are entered, so that a face costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def rooms(package: str) -> Callable[[str], Any]:
    """A package's ``__getattr__``: its modules, each imported when it is first asked for.

    Raises ``AttributeError`` where the package has no such module.
    """

    def enter(name: str) -> Any:
        if name.startswith("__") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return enter


def names(package: str, where: Mapping[str, str]) -> Callable[[str], Any]:
    """A front door's ``__getattr__``: public names from the modules of ``where``, else the rooms of the package."""
    enter = rooms(package)

    def find(name: str) -> Any:
        return getattr(import_module(where[name]), name) if name in where else enter(name)

    return find
