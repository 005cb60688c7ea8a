"""In what order the tokens of a grid stand in a sequence: row by row, window by window, along Hilbert's curve.

Where attention reaches a token's surroundings only, an order that keeps neighbours together keeps the blocks of the
attention matrix that matter few. What is computed does not depend on it.

Hilbert's curve (Hilbert, Math. Ann. 38, 1891) visits every cell of a square of 2^k cells a side, each beside the one
before. On other grids the cells are visited in the order of the smallest such square around them, whose other cells are
left out: every cell once still, but with jumps where the curve leaves the grid.
"""

from __future__ import annotations

from bench.errors import UsageError, near
from methods.backbones import Tensor

ORDERS = ("window", "hilbert-window", "hilbert-released", "hilbert", "raster")


def known(order: str) -> str:
    """The order's name. Raises ``UsageError`` where there is none of that name."""
    if order not in ORDERS:
        raise UsageError(f"unknown order of tokens {order!r}; {near(order, ORDERS)}")
    return order


def hilbert(rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Places along Hilbert's curve of the cells (row, column) of a square of ``side`` = 2^k cells, from 0.

    The curve starts at row 0, column 0 and ends at row 0 of the last column.
    """
    y, x, place = rows, columns, rows * 0
    half = side // 2
    while half:
        right, down = (x & half > 0) * 1, (y & half > 0) * 1
        place = place + half * half * ((3 * right) ^ down)
        # A quarter of the upper half is turned over its diagonal, the right one about its middle before that.
        over = (1 - down) * right
        x, y = x + over * (side - 1 - 2 * x), y + over * (side - 1 - 2 * y)
        x, y = down * x + (1 - down) * y, down * y + (1 - down) * x
        half //= 2
    return place


def released(rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Places as Scale-DiT's released helper counts them, which it calls Hilbert's: its quarters follow each other
    corner to corner, so half of its steps are diagonal and some leap. Kept to compare; nothing released uses it."""
    y, x, place = rows, columns, rows * 0
    half = side // 2
    while half:
        low, right = (y >= half) * 1, (x >= half) * 1
        place = place + half * half * (2 * (low ^ right) + low)
        y, x = y - half * low, x - half * right
        first, last = (1 - low) * (1 - right), low * (1 - right)
        kept = 1 - first - last
        y, x = kept * y + first * x + last * (half - 1 - x), kept * x + first * y + last * (half - 1 - y)
        half //= 2
    return place


def permutation(grid: tuple[int, int], window: int, order: str = "window") -> Tensor:
    """p with reordered = raster[p]: for each place of the sequence, the raster number of the token that stands there.

    Args:
        grid: rows and columns.
        window: side of a window, which divides both; the orders ``hilbert`` and ``raster`` have none.
        order: ``window``, windows in raster order and tokens in raster order within; ``hilbert-window``, tokens along
            the curve within; ``hilbert-released``, tokens as :func:`released` within; ``hilbert``, along the curve
            over the whole grid; ``raster``.
    """
    import torch

    known(order)
    rows, columns = grid
    number = torch.arange(rows * columns)
    y, x = number // columns, number % columns
    if order == "raster":
        return number
    if order == "hilbert":
        return hilbert(y, x, _square(max(grid))).argsort()
    inner, side = (y % window, x % window), _square(window)
    curves = {"hilbert-window": hilbert, "hilbert-released": released}
    place = curves[order](*inner, side) if order in curves else inner[0] * side + inner[1]
    return (((y // window) * (columns // window) + x // window) * side**2 + place).argsort()


def _square(side: int) -> int:
    """The smallest power of two that is no smaller."""
    return 1 << (side - 1).bit_length()
