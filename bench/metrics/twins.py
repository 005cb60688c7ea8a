"""Twins: how alike the two most alike windows of a panorama are, one of them perhaps mirrored. No network.

This project's PROPOSAL. Cloned and mirrored parts repeat everything, and no number of disjoint squares sees a mirror,
or a clone that does not lie on the squares' grid. Along the longer side, with the picture reduced by the whole factor
that leaves a short side of S >= 32 px,

    r(y, x)  = value - median over x of its row           a landscape is much the same along its horizon
    a . b    = sum over y, colours and 0 <= j < S of r(y, a + j) r(y, b + j)     windows of S columns from a and b
    mirrored = the same with r(y, b + S - 1 - j)
    likeness = 2 a . b / max(a . a + b . b, mean of a . a)          1 for equal windows that are not nearly empty
    twin     = -10 log10(1 - max likeness of windows that do not overlap), at most 40 dB

The logarithm tells copies from windows that are merely alike: half of what differs is 3 dB, a hundredth of it 20 dB.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.store.raster import Raster, strips
from bench.types import Value

SHORT = 32  # px
LEAST = 1e-4  # share of what differs that counts as none: 40 dB
NOTHING = 1e-9  # mean energy of a window below which rows are even


def reduced(rgb: np.ndarray | Raster) -> np.ndarray:
    """Means of blocks, (S, length, 3) float64 in [0, 1], the longer side across; S is 32 to 63, or all there is."""
    k = max(1, min(rgb.shape[:2]) // SHORT)
    rows = []
    for part in strips(rgb, k * SHORT):
        h, w = part.shape[0] // k, part.shape[1] // k
        rows.append(part[: h * k, : w * k].reshape(h, k, w, k, 3).mean((1, 3)) / 255)
    small = np.concatenate(rows)
    return small.transpose(1, 0, 2) if small.shape[0] > small.shape[1] else small


def likeness(small: np.ndarray, loop: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """How alike all windows are that begin at columns a and b: as they are, and with b mirrored.

    Args:
        small: (S, length, 3), of :func:`reduced`.
        loop: windows go round the edge.

    Returns:
        two (n, n) arrays; -inf where two windows overlap, and everywhere if all rows are even.
    """
    side, length = small.shape[:2]
    r = small - np.median(small, axis=1, keepdims=True)
    if loop:
        r = np.concatenate([r, r[:, : side - 1]], axis=1)
    columns = r.transpose(1, 0, 2).reshape(r.shape[1], -1)
    products = columns @ columns.T
    same, mirrored = _diagonals(products, side), _diagonals(products[:, ::-1], side)[:, ::-1]
    energy = np.diag(same)
    apart = abs(np.arange(len(same))[:, None] - np.arange(len(same)))
    if loop:
        apart = np.minimum(apart, length - apart)
    known = (apart >= side) & (energy.mean() > NOTHING)
    most = np.maximum(energy[:, None] + energy, max(energy.mean(), NOTHING))
    both = [np.where(known, 2 * x / most, -np.inf) for x in (same, mirrored)]
    return both[0], both[1]


def _diagonals(products: np.ndarray, side: int) -> np.ndarray:
    """Sums of ``side`` neighbours along every diagonal: (n, n) -> (n - side + 1, n - side + 1)."""
    total = np.zeros((products.shape[0] + 1, products.shape[1] + 1))
    for a, row in enumerate(products):
        total[a + 1, 1:] = total[a, :-1] + row
    return total[side:, side:] - total[:-side, :-side]


@metric(
    "twins", scope="image", view="whole", unit="dB", range=(-3.1, 40.0), values={"twin": "lower"},
    source="defined by this project (PROPOSAL): bench.metrics.twins",
)  # fmt: skip
def twins(sample: Sample) -> list[Value]:
    """How alike the two most alike windows are that do not overlap, one of them perhaps mirrored; 40 dB for a clone.

    Undefined where no two windows fit side by side, or all rows are even.
    """
    best = max(float(x.max()) for x in likeness(reduced(sample.pixels), sample.canvas.loop))
    return [Value("twin", number(float(-10 * np.log10(np.maximum(1 - best, LEAST)))) if np.isfinite(best) else None)]
