"""Coherence inside one panorama: Intra-LPIPS (SyncDiffusion) and the adjacent-crop measures of PanoLlama.

Intra-LPIPS has the kernel of GSD-LPIPS and the opposite direction: a panorama that repeats one crop is perfectly
coherent, a patchwork of unrelated scenes perfectly diverse. They are two metrics on purpose and are never averaged.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.gsd import steps
from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.store.raster import Raster, strips
from bench.types import Value

SSIM_MIN = 11  # px, the side of SSIM's Gaussian window
STRIPE = 256  # rows of a crop that are worked on at once
PIXELS = 2**20  # of a whole picture, likewise


def mean_of_pairs(matrix: np.ndarray, chosen: np.ndarray | None = None) -> float | None:
    """Mean over the unordered (``chosen``) pairs of a symmetric (n, n) matrix; None without pairs."""
    upper = np.triu(np.ones(matrix.shape, dtype=bool), 1)
    pairs = matrix[upper if chosen is None else upper & chosen]
    return number(float(pairs.astype(np.float64).mean())) if len(pairs) else None


def seam_tv(rgb: np.ndarray | Raster, period: int, loop: bool = False) -> tuple[float, float] | None:
    """Mean absolute step between neighbouring pixels at the borders of tiles, and everywhere else.

    Args:
        rgb: uint8 (h, w, 3); steps are taken along its longer side, on values scaled to [0, 1].
        period: pixels between borders; borders are at its multiples.
        loop: the step from the last column to the first is a border too.

    Returns:
        (at borders, elsewhere), or None where there is no border or nothing else.
    """
    step = row_steps(rgb) if rgb.shape[0] > rgb.shape[1] else column_steps(rgb)
    border = np.arange(1, len(step) + 1) % period == 0
    if loop:
        border[-1] = True
    else:
        step, border = step[:-1], border[:-1]
    if not border.any() or border.all():
        return None
    return float(step[border].mean()), float(step[~border].mean())


def column_steps(rgb: np.ndarray | Raster) -> np.ndarray:
    """Mean absolute step from each column to the next of uint8 (h, w, 3), values scaled to [0, 1]: (w,) float64.

    The last one goes from the last column round to the first. Sums are of integers, so they are exact.
    """
    total = np.zeros(rgb.shape[1], dtype=np.int64)
    for part in strips(rgb, max(1, PIXELS // rgb.shape[1])):
        x = part.astype(np.int16)
        total[:-1] += np.abs(np.diff(x, axis=1)).sum(axis=(0, 2), dtype=np.int64)
        total[-1] += np.abs(x[:, 0] - x[:, -1]).sum(dtype=np.int64)
    mean: np.ndarray = total / (rgb.shape[0] * 3 * 255)
    return mean


def row_steps(rgb: np.ndarray | Raster) -> np.ndarray:
    """:func:`column_steps` from each row to the next: (h,) float64."""
    total = np.zeros(rgb.shape[0], dtype=np.int64)
    above, y = rgb[len(rgb) - 1 :, :].astype(np.int16), -1  # round from the last row to the first
    for part in strips(rgb, max(1, PIXELS // rgb.shape[1])):
        x = np.concatenate([above, part.astype(np.int16)])
        total[np.arange(y, y + len(part))] += np.abs(np.diff(x, axis=0)).sum(axis=(1, 2), dtype=np.int64)
        above, y = x[-1:], y + len(part)
    mean: np.ndarray = total / (rgb.shape[1] * 3 * 255)
    return mean


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004) of picture pairs: uint8 (n, h, w, 3) each -> (n,), mean over RGB.

    Gaussian window of 11 pixels, deviation 1.5, data range 1, borders reflected, as torchmetrics computes it; sides
    must be at least 11 pixels.
    """

    def pair(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for top in range(0, len(a), STRIPE):  # in stripes with the rows that their windows reach into
            above = min(top, SSIM_MIN // 2)
            rows = slice(top - above, top + STRIPE + SSIM_MIN // 2)
            total += float(_likeness(a[rows] / 255, b[rows] / 255)[above : above + STRIPE].sum())
        return total / a.size

    return np.array([pair(a, b) for a, b in zip(first, second)])


def _likeness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM around every pixel of two pictures (h, w, 3) in [0, 1]."""
    from scipy.ndimage import gaussian_filter

    def around(p: np.ndarray) -> np.ndarray:
        mean: np.ndarray = gaussian_filter(p, sigma=(1.5, 1.5, 0), truncate=3.5, mode="mirror")
        return mean

    mx, my = around(x), around(y)
    vx, vy = (np.maximum(around(p * p) - m * m, 0) for p, m in ((x, mx), (y, my)))
    both = around(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    found: np.ndarray = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return found


@metric(
    "intra-lpips", scope="image", view="tiles", extractor="lpips", unit="LPIPS", range=(0.0, None),
    values={"intra-lpips": "lower"}, source="SyncDiffusion, NeurIPS 2023, section 5: all pairs of disjoint squares",
)  # fmt: skip
def intra_lpips(sample: Sample) -> list[Value]:
    """Mean LPIPS over all pairs of crops of one panorama, read as lack of coherence."""
    return [Value("intra-lpips", mean_of_pairs(sample.distances()))]


@metric(
    "adjacent", scope="image", view="tiles", extractor="lpips", unit="", range=(None, None),
    values={"adjacent-lpips": "lower", "adjacent-ssim": "higher", "adjacent-tv": "lower", "adjacent-tv-excess": "zero"},
    source="PanoLlama, ICCV 2025 (LPIPS, SSIM, TV); its formulas are not published: crops and borders as documented",
)  # fmt: skip
def adjacent(sample: Sample, *, period: int = 0) -> list[Value]:
    """How neighbouring crops of one panorama hang together: LPIPS, SSIM, and the step at their borders.

    ``adjacent-tv`` is the mean absolute step (values in [0, 1]) across the borders of tiles, ``adjacent-tv-excess``
    what that is above the step elsewhere: 0 without seams, negative where borders are smoothed over. ``period`` sets
    the distance of the borders in pixels where a method's own seams are known; 0 takes the side of a tile.
    """
    distance, likeness = neighbours(sample)
    tv = border_tv(sample, period)
    return [
        Value("adjacent-lpips", distance),
        Value("adjacent-ssim", likeness),
        Value("adjacent-tv", tv[0] if tv else None),
        Value("adjacent-tv-excess", tv[0] - tv[1] if tv else None),
    ]


def neighbours(sample: Sample) -> tuple[float | None, float | None]:
    """Mean LPIPS and mean SSIM over the pairs of crops side by side; None without pairs, or too small for SSIM."""
    across, down, _ = steps(sample.boxes(), sample.canvas)
    near = across + down == 1
    crops = sample.crops()
    first, second = np.nonzero(np.triu(near))
    likeness = None
    if len(first) and min(crops[0].shape[:2]) >= SSIM_MIN:
        likeness = float(np.mean([ssim(crops[int(i)][None], crops[int(j)][None]) for i, j in zip(first, second)]))
    return mean_of_pairs(sample.distances(), near), number(likeness)


def border_tv(sample: Sample, period: int = 0) -> tuple[float, float] | None:
    """:func:`seam_tv` of a picture at every ``period`` pixels (0: the side of its crops); None with a single crop."""
    boxes = sample.boxes()
    side = period or min(boxes[0].w, boxes[0].h)
    return seam_tv(sample.pixels, side, sample.canvas.loop) if len(boxes) > 1 else None
