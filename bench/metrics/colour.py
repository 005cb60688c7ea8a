"""Colour: how light, how colourful and how tinted a picture is, and the part of a panorama that stands out most.

On values in [0, 1], with light = luminance, red = R - G, yellow = (R + G) / 2 - B (the opponent axes of Hasler and
Süsstrunk, where the formula of colourfulness stands too):

    colourfulness   sqrt(var red + var yellow) + 0.3 sqrt(mean red^2 + mean yellow^2)
    colour-light    mean of light;  colour-contrast  its standard deviation
    colour-red      mean of red;    colour-yellow    mean of yellow: a cast moves them
    colour-drift    largest distance of a view's (light, red, yellow) means from the picture's: the worst view

The first five have no better and worse. A gate asks that they stay what the baseline's are, either way.
"""

from __future__ import annotations

import numpy as np

from bench.metrics.coherence import PIXELS
from bench.metrics.numbers import number
from bench.metrics.sample import Sample
from bench.metrics.sharpness import LUMA
from bench.registry import metric
from bench.store.raster import Raster, strips
from bench.types import Value

AXES = np.array([LUMA, (1, -1, 0), (0.5, 0.5, -1)])  # light, red, yellow


def moments(rgb: np.ndarray | Raster) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of (light, red, yellow), each float64 (3,), of a picture uint8 (h, w, 3)."""
    total, square, n = np.zeros(3), np.zeros((3, 3)), 0
    for part in strips(rgb, max(1, PIXELS // rgb.shape[1])):
        x = part.reshape(-1, 3) / 255
        total, square, n = total + x.sum(0), square + x.T @ x, n + len(x)
    mean = total / n
    spread = AXES @ (square / n - np.outer(mean, mean)) @ AXES.T
    return AXES @ mean, np.diag(spread).clip(0)


def colourfulness(mean: np.ndarray, variance: np.ndarray) -> float:
    """Hasler and Süsstrunk's M(3) of the moments of (light, red, yellow)."""
    return float(np.sqrt(variance[1:].sum()) + 0.3 * np.sqrt((mean[1:] ** 2).sum()))


@metric(
    "colour", scope="image", view="tiles", unit="", range=(0.0, None),
    values={"colourfulness": "none", "colour-light": "none", "colour-contrast": "none", "colour-red": "none",
            "colour-yellow": "none", "colour-drift": "lower"},
    source="Hasler and Süsstrunk, SPIE 2003 (opponent axes, colourfulness); colour-drift is this project's PROPOSAL",
)  # fmt: skip
def colour(sample: Sample) -> list[Value]:
    """Colour statistics of the whole picture, and how far its most different view is from them.

    ``colour-drift`` is 0 for a picture of one view, and is given for every view as well.
    """
    mean, variance = moments(sample.pixels)
    away = [float(np.linalg.norm(moments(crop)[0] - mean)) for crop in sample.crops()]
    light, red, yellow = mean.tolist()
    return [
        Value("colourfulness", number(colourfulness(mean, variance))),
        Value("colour-light", light),
        Value("colour-contrast", number(float(np.sqrt(variance[0])))),
        Value("colour-red", red),
        Value("colour-yellow", yellow),
        Value("colour-drift", number(max(away))),
        *(Value("colour-drift", number(a), i) for i, a in enumerate(away)),
    ]
