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
QUARTILE = 0.3186  # of |x| for standard normal x
SILENCE = 0.5 / 255  # half a level: what no one sees, and what rounding and the like may add


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


def grain_level(rgb: np.ndarray) -> float | None:
    """Deviation of fine noise in dB of the whole range, uint8 (h, w, 3); None for sides below 6 px.

    Luminance in [0, 1] at half resolution (means of 2 x 2 px, since decoders of latents leave noise that neighbours
    share), filtered by [1 -2 1; -2 4 -2; 1 -2 1], which leaves nothing of slopes and of edges along an axis and makes
    white noise six times as strong (Immerkaer). Lines and things are a small part of the values and their largest, so
    that not the mean but the lower quartile q of their sizes is taken: with s = q / (6 * 0.3186) the level is
    10 log10(s^2 + (0.5 / 255)^2), so that -54.15 dB is silence.
    """
    h, w = rgb.shape[0] // 2, rgb.shape[1] // 2
    if min(h, w) < 3:
        return None
    luminance = rgb[: 2 * h, : 2 * w] @ np.asarray(LUMA, dtype=np.float32) / np.float32(255)
    half = luminance.reshape(h, 2, w, 2).mean((1, 3), dtype=np.float64)
    detail = np.abs(np.diff(np.diff(half, 2, axis=0), 2, axis=1))
    return float(10 * np.log10((np.quantile(detail, 0.25) / (6 * QUARTILE)) ** 2 + SILENCE**2))


@metric(
    "grain", scope="image", view="tiles", unit="dB", range=(-54.2, 10.0),
    values={"grain": "lower", "grain-worst": "lower"},
    source="Immerkaer, Computer Vision and Image Understanding 1996 (filter); half resolution and quartile: PROPOSAL",
)  # fmt: skip
def grain(sample: Sample) -> list[Value]:
    """How much fine noise a picture has: the mean over the crops, the grainiest one, and every crop.

    Fine drawing counts as grain, so it compares pictures of like content, as ``sharpness`` does.
    """
    along = [grain_level(crop) for crop in sample.crops()]
    told = [g for g in along if g is not None]
    return [
        Value("grain", float(np.mean(told)) if told else None),
        Value("grain-worst", max(told, default=None)),
        *(Value("grain", g, i) for i, g in enumerate(along)),
    ]
