"""The reserved colours of ScrollWorld: how much of every pixel is a kind's own colour over its background.

Every accent of the renderer has colours of its own for each (style, time). Backgrounds are smooth along the rows,
so a pixel can be split into background and accent: blur lowers the accent's share but keeps the sum of shares.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.world.render import ACCENT, BODY, HEIGHT, INK_SUN, render
from bench.world.scene import STYLES, TIMES, Scene

Floats = NDArray[np.float64]

_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
_LINEAR = np.where(np.arange(256) <= 10, np.arange(256) / 255 / 12.92, ((np.arange(256) / 255 + 0.055) / 1.055) ** 2.4)
_LIGHTNESS = 0.6  # lightness counts less than hue: blur and shade move it first


def oklab(rgb: NDArray[Any]) -> Floats:
    """Oklab (Ottosson 2020) of sRGB bytes (..., 3), with lightness weighed down so that Euclid's distance serves."""
    linear = _LINEAR[np.clip(np.rint(rgb), 0, 255).astype(np.uint8)]
    lab: Floats = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    lab[..., 0] *= _LIGHTNESS
    return lab


TOLERANCE = {"balloon": (0.06, 0.13)}  # Oklab distance: certainly this colour, certainly not


@cache
def reserved(kind: str, style: str, time: str) -> tuple[tuple[Floats, float], ...]:
    """The Oklab colours (3,) that only this kind has under a style and time of day, the purest first.

    With each comes the least distance from the background at which it may be told from it. Mixtures, what blur
    makes of two neighbouring colours, are less trusted than pure ones.
    """
    dim = 1.0 if kind in ("sun", "moon") else {"night": 0.78, "dusk": 0.9}.get(time, 1.0)
    body = INK_SUN if style == "ink" and time != "night" else BODY[time]
    pure = np.array(ACCENT.get(kind, body)) * dim
    colours: list[tuple[Floats, float]] = [(pure, 0.03)]
    if kind in _SHADE:
        colours.append((pure * _SHADE[kind], 0.03))
    for other, share in _BESIDE.get(kind, ()):
        colours.append((pure * (1 - share) + np.array(other) * dim * share, 0.08))
    return tuple((oklab(c), contrast) for c, contrast in colours)


_SHADE = {"balloon": 0.78, "boat": 0.72, "tent": 0.7}
_WHITE, _WALL = (244.0, 240.0, 236.0), (236.0, 222.0, 200.0)
_BESIDE = {"lighthouse": ((_WHITE, 0.35),), "house": ((_WALL, 0.4), (_WALL, 0.75))}


def guess(rgb: NDArray[np.uint8]) -> tuple[str, str]:
    """The (style, time) whose sky is nearest to the upper rows of a picture."""
    rows = np.median(oklab(rgb[:14]), axis=1)
    return min(((s, t) for s in STYLES for t in TIMES), key=lambda st: float(np.abs(rows - _sky(*st)).sum()))


@cache
def _sky(style: str, time: str) -> Floats:
    rows = [np.median(oklab(render(Scene(style, "sea", time, w, None, None), 128, 5).rgb[:14]), axis=1)
            for w in ("clear", "cloudy")]  # fmt: skip
    return np.asarray(sum(rows) / 2)


def background(lab: Floats, loop: bool) -> Floats:
    """What lies behind the accents, (32, W, 3): medians of windows that no accent can fill.

    Sky changes from row to row and is bare of crowds: one row, 75 columns. Ground is crowded and changes slowly:
    9 rows, 33 columns. At the edges of the picture the last whole window counts.
    """
    coarse = lab[:, ::3]  # every third column decides: the medians are smooth

    def median(rows: int, cols: int) -> Floats:
        n = coarse.shape[1]
        if n <= cols:
            wide = np.median(np.stack([np.roll(np.pad(coarse, ((9, 9), (0, 0), (0, 0)), mode="edge"), k, axis=0)[9:-9]
                                       for k in range(-(rows // 2), rows // 2 + 1)]), axis=(0, 2))  # fmt: skip
            return np.broadcast_to(wide[:, None], coarse.shape)
        out = np.stack([ndimage.median_filter(coarse[..., c], size=(rows, cols), mode="nearest") for c in range(3)], -1)
        return out if loop else out[:, np.clip(np.arange(n), cols // 2, n - 1 - cols // 2)]

    low = np.clip((np.arange(HEIGHT) - 17) / 4, 0, 1)[:, None, None]
    both = median(1, 25) * (1 - low) + median(9, 11) * low
    return np.repeat(both, 3, axis=1)[:, : lab.shape[1]]


def membership(lab: Floats, behind: Floats, kind: str, style: str, time: str) -> Floats:
    """How much of every pixel is the kind's reserved colour over its background, (32, W) in [0, 1].

    The pixel is split into background + t (reserved - background); what lies off that line is some other colour.
    Blur lowers t but keeps its sum, so sizes survive it.
    """
    sure, never = TOLERANCE.get(kind, (0.07, 0.15))
    best, nearest = np.zeros(lab.shape[:2]), np.full(lab.shape[:2], np.inf)
    for colour, contrast in reserved(kind, style, time):
        t, off, length = _unmix(lab, behind, colour)
        visible = np.clip(length / contrast - 1, 0, 1)  # too near to its background to be told from it
        near_it = np.clip((never - off) / (never - sure), 0, 1)
        best, nearest = np.maximum(best, visible * near_it * np.clip(t, 0, 1)), np.minimum(nearest, off)
    if kind == "boat":  # the sun's glint on the water lies on the line to the sun's colour
        for light, _ in reserved("sun", style, time):
            best = np.where(_unmix(lab, behind, light)[1] < nearest, 0.0, best)
    return best


def _unmix(lab: Floats, behind: Floats, colour: Floats) -> tuple[Floats, Floats, Floats]:
    """Every pixel as background + t (colour - background): t, the distance off that line or beyond, its length."""
    line = colour - behind
    length = np.maximum(np.sqrt((line**2).sum(-1)), 1e-6)
    t = ((lab - behind) * line).sum(-1) / length**2
    off = np.sqrt(((lab - behind - np.clip(t, 0, 1)[..., None] * line) ** 2).sum(-1))
    return t, off, length
