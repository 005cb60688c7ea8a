"""Executors: how jobs reach the function that does them. A name chosen from a dict is the whole interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
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

    They share method, backbone, knobs and canvas; a group is at most the backbone's option ``batch``.
    """
    for (use, _), alike in groupby(jobs, lambda job: (job.use, job.recipe.canvas)):
        several = max(1, use.backbone_options.get("batch", 1)) if use.method.together else 1
        those = tuple(alike)
        yield from (those[i : i + several] for i in range(0, len(those), several))


def local(jobs: Iterable[Job], do: Do) -> Iterator[tuple[Job, Record]]:
    """One group after the other, in this process."""
    for group in groups(jobs):
        yield from zip(group, do.together(group), strict=True)


EXECUTORS: dict[str, Executor] = {"local": local}
