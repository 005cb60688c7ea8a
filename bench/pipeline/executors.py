"""Executors: how jobs reach the function that does them. A name chosen from a dict is the whole interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from bench.pipeline.plan import Job
from bench.store.records import Record


class Do(Protocol):
    """What does jobs: :class:`bench.pipeline.maker.Maker`."""

    def __call__(self, job: Job) -> Record:
        """One picture."""
        ...

    def together(self, jobs: Sequence[Job]) -> list[Record]:
        """Pictures of one of :func:`groups`."""
        ...


Executor = Callable[[Iterable[Job], Do], Iterator[tuple[Job, Record]]]


def groups(jobs: Iterable[Job]) -> Iterator[tuple[Job, ...]]:
    """Jobs in their order, those that follow each other together where a method makes several pictures at once.

    They share method, backbone, knobs and canvas; a group is at most the backbone's option ``batch``. No job is asked
    for before it is its turn, but for the one that shows that a group is at its end.
    """
    group: list[Job] = []
    for job in jobs:
        if group and (job.use, job.recipe.canvas) != (group[0].use, group[0].recipe.canvas):
            yield tuple(group)
            group = []
        group.append(job)
        if len(group) >= (job.use.backbone_options.get("batch", 1) if job.use.method.together else 1):
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)


def local(jobs: Iterable[Job], do: Do) -> Iterator[tuple[Job, Record]]:
    """One group after the other, in this process."""
    for group in groups(jobs):
        yield from zip(group, do.together(group), strict=True)


EXECUTORS: dict[str, Executor] = {"local": local}
