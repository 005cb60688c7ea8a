"""Sharpness: what blur takes away, and what measures of smoothness (TV, SSIM of neighbours) mistake for coherence."""

from __future__ import annotations

import numpy as np

from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def laplacian_deviation(rgb: np.ndarray) -> float:
    """Standard deviation of the Laplacian (4 neighbours, edges repeated) of luminance, uint8 (h, w, 3) as [0, 1]."""
    from scipy.ndimage import laplace

    luminance = rgb @ np.asarray(LUMA, dtype=np.float32) / np.float32(255)
    return float(laplace(luminance, mode="nearest").std(dtype=np.float64))


@metric(
    "sharpness", scope="image", view="tiles", unit="", range=(0.0, None), values={"sharpness": "higher"},
    source="Pech-Pacheco et al., ICPR 2000 (variance of the Laplacian), here its square root on values in [0, 1]",
)  # fmt: skip
def sharpness(sample: Sample) -> list[Value]:
    """Standard deviation of the Laplacian, mean over the crops, with that of every crop; noise raises it too.

    It compares pictures of like content and size, such as two samplers on the same prompts; alone it says little.
    """
    along = [laplacian_deviation(crop) for crop in sample.crops()]
    return [
        Value("sharpness", number(float(np.mean(along)))),
        *(Value("sharpness", number(s), i) for i, s in enumerate(along)),
    ]
