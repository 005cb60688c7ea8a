"""PanoLlama's coherence columns (ICCV 2025, Table 1: LPIPS, SSIM, TV) under ids of their own.

The paper gives no formulas and no evaluation code. These are this project's proposal, chosen so that the published
ranges fit; what neighbours and seams are is :mod:`bench.metrics.coherence`, which ``adjacent`` reads too:

    pl-lpips-adj   mean LPIPS of squares side by side (all pairs, intra-lpips, would fit the published 0.4 to 0.7 too)
    pl-ssim-adj    mean SSIM of the same pairs, data range 1, Gaussian window of 11 px, mean over RGB
    pl-tv          (mean |dx| + mean |dy|) / 2 over the whole panorama, values in [0, 1]
    pl-tv-seam     mean |dx| at seams minus the mean at all other columns

TV and SSIM reward blur: read them beside a measure of sharpness.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.coherence import border_tv, column_steps, neighbours, row_steps
from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.store.raster import Raster
from bench.types import Value


def panorama_tv(rgb: np.ndarray | Raster, loop: bool = False) -> float | None:
    """(mean |dx| + mean |dy|) / 2 of uint8 (h, w, 3), values scaled to [0, 1]; None for a single row or column.

    On a ``loop`` the step from the last column to the first is one of the dx.
    """
    if min(rgb.shape[:2]) < 2:
        return None
    across, down = column_steps(rgb), row_steps(rgb)
    return float((across[: None if loop else -1].mean() + down[:-1].mean()) / 2)


@metric(
    "panollama", scope="image", view="tiles", extractor="lpips", unit="", range=(None, None),
    values={"pl-lpips-adj": "lower", "pl-ssim-adj": "higher", "pl-tv": "lower", "pl-tv-seam": "lower"},
    source="PanoLlama, ICCV 2025, Table 1; formulas proposed here, the paper publishes none",
)  # fmt: skip
def panollama(sample: Sample, *, period: int = 0) -> list[Value]:
    """PanoLlama's LPIPS, SSIM and TV as this project reads them (bench.metrics.panollama has the formulas).

    ``period`` is the distance of seams in pixels where a method's own are known; 0 takes the side of a tile.
    """
    distance, likeness = neighbours(sample)
    tv = border_tv(sample, period)
    return [
        Value("pl-lpips-adj", distance),
        Value("pl-ssim-adj", likeness),
        Value("pl-tv", number(panorama_tv(sample.pixels, sample.canvas.loop))),
        Value("pl-tv-seam", tv[0] - tv[1] if tv else None),
    ]
