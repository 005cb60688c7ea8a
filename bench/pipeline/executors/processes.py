"""Jobs in processes of their own, one for each device: what ends, hangs or fills one is a record, and work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.pipeline.executors.children import Children, Lost
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.protocol import Do, Workers, groups
from bench.pipeline.plan import Job
from bench.store.records import Record


def children(do: Any, crew: Crew) -> Children:
    """A child process of this one for each device."""
    return Children([do.on(place) for place in crew.places(do.device)], crew.memory)


def spread(
    workers: Callable[[Do, Crew], Workers], jobs: Iterable[Job], do: Do, crew: Crew, limit: Callable[[Job], float]
) -> Iterator[tuple[Job, Record]]:
    """Groups of jobs, each to the worker that is free first. Pictures that were lost together are made one by one."""
    alone: list[Job] = []
    with workers(do, crew) as all_:
        for work in (groups(jobs), ((job,) for job in alone)):
            for group, answer in all_.work(work, lambda group: sum(map(limit, group))):
                if not isinstance(answer, Lost):
                    yield from zip(group, answer, strict=True)
                elif len(group) == 1:
                    yield group[0], group[0].failure(answer.reason, answer.message, answer.final)
                else:
                    alone += group
