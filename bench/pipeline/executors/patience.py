"""How long pictures take: one before it counts as hanging, and all that are still to be made."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean

from bench.pipeline.plan import Job
from bench.store.records import Record

Kind = tuple[str, int, int]  # sampler, width, height

TIMES = 20  # the slowest picture of its kind
LEAST = 600.0  # seconds: a shared machine, a GPU that warms up
MEGAPIXEL = 3600.0  # seconds on top for each 2^20 pixels of a picture of whose kind there is none yet
LOADING = 3600.0  # seconds to start a worker and to load a network


def patience(timeout: float | None, images: Iterable[Record]) -> Callable[[Job], float]:
    """Seconds for each job: ``timeout``, or a forecast by the seconds of pictures that are here.

    Args:
        timeout: the same for all; None for the forecast.
        images: the store's image records. Of each sampler and canvas the slowest picture counts, ``TIMES`` over; where
            there is none the canvas's size does. Loading of networks is not counted.
    """
    if timeout is not None:
        return lambda job: timeout
    slowest: dict[Kind, float] = {}
    for record in images:
        kind, seconds = _taken(record)
        slowest[kind] = max(slowest.get(kind, 0.0), seconds)

    def limit(job: Job) -> float:
        canvas = job.recipe.canvas
        known = slowest.get(_kind(job))
        if known is None:
            return LEAST + MEGAPIXEL * canvas.width * canvas.height / 2**20
        return max(LEAST, TIMES * known)

    return limit


class Outlook:
    """How long the jobs of a run will take, each kind weighed by the seconds that its pictures took.

    Kinds of which there is no picture count as the mean of the others. Loading and whatever else a picture takes is
    in the ratio of the clock to the pictures' own seconds, in this run; so are several workers.

    Args:
        jobs: all of them.
        images: the store's image records, for the seconds of earlier pictures.
    """

    def __init__(self, jobs: Iterable[Job], images: Iterable[Record]) -> None:
        self._waiting = Counter(map(_kind, jobs))
        self._pictures: Counter[Kind] = Counter()
        self._seconds: dict[Kind, float] = defaultdict(float)
        for record in images:
            self._add(*_taken(record))
        self._began, self._drawn = time.monotonic(), 0.0

    def note(self, job: Job, record: Record) -> None:
        """A job is over."""
        self._waiting[_kind(job)] -= 1
        if record["kind"] == "image":
            seconds = _taken(record)[1]
            self._add(_kind(job), seconds)
            self._drawn += seconds

    @property
    def left(self) -> float | None:
        """Seconds; None where nothing was drawn yet."""
        if not self._drawn:
            return None
        means = {kind: self._seconds[kind] / n for kind, n in self._pictures.items()}
        usual = fmean(means.values())
        ratio = (time.monotonic() - self._began) / self._drawn
        return ratio * sum(n * means.get(kind, usual) for kind, n in self._waiting.items())

    def _add(self, kind: Kind, seconds: float) -> None:
        if kind in self._waiting:
            self._pictures[kind] += 1
            self._seconds[kind] += seconds


def _kind(job: Job) -> Kind:
    return job.sampler, job.recipe.canvas.width, job.recipe.canvas.height


def _taken(record: Record) -> tuple[Kind, float]:
    """A picture's kind and seconds."""
    seconds = [s for s in ((record.get("cost") or {}).get("seconds") or {}).values() if s is not None]
    canvas = record["recipe"].get("canvas") or {}
    return (str(record.get("sampler")), canvas.get("width", 0), canvas.get("height", 0)), sum(seconds)
