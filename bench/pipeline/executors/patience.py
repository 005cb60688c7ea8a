"""How long a picture may take before it counts as hanging."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.pipeline.plan import Job
from bench.store.records import Record

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
    slowest: dict[tuple[str, int, int], float] = {}
    for record in images:
        seconds = [s for s in ((record.get("cost") or {}).get("seconds") or {}).values() if s is not None]
        canvas = record["recipe"].get("canvas") or {}
        kind = (str(record.get("sampler")), canvas.get("width", 0), canvas.get("height", 0))
        slowest[kind] = max(slowest.get(kind, 0.0), sum(seconds))

    def limit(job: Job) -> float:
        canvas = job.recipe.canvas
        known = slowest.get((job.sampler, canvas.width, canvas.height))
        if known is None:
            return LEAST + MEGAPIXEL * canvas.width * canvas.height / 2**20
        return max(LEAST, TIMES * known)

    return limit
