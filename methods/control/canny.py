"""Edges by Canny's rule as OpenCV draws them, which is what released Canny ControlNets were trained on.

Written from OpenCV's documented rule, to which the result is equal bit for bit: 3 x 3 Sobel without smoothing, the
border repeated; of a colour picture each pixel takes the channel that changes most; L1 length of the gradient unless
``l2``; a pixel stays where it is a maximum across its edge, in one of four directions told apart by integer tangents;
what joins a pixel above ``high`` by pixels above ``low`` is an edge. scikit-image's ``canny`` follows another rule.
"""

from __future__ import annotations

import numpy as np

from bench.errors import UsageError

LOW, HIGH = 100, 200  # of diffusers' examples and of the models' authors
_TAN = 13573  # of 22.5 degrees, times 2**15


def canny(picture: np.ndarray, low: int = LOW, high: int = HIGH, l2: bool = False) -> np.ndarray:
    """Where a picture has edges.

    Args:
        picture: uint8 (height, width, 3), or (height, width).
        low, high: thresholds of the gradient's length; an edge has a pixel above ``high``.
        l2: the gradient's Euclidean length instead of the sum of both sides.

    Returns:
        bool (height, width).

    Raises:
        UsageError: thresholds that are not 0 <= low <= high.
    """
    from scipy.ndimage import label

    check(low, high)
    gx, gy = _gradient(picture, l2)
    size = gx * gx + gy * gy if l2 else abs(gx) + abs(gy)
    bounds = (low * low, high * high) if l2 else (low, high)
    thin = (size > bounds[0]) & _maximum(size, gx, gy)
    joined, n = label(thin, np.ones((3, 3)))
    strong = np.zeros(n + 1, bool)
    strong[joined[thin & (size > bounds[1])]] = True
    edges: np.ndarray = strong[joined]
    return edges


def check(low: int, high: int) -> None:
    """Raise ``UsageError`` unless 0 <= low <= high."""
    if not 0 <= low <= high:
        raise UsageError(f"Canny's thresholds are 0 <= low <= high, got low={low} and high={high}")


def _gradient(picture: np.ndarray, l2: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sobel along x and y, (height, width), of the channel where it is longest, the first of equals."""
    x = np.pad(np.atleast_3d(picture).astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, columns = x[:-2] + 2 * x[1:-1] + x[2:], x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    gx, gy = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    most = (gx * gx + gy * gy if l2 else abs(gx) + abs(gy)).argmax(-1)[..., None]
    return np.take_along_axis(gx, most, -1)[..., 0], np.take_along_axis(gy, most, -1)[..., 0]


def _maximum(size: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """Whether a pixel is the largest across its edge; outside the picture there is nothing."""
    around = np.pad(size, 1)
    height, width = size.shape

    def at(y: int, x: int) -> np.ndarray:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    wide, high = abs(gx).astype(np.int64), abs(gy).astype(np.int64) << 15
    across = (size > at(0, -1)) & (size >= at(0, 1))
    along = (size > at(-1, 0)) & (size >= at(1, 0))
    falling, rising = (size > at(-1, -1)) & (size > at(1, 1)), (size > at(-1, 1)) & (size > at(1, -1))
    slanted = np.where((gx < 0) == (gy < 0), falling, rising)
    steep = high > wide * _TAN + (wide << 16)
    found: np.ndarray = np.where(high < wide * _TAN, across, np.where(steep, along, slanted))
    return found
