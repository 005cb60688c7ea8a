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


def shuffle(rgb: RGB, seed: int = 0, side: int = HEIGHT, moved: int | None = None) -> RGB:
    """Windows of ``side`` px in another order: ``moved`` of them (all if None), each away from its old place.

    A rest at the right end stays. One window cannot move alone, so ``moved`` 1 is the picture itself.
    """
    n = rgb.shape[1] // side
    # a random cycle moves every window in it
    cycle = np.random.default_rng([seed, 13]).permutation(n)[:moved]
    order = np.arange(n)
    order[cycle] = np.roll(cycle, 1)
    parts = [rgb[:, i * side : (i + 1) * side] for i in order]
    return np.concatenate([*parts, rgb[:, n * side :]], axis=1)


def horizon_break(rgb: RGB, rows: int, at: Iterable[int]) -> RGB:
    """Every second segment between the columns ``at`` moved down by ``rows`` px (up if negative), edges repeated."""
    out, edges = rgb.copy(), [0, *sorted(at), rgb.shape[1]]
    for x0, x1 in list(pairwise(edges))[1::2]:
        out[:, x0:x1] = rgb[np.clip(np.arange(rgb.shape[0]) - rows, 0, rgb.shape[0] - 1), x0:x1]
    return out


def repeat(rgb: RGB, times: int, seed: int = 0, side: int = HEIGHT) -> RGB:
    """One window of the picture pasted over ``times`` others, chosen at random; all of them at most."""
    n = rgb.shape[1] // side
    chosen = np.random.default_rng([seed, 17]).permutation(n)[: times + 1]
    out = rgb.copy()
    for i in chosen[1:] if times else ():
        out[:, i * side : (i + 1) * side] = rgb[:, chosen[0] * side : (chosen[0] + 1) * side]
    return out


def drift(left: RGB, right: RGB, strength: float) -> RGB:
    """The left picture turning into the right one along the canvas; at strength 1 it has turned at the right edge."""
    along = np.linspace(0, strength, left.shape[1])[None, :, None]
    return _bytes(left * (1 - along) + right * along)


def open_loop(rgb: RGB, rows: int) -> RGB:
    """A loop whose edges no longer meet: it slides down by ``rows`` px from its left edge to its right one."""
    out = np.empty_like(rgb)
    for x in range(rgb.shape[1]):
        down = round(rows * x / max(1, rgb.shape[1] - 1))
        out[:, x] = rgb[np.clip(np.arange(rgb.shape[0]) - down, 0, rgb.shape[0] - 1), x]
    return out


def _bytes(values: NDArray[Any]) -> RGB:
    rounded: RGB = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
