"""Plug-in files are imported in a child first: one that ends the process or hangs is refused, and ends nothing here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bench.errors import UsageError
from bench.pipeline.executors.children import Children, Lost
from bench.pipeline.executors.choose import chosen
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.patience import LEAST
from bench.registry import find

if TYPE_CHECKING:
    from bench.suites.suite import Suite


def try_plugins(suite: Suite, crew: Crew) -> None:
    """Try the plug-in files of a suite, unless its work is done in this process anyway.

    Raises:
        UsageError: one of them does not import, with its own error or the way in which it ended or hung.
    """
    spec = suite.spec
    refs = [("methods", m.ref) for m in spec.methods] + [("metrics", m.ref) for m in spec.metrics]
    refs += [("backbones", str(b)) for b in (spec.backbone, *(m.backbone for m in spec.methods)) if b]
    files = list(dict.fromkeys((kind, ref) for kind, ref in refs if ".py@" in ref))
    if files and chosen(crew, (ref for _, ref in files)) != "local":
        try_files(files)


def try_files(files: Iterable[tuple[str, str]]) -> None:
    """Import plug-ins, given as (kind, ``FILE.py@name``), in a child. Raises as :func:`try_plugins`."""
    with Children([_found]) as children:
        for (_, ref), answer in children.work(files, lambda _: LEAST):
            if isinstance(answer, Lost):
                raise UsageError(f"{ref.rpartition('@')[0]} does not import: it {answer.message}")


def _found(file: tuple[str, str]) -> None:
    find(*file)
