"""Windows on a latent canvas: where they stand, cutting them out, putting them together again.

Everything is in latent cells. A window that runs past the right edge wraps round: that is how loop canvases are
covered. Nothing here draws random numbers, and sums are taken in the order of the windows, one after the other,
so equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bench.errors import UsageError, near
from methods.backbones import Tensor

REMAINDERS = ("refuse", "zero", "clamp")


class Window(NamedTuple):
    """A rectangle of cells with its top left corner at row ``y``, column ``x``."""

    y: int
    x: int
    height: int
    width: int


def starts(length: int, window: int, stride: int, remainder: str = "zero", loop: bool = False) -> list[int]:
    """First cells of the windows along one axis: 0, stride, 2 stride, ...

    On an open axis the last window ends at or before the edge and ``clamp`` adds one flush with it where cells are
    left over. On a loop there are floor(length / stride) windows, and ``clamp`` adds the one that starts in the
    cells left over.
    """
    last = length - 1 if loop else length - window
    count = length // stride if loop else last // stride + 1
    found = [i * stride for i in range(count)]
    if remainder == "clamp" and (length % stride if loop else last % stride):
        found.append(count * stride if loop else last)
    return found


def unit(factor: int | None) -> tuple[int, str]:
    """What a message multiplies a number of cells by, and what it calls the product: pixels if a cell's are known."""
    return (1, "cells") if factor is None else (factor, "px")


def grid(
    height: int,
    width: int,
    window: int,
    stride: int,
    *,
    remainder: str = "refuse",
    loop: bool = False,
    factor: int | None = None,
) -> list[Window]:
    """Square windows in reading order over a canvas of ``height`` x ``width`` cells.

    Args:
        window, stride: side of a window and step between windows, in cells; stride at most window.
        remainder: what becomes of the cells at the right and bottom that whole strides do not reach: ``refuse``
            the canvas, leave them uncovered (``zero``), or ``clamp`` one more window to the edge.
        loop: left and right edge meet, windows wrap round; rows never do.
        factor: pixels per cell, so that errors speak of pixels; without it they speak of cells.

    Raises:
        UsageError: a canvas smaller than the window, a stride that leaves gaps, cells left over under ``refuse``.
    """
    if remainder not in REMAINDERS:
        raise UsageError(f"unknown remainder {remainder!r}; {near(remainder, REMAINDERS)}")
    if window < 1:
        raise UsageError(f"a window needs at least one cell, got {window}")
    if not 1 <= stride <= window:
        raise UsageError(
            f"stride must be 1 to {window} cells, the window, or gaps stay empty between windows; got {stride}"
        )
    f, px = unit(factor)
    axes = (("height", height, False), ("width", width, loop))
    for side, cells, _ in axes:
        if cells < window:
            raise UsageError(
                f"the canvas {side} is {cells * f} {px}, a window is {window * f} {px}: "
                f"ask for a {side} of at least {window * f} {px}"
            )
    for side, cells, ring in axes:
        over = cells % stride if ring else (cells - window) % stride
        if over and remainder == "refuse":
            down, up = cells - over, cells - over + stride
            fits = f"{down * f} or {up * f} {px}" if down >= window else f"{up * f} {px}"
            raise UsageError(
                f"windows of {window * f} {px} at stride {stride * f} {px} leave {over * f} of the "
                f"{cells * f} {px} of {side} over; nearest that fit: {fits}. Or set remainder=clamp (one more "
                f"window at the edge) or remainder=zero (as the official code: the strip stays empty)"
            )
    rows = starts(height, window, stride, remainder)
    columns = starts(width, window, stride, remainder, loop)
    return [Window(y, x, window, window) for y in rows for x in columns]


def sides(native: int, window: int | None, stride: int | None, share: int) -> tuple[int, int]:
    """Side of a window and stride in cells: what is asked for, else the native side and the ``share``-th part of it."""
    side = native if window is None else window
    return side, max(1, side // share) if stride is None else stride


def _pieces(window: Window, width: int) -> Iterator[tuple[slice, slice]]:
    """(columns of the canvas, columns of the window): one pair, or two where the window wraps."""
    inside = min(window.width, width - window.x)
    yield slice(window.x, window.x + inside), slice(0, inside)
    if inside < window.width:
        yield slice(0, window.width - inside), slice(inside, window.width)


def gather(canvas: Tensor, windows: Sequence[Window]) -> Tensor:
    """Cut equal-sized windows out of a canvas (1, c, h, w) into one batch (n, c, window height, window width)."""
    import torch

    cut = [
        torch.cat([canvas[:, :, v.y : v.y + v.height, there] for there, _ in _pieces(v, canvas.shape[-1])], dim=-1)
        for v in windows
    ]
    return torch.cat(cut)


def add_up(views: Sequence[Tensor] | Tensor, windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """Sum of windows over every cell: views[i] is (c, height, width) of windows[i] -> (1, c, *size); 0 where none is.

    Windows may differ in size.
    """
    total = views[0].new_zeros((1, views[0].shape[0], *size))
    for view, v in zip(views, windows, strict=True):
        for there, here in _pieces(v, size[1]):
            total[0, :, v.y : v.y + v.height, there] += view[:, :, here]
    return total


def merge(views: Tensor, windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """Average a batch of windows (n, c, ...) back into a canvas (1, c, h, w); cells no window covers are 0.

    The least-squares solution for equal weights: the sum of all windows over a cell divided by their number.
    """
    import torch

    total = add_up(views, windows, size)
    count = add_up(views.new_ones((1, 1, *views.shape[2:])).expand(len(windows), -1, -1, -1), windows, size)
    return torch.where(count > 0, total / count.clamp(min=1), total)


class Places:
    """Where the cells of equal-sized windows lie on a canvas: cutting and averaging in one operation each.

    The same numbers as :func:`gather` and :func:`merge`, whose operations, some for every window, a GPU would wait for
    where there are many windows and layers. A cell is a row here, and sums are over the same windows in the same order.

    Args:
        windows: equal-sized; they may wrap round the right edge.
        size: (height, width) of the canvas.
        device: where the indices are kept.
    """

    def __init__(self, windows: Sequence[Window], size: tuple[int, int], device: Any) -> None:
        import torch

        cell = torch.arange(size[0] * size[1]).reshape(size)
        cut = [cell[v.y : v.y + v.height].roll(-v.x, 1)[:, : v.width] for v in windows]
        rows = torch.stack(cut).flatten()
        counts = torch.bincount(rows, minlength=cell.numel())
        self.count = len(windows)
        self._rows = rows.to(device)  # of the canvas, for every cell of every window
        self._order = rows.argsort(stable=True).to(device)  # of the windows, by the cell of the canvas they lie on
        self._first = (counts.cumsum(0) - counts).to(device)  # where in that order a cell of the canvas begins
        self._counts = counts.clamp(min=1)[:, None].to(device)

    def gather(self, canvas: Tensor) -> Tensor:
        """Cells of a canvas (height * width, c) -> those of its windows (n, cells of one, c)."""
        return canvas.index_select(0, self._rows).reshape(self.count, -1, canvas.shape[-1])

    def merge(self, views: Tensor) -> Tensor:
        """Cells of windows (n, cells of one, c) -> their mean on the canvas (height * width, c), 0 where none is.

        Sums in 16 bits are rounded once at the end.
        """
        from torch.nn.functional import embedding_bag

        total: Tensor = embedding_bag(self._order, views.reshape(-1, views.shape[-1]), self._first, mode="sum")
        return total / self._counts
