"""What an executor is: a function from jobs to records, and what it may ask of the thing that does them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from bench.pipeline.executors.crew import Crew
from bench.pipeline.plan import Job
from bench.store.records import Record


class Do(Protocol):
    """What does jobs: :class:`bench.pipeline.maker.Maker`. A pickled copy does them in another process."""

    @property
    def device(self) -> str:
        """Where its networks run."""
        ...

    def on(self, device: str) -> Do:
        """The same for another device."""
        ...

    def ready(self, jobs: Sequence[Job]) -> None:
        """Load what jobs need; what goes wrong is told when they are done."""
        ...

    def __call__(self, jobs: Sequence[Job]) -> list[Record]:
        """Pictures of one of :func:`groups`."""
        ...


class Workers(Protocol):
    """Processes that do items, and may be lost while they do: children of this one, or actors of a cluster."""

    def __enter__(self) -> Workers: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def work(
        self, items: Iterable[Any], limit: Callable[[Any], float], most: int | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Each item with its answer, in the order of the answers; ``most``: by so many at a time."""
        ...

    def all(self, item: Any, limit: float) -> None:
        """The item is done by every worker that has begun to work."""
        ...


class Executor(Protocol):
    """Does jobs and says what became of each: the record to write. ``limit`` is the seconds that a job may take."""

    def __call__(
        self, jobs: Iterable[Job], do: Do, crew: Crew, limit: Callable[[Job], float]
    ) -> Iterator[tuple[Job, Record]]: ...


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
