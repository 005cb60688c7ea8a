"""Known defects of known strength, put into ScrollWorld pictures: what a metric ought to see.

Pure functions of a uint8 picture (32, W, 3), or of a scene where the defect is drawn; the same arguments always
give the same pixels. Strength 0 (one copy, no shift) is the picture itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.world.render import HEIGHT, Picture, render
from bench.world.scene import Scene

RGB = NDArray[np.uint8]


def tile(square: RGB, width: int) -> RGB:
    """One picture repeated along the canvas; the last copy is cut where the width asks for it."""
    times = -(-width // square.shape[1])
    return np.tile(square, (1, times, 1))[:, :width]


def copies(scene: Scene, width: int, seed: int, k: int, loop: bool = False) -> Picture:
    """A picture with k copies of the scene's unique thing. Raises ``ValueError`` if they do not fit."""
    return render(scene, width, seed, copies=k, loop=loop)


def blur(rgb: RGB, sigma: float, loop: bool = False) -> RGB:
    """Gaussian blur of standard deviation ``sigma`` px; around the loop where there is one."""
    across = "wrap" if loop else "nearest"
    wide = ndimage.gaussian_filter1d(rgb.astype(np.float64), sigma, axis=1, mode=across) if sigma > 0 else rgb
    return _bytes(ndimage.gaussian_filter1d(wide, sigma, axis=0, mode="nearest") if sigma > 0 else rgb)


def noise(rgb: RGB, sigma: float, seed: int = 0) -> RGB:
    """White noise of standard deviation ``sigma`` on values in [0, 1]."""
    rng = np.random.default_rng([seed, 11])
    return _bytes(rgb + rng.standard_normal(rgb.shape) * (sigma * 255))


def seam(rgb: RGB, strength: float, at: Iterable[int]) -> RGB:
    """Brightness steps of ``strength`` (on values in [0, 1]) at the columns ``at``; segments alternate in sign."""
    borders = np.zeros(rgb.shape[1], dtype=int)
    for x in at:
        borders[x:] += 1
    sign = np.where(borders % 2 == 0, -0.5, 0.5)
    return _bytes(rgb + sign[None, :, None] * (strength * 255)) if borders.any() else rgb.copy()


def shuffle(rgb: RGB, seed: int = 0, side: int = HEIGHT) -> RGB:
    """The picture's windows of ``side`` px in another order, none in its old place; a rest at the right end stays."""
    n = rgb.shape[1] // side
    order = np.roll(np.arange(n), 1)
    if n > 2:  # a random cycle moves every window
        cycle = np.random.default_rng([seed, 13]).permutation(n)
        order = np.empty(n, dtype=int)
        order[cycle] = np.roll(cycle, 1)
    parts = [rgb[:, i * side : (i + 1) * side] for i in order]
    return np.concatenate([*parts, rgb[:, n * side :]], axis=1)


def horizon_break(rgb: RGB, rows: int, at: Iterable[int]) -> RGB:
    """Every second segment between the columns ``at`` moved down by ``rows`` px (up if negative), edges repeated."""
    out, edges = rgb.copy(), [0, *sorted(at), rgb.shape[1]]
    for x0, x1 in list(pairwise(edges))[1::2]:
        out[:, x0:x1] = rgb[np.clip(np.arange(rgb.shape[0]) - rows, 0, rgb.shape[0] - 1), x0:x1]
    return out


def _bytes(values: NDArray[Any]) -> RGB:
    rounded: RGB = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
