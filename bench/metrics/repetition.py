"""Repeat count: how often the most conspicuous things of a panorama occur in it. No prompt, no ground truth.

Defined by this project. A landscape is much the same along its horizon, so what a thing adds to it is its feature
minus the median of its row; a conspicuous thing is a local maximum of that difference; its family are the other
maxima that differ from their rows in the same way. With f(y, x) the patch tokens of the panorama:

    r(y, x) = f(y, x) - median over x of f(y, x)            along the longer side of the canvas
    peaks   = the 6 strongest local maxima of |r| per native square of canvas
    n_i     = peaks whose r has cosine >= 0.7 with that of peak i and half its length, 3/8 of a square apart
    value   = exp(sum_i w_i log n_i / sum_i w_i),  i over the 4 strongest peaks, w_i = |r_i|^2

1 means that nothing conspicuous occurs twice; k copies of one thing give about k. The constants were chosen on renders
of ScrollWorld and judged on others (docs/metrics.md has the answers); on real pictures the measure is unverified.
Tokens come from the last block before the final norm, of overlapping squares of the shorter side, a quarter apart,
averaged with weights that fall off towards each square's border.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bench.extractors import Extractor
from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.store.raster import Raster, strips
from bench.types import Value
from bench.views import Cuts

PER_SQUARE, STRONGEST = 6, 4  # peaks looked at per native square; of these, the ones whose families count
ALIKE, AS_STRONG, APART = 0.7, 0.5, 0.375
BATCH = 32  # squares that go through the network at once


def token_map(rgb: np.ndarray | Raster, network: Extractor, loop: bool = False) -> np.ndarray:
    """Patch tokens of a whole picture.

    Args:
        rgb: uint8 (h, w, 3), an array or on disk.
        network: extractor of role dino; it sees squares of the shorter side.
        loop: the right edge meets the left, so squares wrap round.

    Returns:
        float64 (rows, columns, d): g tokens along the shorter side, as many per length along the longer.
    """
    tall = rgb.shape[0] > rgb.shape[1]
    side, length = sorted(rgb.shape[:2])

    def square(x: int) -> np.ndarray:
        there = rgb[x : x + side, :] if tall else rgb[:, x : x + side]
        if x + side > length:  # round the edge of a loop
            more = slice(0, x + side - length)
            return np.concatenate([there, rgb[more, :] if tall else rgb[:, more]], axis=0 if tall else 1)
        return there

    step = max(1, side // 4)
    starts = list(range(0, length if loop else length - side + 1, step))
    if not loop and starts[-1] != length - side:
        starts.append(length - side)
    total, weight = np.zeros((0, 0, 0)), np.zeros((0, 0, 0))
    for a in range(0, len(starts), BATCH):
        tokens = network.patches(Cuts(square, starts[a : a + BATCH]))
        tokens = tokens.transpose(0, 2, 1, 3) if tall else tokens
        g = tokens.shape[1]
        if not total.size:
            columns = max(g, round(length * g / side))
            total, weight = np.zeros((g, columns, tokens.shape[-1])), np.zeros((1, columns, 1))
            fall = (1 - 0.9 * abs((np.arange(g) + 0.5) / g * 2 - 1))[None, :, None]
        for x, seen in zip(starts[a : a + BATCH], tokens):
            at = (min(round(x * g / side), columns - (0 if loop else g)) + np.arange(g)) % columns
            total[:, at] += seen * fall
            weight[:, at] += fall
    mean: np.ndarray = total / weight
    return mean.transpose(1, 0, 2) if tall else mean


def repeat_count(tokens: np.ndarray, loop: bool = False) -> float | None:
    """The measure on a token map (rows, columns, d); None where the picture shows no difference anywhere."""
    f = np.asarray(tokens, dtype=np.float64)
    f = f.transpose(1, 0, 2) if f.shape[0] > f.shape[1] else f
    side, length = f.shape[:2]
    r = f - np.median(f, axis=1, keepdims=True)
    strength = np.linalg.norm(r, axis=-1)
    if not np.isfinite(strength).all() or strength.max() <= 1e-6 * max(1.0, float(np.linalg.norm(f, axis=-1).max())):
        return None
    top = ndimage.maximum_filter(strength, size=3, mode=("nearest", "wrap" if loop else "nearest"))
    ys, xs = np.nonzero((strength == top) & (strength > 0))
    order = np.argsort(-strength[ys, xs], kind="stable")[: max(STRONGEST, PER_SQUARE * length // side)]
    ys, xs, strong = ys[order], xs[order], strength[ys[order], xs[order]]
    unit = r[ys, xs] / strong[:, None]
    alike = unit @ unit.T
    sizes = [_family(alike[i], strong >= AS_STRONG * strong[i], xs, APART * side, length if loop else None)
             for i in range(min(STRONGEST, len(xs)))]  # fmt: skip
    w = strong[: len(sizes)] ** 2
    return float(np.exp((w * np.log(sizes)).sum() / w.sum()))


def _family(alike: np.ndarray, allowed: np.ndarray, xs: np.ndarray, apart: float, ring: int | None) -> int:
    """How many peaks are alike and apart from each other, the most alike chosen first (the peak itself is)."""
    chosen: list[int] = []
    for j in np.argsort(-alike, kind="stable"):
        if alike[j] < ALIKE or not allowed[j]:
            continue
        gaps = abs(xs[j] - xs[chosen])
        if ring is not None:
            gaps = np.minimum(gaps, ring - gaps)
        if (gaps >= apart).all():
            chosen.append(int(j))
    return len(chosen)


@metric(
    "repeat-count", scope="image", view="whole", extractor="dino", unit="occurrences", range=(1.0, None),
    values={"repeat-count": "lower"}, source="defined by this project: bench.metrics.repetition",
)  # fmt: skip
def repetition(sample: Sample) -> list[Value]:
    """How often the most conspicuous things of the panorama occur; undefined where nothing stands out.

    A picture of one colour has no value: all that differs in its tokens is where they were cut.
    """
    ends = [(part.min(), part.max()) for part in strips(sample.pixels)]
    if min(low for low, _ in ends) == max(high for _, high in ends):
        return [Value("repeat-count", None)]
    tokens = token_map(sample.pixels, sample.network(), sample.canvas.loop)
    return [Value("repeat-count", number(repeat_count(tokens, sample.canvas.loop)))]
