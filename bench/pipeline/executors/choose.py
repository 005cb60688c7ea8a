"""Executors by name. Another one is workers and a row here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from bench.errors import UsageError, near
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.local import local
from bench.pipeline.executors.processes import children, spread
from bench.pipeline.executors.protocol import Executor, Workers
from bench.pipeline.executors.ray import Hosts

WORKERS: dict[str, Callable[[Any, Crew], Workers]] = {"processes": children, "ray": Hosts}
EXECUTORS: dict[str, Executor] = {"local": local, **{name: partial(spread, w) for name, w in WORKERS.items()}}


def chosen(crew: Crew, refs: Iterable[str | None]) -> str:
    """The executor's name for work in which these references (of methods, backbones, metrics, extractors) take part.

    A plug-in file may end the process, hang or eat memory, so it is not let into this one.

    Raises:
        UsageError: an unknown executor, one that cannot run here, or workers asked of one that has none.
    """
    apart = (crew.workers, crew.timeout, crew.memory) != (None, None, None)
    able = os.name == "posix"
    if crew.executor is None:
        if crew.address is not None:
            return "ray"
        return "processes" if able and (apart or any(".py@" in str(ref) for ref in refs)) else "local"
    if crew.executor not in EXECUTORS:
        raise UsageError(f"unknown executor {crew.executor!r}; {near(crew.executor, EXECUTORS)}")
    if crew.executor == "local" and apart:
        raise UsageError(
            "--workers, --timeout and --memory are for --executor processes and ray; local works in this process"
        )
    if crew.executor != "ray" and crew.address is not None:
        raise UsageError(f"--address is a Ray cluster's, for --executor ray; got --executor {crew.executor}")
    if crew.executor != "local" and not able:
        raise UsageError(f"--executor {crew.executor} needs Linux or macOS; use --executor local")
    return crew.executor
