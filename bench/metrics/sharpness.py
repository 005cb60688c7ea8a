"""Sharpness: what blur takes away, and what measures of smoothness (TV, SSIM of neighbours) mistake for coherence.

Noise raises it. So it is read beside ``grain``, which unfinished denoising raises and blur lowers.
"""

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
    "sharpness", scope="image", view="tiles", unit="", range=(0.0, None),
    values={"sharpness": "higher", "sharpness-worst": "higher"},
    source="Pech-Pacheco et al., ICPR 2000 (variance of the Laplacian), here its square root on values in [0, 1]",
)  # fmt: skip
def sharpness(sample: Sample) -> list[Value]:
    """Standard deviation of the Laplacian, mean over the crops and of the least sharp one, with that of every crop.

    It compares pictures of like content and size, such as two samplers on the same prompts; alone it says little.
    """
    along = [laplacian_deviation(crop) for crop in sample.crops()]
    return [
        Value("sharpness", number(float(np.mean(along)))),
        Value("sharpness-worst", number(min(along))),
        *(Value("sharpness", number(s), i) for i, s in enumerate(along)),
    ]


def grain_deviation(rgb: np.ndarray) -> float:
    """Deviation of the grain of luminance, uint8 (h, w, 3) as [0, 1]; 0 for sides below 3 px.

    sqrt(pi / 2) / 6 times the mean of |[1 -2 1; -2 4 -2; 1 -2 1] * luminance| inside the borders: the filter leaves
    nothing of flat colours, slopes and straight edges along an axis, and white noise has deviation 6 after it.
    """
    luminance = rgb @ np.asarray(LUMA, dtype=np.float32) / np.float32(255)
    if min(luminance.shape) < 3:
        return 0.0
    twice = np.diff(np.diff(luminance, 2, axis=0), 2, axis=1)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(twice).mean(dtype=np.float64))


@metric(
    "grain", scope="image", view="tiles", unit="", range=(0.0, None), values={"grain": "lower", "grain-worst": "lower"},
    source="Immerkaer, Computer Vision and Image Understanding 1996 (fast noise variance estimation)",
)  # fmt: skip
def grain(sample: Sample) -> list[Value]:
    """Deviation of what is left of fine grain: the mean over the crops, the grainiest one, and every crop.

    Fine drawing counts as grain, so it compares pictures of like content, as ``sharpness`` does.
    """
    along = [grain_deviation(crop) for crop in sample.crops()]
    return [
        Value("grain", number(float(np.mean(along)))),
        Value("grain-worst", number(max(along))),
        *(Value("grain", number(g), i) for i, g in enumerate(along)),
    ]
