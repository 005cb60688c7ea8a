"""Jobs in child processes, one for each device: what ends, hangs or fills a child is one record, and work goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bench.pipeline.executors.children import Children, Lost
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.protocol import Do, groups
from bench.pipeline.plan import Job
from bench.store.records import Record


def processes(jobs: Iterable[Job], do: Do, crew: Crew, limit: Callable[[Job], float]) -> Iterator[tuple[Job, Record]]:
    """Groups of jobs, each to the worker that is free first. Pictures that were lost together are made one by one."""
    alone: list[Job] = []
    with Children([do.on(place) for place in crew.places(do.device)], crew.memory) as children:
        for work in (groups(jobs), ((job,) for job in alone)):
            for group, answer in children.work(work, lambda group: sum(map(limit, group))):
                if not isinstance(answer, Lost):
                    yield from zip(group, answer, strict=True)
                elif len(group) == 1:
                    yield group[0], group[0].failure(answer.reason, answer.message, answer.final)
                else:
                    alone += group
