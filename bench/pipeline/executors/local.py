"""Jobs in this process, one group after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.protocol import Do, groups
from bench.pipeline.plan import Job
from bench.store.records import Record


def local(jobs: Iterable[Job], do: Do, crew: Crew, limit: Callable[[Job], float]) -> Iterator[tuple[Job, Record]]:
    """One group after the other, for as long as it takes: what ends or holds this process holds everything."""
    for group in groups(jobs):
        yield from zip(group, do(group), strict=True)
