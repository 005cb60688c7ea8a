"""Coherence inside one panorama: Intra-LPIPS (SyncDiffusion) and the adjacent-crop measures of PanoLlama.

Intra-LPIPS has the kernel of GSD-LPIPS and the opposite direction: a panorama that repeats one crop is perfectly
coherent, a patchwork of unrelated scenes perfectly diverse. They are two metrics on purpose and are never averaged.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.gsd import number, steps
from bench.registry import metric
from bench.sample import Sample
from bench.types import Value

SSIM_MIN = 11  # px, the side of SSIM's Gaussian window


def mean_of_pairs(matrix: np.ndarray, chosen: np.ndarray | None = None) -> float | None:
    """Mean over the unordered (``chosen``) pairs of a symmetric (n, n) matrix; None without pairs."""
    upper = np.triu(np.ones(matrix.shape, dtype=bool), 1)
    pairs = matrix[upper if chosen is None else upper & chosen]
    return number(float(pairs.astype(np.float64).mean())) if len(pairs) else None


def seam_tv(rgb: np.ndarray, period: int, loop: bool = False) -> tuple[float, float] | None:
    """Mean absolute step between neighbouring pixels at the borders of tiles, and everywhere else.

    Args:
        rgb: uint8 (h, w, 3); steps are taken along its longer side, on values scaled to [0, 1].
        period: pixels between borders; borders are at its multiples.
        loop: the step from the last column to the first is a border too.

    Returns:
        (at borders, elsewhere), or None where there is no border or nothing else.
    """
    x = rgb.astype(np.float64) / 255
    if x.shape[0] > x.shape[1]:
        x = x.swapaxes(0, 1)
    step = np.abs(np.diff(x, axis=1)).mean(axis=(0, 2))  # step[i]: from column i to column i + 1
    border = np.arange(1, x.shape[1]) % period == 0
    if loop:
        step, border = np.append(step, np.abs(x[:, 0] - x[:, -1]).mean()), np.append(border, True)
    if not border.any() or border.all():
        return None
    return float(step[border].mean()), float(step[~border].mean())


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004) of picture pairs: uint8 (n, h, w, 3) each -> (n,), mean over RGB.

    Gaussian window of 11 pixels, deviation 1.5, data range 1; sides must be at least 11 pixels.
    """
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(np.ascontiguousarray(p)).permute(0, 3, 1, 2).double() / 255 for p in (first, second))
    found: np.ndarray = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(-1).numpy()
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
    boxes = sample.boxes()
    across, down, _ = steps(boxes, sample.canvas)
    near = across + down == 1
    crops = sample.crops()
    first, second = np.nonzero(np.triu(near))
    likeness = None
    if len(first) and min(crops[0].shape[:2]) >= SSIM_MIN:
        likeness = float(ssim(np.stack([crops[i] for i in first]), np.stack([crops[j] for j in second])).mean())
    side = period or min(boxes[0].w, boxes[0].h)
    tv = seam_tv(sample.rgb, side, sample.canvas.loop) if len(boxes) > 1 else None
    return [
        Value("adjacent-lpips", mean_of_pairs(sample.distances(), near)),
        Value("adjacent-ssim", number(likeness)),
        Value("adjacent-tv", tv[0] if tv else None),
        Value("adjacent-tv-excess", tv[0] - tv[1] if tv else None),
    ]
