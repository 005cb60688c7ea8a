"""GSD, Global Structural Diversity: how alike distant parts of one panorama are (ScrollScape).

The published definition leaves crops, pairs and networks open. Here the crops are the view's (disjoint squares of
the short side by default), a pair's likeness is the cosine of their features (GSD-DINO, lower is better) or their
LPIPS (GSD-LPIPS, higher is better), and a panorama's number is the plain mean over pairs:

    gsd-*           all unordered pairs
    gsd-*-distant   pairs at least half the panorama apart (half way round, on a loop)
    gsd-*-worst     the most alike of the distant pairs: one clone is enough to spoil it
    gsd-*-lag       the mean at each distance, in tiles; index is the distance

Incoherence games GSD (unrelated squares maximise it), so it is read beside ``intra-lpips`` and a prompt metric.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.numbers import cosine, number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Canvas, Value
from bench.views import Box

Summary = dict[str, float | dict[int, float]]
SOURCE = "ScrollScape (GSD-LPIPS, GSD-DINOv2); crops, pairs and networks as documented in bench.metrics.gsd"


def steps(boxes: tuple[Box, ...], canvas: Canvas) -> tuple[np.ndarray, np.ndarray, int]:
    """Distances between crops, counted in crops.

    Returns:
        columns apart (n, n), rows apart (n, n), both integers and the first one circular on a loop; and the
        distance from which a pair counts as distant: half the crops along the longer way, rounded up (on a loop
        down, because nothing is farther than half way round).
    """
    xs, ys = sorted({b.x for b in boxes}), sorted({b.y for b in boxes})
    column = np.array([xs.index(b.x) for b in boxes])
    row = np.array([ys.index(b.y) for b in boxes])
    across, down = abs(column[:, None] - column), abs(row[:, None] - row)
    if canvas.loop:
        across = np.minimum(across, len(xs) - across)
    longest = max(len(xs), len(ys))
    circular = canvas.loop and len(xs) == longest
    return across, down, max(1, longest // 2 if circular else (longest + 1) // 2)


def diversity(matrix: np.ndarray, boxes: tuple[Box, ...], canvas: Canvas, *, worst: str) -> Summary:
    """Summaries of a symmetric (n, n) matrix of likenesses or distances between the crops of one picture.

    Args:
        matrix: float (n, n).
        boxes: where the n crops lie.
        canvas: the picture's canvas.
        worst: ``"max"`` for likenesses, ``"min"`` for distances.

    Returns:
        ``all``, ``distant``, ``worst`` and ``lag`` (by distance); empty with fewer than two crops. What involves
        an undefined pair is NaN.
    """
    n = len(matrix)
    if n < 2:
        return {}
    across, down, far = steps(boxes, canvas)
    first, second = np.triu_indices(n, 1)
    apart, pairs = np.maximum(across, down)[first, second], np.asarray(matrix, np.float64)[first, second]
    distant = pairs[apart >= far]
    return {
        "all": float(pairs.mean()),
        "distant": float(distant.mean()),
        "worst": float(distant.max() if worst == "max" else distant.min()),
        "lag": {int(lag): float(pairs[apart == lag].mean()) for lag in np.unique(apart)},
    }


def _values(name: str, matrix: np.ndarray, sample: Sample, worst: str) -> list[Value]:
    found = diversity(matrix, sample.boxes(), sample.canvas, worst=worst)
    lag = found.pop("lag", {})
    assert isinstance(lag, dict)
    whole = {name: found.get("all"), f"{name}-distant": found.get("distant"), f"{name}-worst": found.get("worst")}
    return [
        *(Value(key, number(v)) for key, v in whole.items()),
        *(Value(f"{name}-lag", number(v), i) for i, v in lag.items()),
    ]


@metric(
    "gsd-dino", scope="image", view="tiles", extractor="dino", unit="cosine", range=(-1.0, 1.0), source=SOURCE,
    values={"gsd-dino": "lower", "gsd-dino-distant": "lower", "gsd-dino-worst": "lower", "gsd-dino-lag": "none"},
)  # fmt: skip
def gsd_dino(sample: Sample) -> list[Value]:
    """Mean cosine similarity between the parts of one panorama: semantic repetition."""
    return _values("gsd-dino", cosine(sample.features()), sample, "max")


@metric(
    "gsd-lpips", scope="image", view="tiles", extractor="lpips", unit="LPIPS", range=(0.0, None), source=SOURCE,
    values={"gsd-lpips": "higher", "gsd-lpips-distant": "higher", "gsd-lpips-worst": "higher", "gsd-lpips-lag": "none"},
)  # fmt: skip
def gsd_lpips(sample: Sample) -> list[Value]:
    """Mean LPIPS between the parts of one panorama, read as diversity."""
    return _values("gsd-lpips", sample.distances(), sample, "min")
