"""Executors: how jobs reach the function that does them. A name chosen from a dict is the whole interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bench.pipeline.plan import Job
from bench.store.records import Record

Do = Callable[[Job], Record]
Executor = Callable[[Iterable[Job], Do], Iterator[tuple[Job, Record]]]


def local(jobs: Iterable[Job], do: Do) -> Iterator[tuple[Job, Record]]:
    """One after the other, in this process."""
    for job in jobs:
        yield job, do(job)


EXECUTORS: dict[str, Executor] = {"local": local}
