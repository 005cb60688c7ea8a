"""Executors by name. Another one is a function and a row here."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bench.errors import UsageError, near
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.local import local
from bench.pipeline.executors.processes import processes
from bench.pipeline.executors.protocol import Executor

EXECUTORS: dict[str, Executor] = {"local": local, "processes": processes}


def chosen(crew: Crew, refs: Iterable[str | None]) -> str:
    """The executor's name for work in which these references (of methods, backbones, metrics, extractors) take part.

    A plug-in file may end the process, hang or eat memory, so it is not let into this one.

    Raises:
        UsageError: an unknown executor, one that cannot run here, or workers asked of one that has none.
    """
    apart = (crew.workers, crew.timeout, crew.memory) != (None, None, None)
    able = os.name == "posix"
    if crew.executor is None:
        return "processes" if able and (apart or any(".py@" in str(ref) for ref in refs)) else "local"
    if crew.executor not in EXECUTORS:
        raise UsageError(f"unknown executor {crew.executor!r}; {near(crew.executor, EXECUTORS)}")
    if crew.executor == "local" and apart:
        raise UsageError("--workers, --timeout and --memory are for --executor processes; local works in this process")
    if crew.executor == "processes" and not able:
        raise UsageError("--executor processes needs Linux or macOS; use --executor local")
    return crew.executor
