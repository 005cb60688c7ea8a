"""A canvas read as the way of a camera: where frames stand, the positions of their tokens, their shares of the picture.

ScrollScape (Yu et al., ECCV 2026, arXiv:2603.24270), read through a note on the paper; nothing of it is released.
Window t of the canvas is latent frame t of a clip. FACT, *ScanPE*: the anchor of frame t is

    O_t = P_init + sum over k < t of delta d_k

with the scan's step delta and the unit direction d_k of its step k, and a token at p of its frame stands at p + O_t on
the axes of rows and columns. Its place in time stays t. So tokens of two frames that show one point of the canvas
differ in time alone.

PROPOSAL, as none of it was found: sizes and steps of frames (:func:`lay`); P_init is the canvas's upper left corner, so
that one frame has the network's own positions; the form of the ramp (:func:`ramp`). The snake, lines to the right and
to the left in turn, is supported by the note and future work by a blog on the paper.

All lengths are tokens unless said otherwise; a pair is (rows, columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.errors import UsageError, near
from methods.backbones import Tensor
from methods.shared.positions import grid
from methods.shared.windows import Window, gather, merge

MODES = ("auto", "right", "down", "snake")


class Scan(NamedTuple):
    """Frames of one size, a step apart.

    Attributes:
        frame: of the canvas that a frame shows.
        step: delta.
        stops: how many frames stand below each other and side by side.
        backwards: whether the camera goes the other way, from the last place to the first.
    """

    frame: tuple[int, int]
    step: int
    stops: tuple[int, int]
    backwards: bool = False

    @property
    def places(self) -> list[tuple[int, int]]:
        """(row, column) of each frame among the stops, in the order of time: each beside the one before."""
        rows, columns = self.stops
        way = [(i, j) for i in range(rows) for j in (range(columns) if i % 2 == 0 else reversed(range(columns)))]
        return way[::-1] if self.backwards else way

    @property
    def anchors(self) -> list[tuple[int, int]]:
        """O_t of each frame."""
        return [(i * self.step, j * self.step) for i, j in self.places]

    @property
    def covered(self) -> tuple[int, int]:
        """What all frames show together: at least the canvas, and less than a step more."""
        down, across = ((n - 1) * self.step + side for n, side in zip(self.stops, self.frame))
        return down, across

    def windows(self, unit: int) -> list[Window]:
        """The frames on what they cover, in parts of which a token has ``unit`` a side."""
        height, width = (side * unit for side in self.frame)
        return [Window(y * unit, x * unit, height, width) for y, x in self.anchors]

    def positions(self) -> Tensor:
        """ScanPE: (frame number, row, column) of every token, (tokens, 3), in the order of a clip's tokens."""
        import torch

        return torch.cat([grid((1, *self.frame), (t, y, x)) for t, (y, x) in enumerate(self.anchors)])


def lay(
    size: tuple[int, int],
    native: tuple[int, int, int],
    mode: str = "auto",
    frame: tuple[int | None, int | None] = (None, None),
    step: int | None = None,
) -> Scan:
    """Frames over a canvas.

    PROPOSAL, unless ``frame`` and ``step`` say otherwise: a pan's frames have the canvas's short side and the longer
    side of the network's native frame; a snake's are native. A pan's step is the shortest at which it takes no more
    frames than the native clip, but at most half a frame; a snake's is half of its frames' shorter side. Frames end at
    the canvas.

    Args:
        size: of the canvas.
        native: frames, rows and columns of the clip that the network was made for.
        frame: of a frame; None for the usual.
        step: delta; None for the usual.
        mode: ``right``, ``down``, ``snake``, or ``auto``: a pan along the longer side where the shorter one is no
            longer than the native frame's longer one, else a snake.

    Raises:
        UsageError: an unknown mode, frames larger than the canvas or lower than a pan needs, a step that leaves gaps.
    """
    if mode not in MODES:
        raise UsageError(f"unknown scan {mode!r}; {near(mode, MODES)}")
    longest = max(native[1:])
    if mode == "auto":
        pan = "right" if size[1] >= size[0] else "down"
        mode = pan if min(size) <= longest else "snake"
    usual = {"right": (size[0], longest), "down": (longest, size[1]), "snake": native[1:]}[mode]
    rows, columns = (min(u, s) if given is None else given for u, s, given in zip(usual, size, frame))
    for side, length, most in (("height", rows, size[0]), ("width", columns, size[1])):
        if not 1 <= length <= most:
            raise UsageError(
                f"frame_{side} is 1 to {most} tokens, the canvas's {side}; got {length}; nearest: "
                f"{min(max(length, 1), most)}"
            )
        if length < most and mode == {"height": "right", "width": "down"}[side]:
            raise UsageError(
                f"scan={mode} shows the whole {side} of the canvas in every frame, {most} tokens, and frame_{side} is "
                f"{length}: leave it out, or take scan=snake"
            )
    return _stepped((rows, columns), (size[0] - rows, size[1] - columns), native[0], step)


def _stepped(frame: tuple[int, int], rest: tuple[int, int], clip: int, step: int | None) -> Scan:
    """Frames with so many tokens ``rest`` beyond the first one, ``clip`` frames in the native clip."""
    moving = [side for side, more in zip(frame, rest) if more] or [min(frame)]
    if step is None:
        shortest = _ceil(max(rest), max(clip - 1, 1)) if min(rest) == 0 else min(moving)
        step = max(1, min(shortest, min(moving) // 2))
    if not 1 <= step <= min(moving):
        raise UsageError(
            f"step is 1 to {min(moving)} tokens, or gaps stay empty between frames of {frame[1]}x{frame[0]} tokens; "
            f"got {step}; nearest: {min(max(step, 1), min(moving))}"
        )
    down, across = (_ceil(more, step) + 1 for more in rest)
    return Scan(frame, step, (down, across))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# -- shares of the picture


def ramp(length: int) -> Tensor:
    """min(x + 1, n - x) / ((n + 1) / 2) of n places, float64: how much a frame counts, falling off to its edges."""
    import torch

    x = torch.arange(length, dtype=torch.float64)
    return torch.minimum(x + 1, length - x) / ((length + 1) / 2)


def shares(stops: int, length: int, step: int) -> Tensor:
    """Ramps of frames along one axis, (stops, length) float64, over their sum: every place has shares of 1 in all.

    As frames stand in a grid, the product of a row's and a column's share is a frame's share of a pixel.
    """
    import torch

    own = ramp(length)
    total = own.new_zeros((stops - 1) * step + length)
    for i in range(stops):
        total[i * step : i * step + length] += own
    return torch.stack([own / total[i * step : i * step + length] for i in range(stops)])


def agreed(clip: Tensor, windows: Sequence[Window]) -> Tensor:
    """A clip (1, c, frames, h, w) whose frames agree where they overlap: each cell is the mean of all that show it."""
    size = (max(w.y + w.height for w in windows), max(w.x + w.width for w in windows))
    return stacked(gather(merge(clip[0].transpose(0, 1), windows, size), windows))


def stacked(frames: Tensor) -> Tensor:
    """Windows (n, c, h, w) as the frames of a clip (1, c, n, h, w)."""
    return frames.transpose(0, 1)[None].contiguous()
