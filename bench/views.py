"""Where a metric looks: deterministic crops of a panorama, as functions of (canvas, view, prompt id).

Stock scorers never see a panorama: some crop its centre, some squash it. So the geometry of looking is part of a
metric's identity, it is versioned, and :func:`seen` tells what share of the pixels survives it.

    whole      the picture as it is
    squash     the picture resized to one square
    letterbox  the picture scaled into one square, black bars around it
    centre     the middle square
    tiles      disjoint squares; the last one is flush with the edge and may overlap its neighbour
    windows    squares half a side apart; the last one is flush with the edge
    seams      strips half a side wide around the borders between tiles
    ring       windows that wrap around a canvas that loops
    random     one square at a place drawn from the prompt id
    random-2023  one square at the place SyncDiffusion's script draws for the picture's turn in its set
    even       squares at even distances that touch both edges: as many as fit, rounded; may leave gaps

Squares have the short side of the canvas. ``NAME:SIDE`` fixes the side in pixels ("tiles:512"), which makes tiles
and windows of a large two-dimensional canvas a grid in reading order. A picture smaller than the square, or with a
short side below ``MIN_SIDE``, is looked at once, as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bench.errors import UsageError, near
from bench.source import source_digest
from bench.types import Canvas

VIEWS = ("whole", "squash", "letterbox", "centre", "tiles", "windows", "seams", "ring", "random", "random-2023", "even")
DRAWN = ("random", "random-2023")  # other pictures, other places
BY_TURN = ("random-2023",)  # of these, the ones whose place follows from the picture's turn in its set
MIN_SIDE = 8  # px; squares smaller than this show nothing a network could read


@dataclass(frozen=True)
class Box:
    """A rectangle of a canvas in pixels. ``x + w`` may pass the right edge of a canvas that loops."""

    x: int
    y: int
    w: int
    h: int


def parse(view: str) -> tuple[str, int | None]:
    """``"tiles:512"`` -> ``("tiles", 512)``. Raises ``UsageError`` for unknown names and bad sides."""
    name, colon, side = view.partition(":")
    if name not in VIEWS:
        raise UsageError(f"unknown view {view!r}; {near(name, VIEWS)}")
    if not colon:
        return name, None
    if name == "whole" or not re.fullmatch("[0-9]{1,9}", side) or int(side) < MIN_SIDE:
        raise UsageError(f"view {view!r}: expected NAME or NAME:SIDE with a side of at least {MIN_SIDE} pixels")
    return name, int(side)


def drawn_by(view: str, prompt_id: str, turn: int) -> str:
    """What the place of a drawn view depends on, to be handed to the functions below as their ``prompt_id``.

    The picture's turn in its set (from 0) for ``random-2023``, which takes other ids for turn 0; else the prompt's id.
    """
    return str(turn) if parse(view)[0] in BY_TURN else prompt_id


def key(view: str, canvas: Canvas, prompt_id: str = "") -> str:
    """Identity of a view on a canvas: two equal keys mean the same crops of the same picture."""
    name, _ = parse(view)
    draw = f"#{prompt_id}" if name in DRAWN else ""
    return f"{view}@{_version()}{'-loop' if canvas.loop else ''}{draw}"


@cache
def _version() -> str:
    """Digest of how pictures are cut: where any box below moves, scores and features are made again."""
    return source_digest(crops)[:8]


def boxes(view: str, canvas: Canvas, prompt_id: str = "") -> tuple[Box, ...]:
    """The rectangles a view looks at, in reading order; at least one.

    Raises:
        UsageError: unknown view, or ``ring`` on a canvas that does not loop.
    """
    name, given = parse(view)
    width, height = canvas.width, canvas.height
    whole = (Box(0, 0, width, height),)
    if name == "ring" and not canvas.loop:
        raise UsageError(f"view 'ring' needs a canvas that loops, got {canvas}; use 'windows'")
    side = given or min(width, height)
    if name in ("whole", "squash", "letterbox") or side > min(width, height) or side < MIN_SIDE:
        return whole
    if name == "centre":
        return (Box((width - side) // 2, (height - side) // 2, side, side),)
    if name == "random":
        return (Box(_draw(width - side, prompt_id, "x"), _draw(height - side, prompt_id, "y"), side, side),)
    if name == "random-2023":
        x = _turn(width - side, int(prompt_id) if prompt_id.isdecimal() else 0)
        return (Box(x, (height - side) // 2, side, side),)  # the script takes pictures as high as crops only
    if name == "even":
        return tuple(Box(x, y, side, side) for y in _even(height, side) for x in _even(width, side))
    if name == "seams":
        return _strips(canvas, side) or whole
    step = side if name == "tiles" else side // 2
    xs = list(range(0, width, step)) if name == "ring" else _starts(width, side, step)
    return tuple(Box(x, y, side, side) for y in _starts(height, side, step) for x in xs)


def crops(rgb: np.ndarray, view: str, canvas: Canvas, prompt_id: str = "") -> list[np.ndarray]:
    """The view's pictures, each uint8 (h, w, 3).

    Args:
        rgb: uint8 (canvas.height, canvas.width, 3).

    Raises:
        UsageError: wrong shape or type, or what :func:`boxes` refuses.
    """
    if rgb.dtype != np.uint8 or rgb.shape != (canvas.height, canvas.width, 3):
        raise UsageError(
            f"expected a uint8 picture of shape {(canvas.height, canvas.width, 3)} for canvas {canvas}, "
            f"got {rgb.dtype} {rgb.shape}"
        )
    name, side = parse(view)
    cut = [_cut(rgb, box) for box in boxes(view, canvas, prompt_id)]
    if name in ("squash", "letterbox"):
        return [_fit(cut[0], side or min(canvas.width, canvas.height), bars=name == "letterbox")]
    return cut


class Cuts(Sequence[np.ndarray]):
    """Pictures that are cut out when they are asked for, one after the other, and kept by nobody.

    Args:
        cut: makes the picture of a place.
        places: one for each picture.
    """

    def __init__(self, cut: Callable[[Any], np.ndarray], places: Sequence[Any]) -> None:
        self._cut, self._places = cut, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: Any) -> Any:
        return Cuts(self._cut, self._places[i]) if isinstance(i, slice) else self._cut(self._places[i])


def cuts(pixels: Any, view: str, canvas: Canvas, prompt_id: str = "") -> Sequence[np.ndarray]:
    """:func:`crops` of a picture in memory; of one on disk (:class:`bench.store.raster.Raster`) as :class:`Cuts`."""
    name, _ = parse(view)
    if isinstance(pixels, np.ndarray) or name in ("squash", "letterbox") or pixels.shape[:2] != (
        canvas.height, canvas.width,
    ):  # fmt: skip
        return crops(np.asarray(pixels), view, canvas, prompt_id)

    def cut(box: Box) -> np.ndarray:
        there = pixels[box.y : box.y + box.h, box.x : box.x + box.w]
        beyond = box.x + box.w - canvas.width
        return np.concatenate([there, pixels[box.y : box.y + box.h, :beyond]], axis=1) if beyond > 0 else there

    return Cuts(cut, boxes(view, canvas, prompt_id))


def seen(view: str, canvas: Canvas) -> float:
    """Share of the canvas's pixels that reach the crops, in (0, 1].

    Pixels outside all boxes do not count; where a view shrinks the picture, what is left after shrinking counts:
    on 3072x512 ``centre`` and ``squash`` see 1/6, ``letterbox`` 1/36, ``tiles`` everything.
    """
    name, given = parse(view)
    width, height = canvas.width, canvas.height
    side = given or min(width, height)
    if name == "squash":
        return min(1.0, side / width) * min(1.0, side / height)
    if name == "letterbox":
        return min(1.0, side / max(width, height)) ** 2
    covered = np.zeros((height, width), dtype=bool)
    for b in boxes(view, canvas):
        covered[b.y : b.y + b.h, np.arange(b.x, b.x + b.w) % width] = True
    return float(covered.mean())


def _starts(length: int, side: int, step: int) -> list[int]:
    last = length - side
    return sorted({*range(0, last + 1, step), last})


def _even(length: int, side: int) -> list[int]:
    count = 1 if length == side else max(2, round(length / side))
    return [int(x) for x in np.linspace(0, length - side, count).round()]


@cache
def _turn(last: int, turn: int) -> int:
    """Draw number ``turn`` of numpy's legacy generator seeded with 2023, below ``last``: the end is never drawn."""
    return int(np.random.RandomState(2023).randint(0, last, size=turn + 1)[-1]) if last else 0


def _strips(canvas: Canvas, side: int) -> tuple[Box, ...]:
    half = side // 4
    across = [Box(x - half, 0, 2 * half, canvas.height) for x in range(side, canvas.width, side)]
    across = [b for b in across if b.x + b.w <= canvas.width]
    if canvas.loop:
        across.append(Box(canvas.width - half, 0, 2 * half, canvas.height))
    down = [Box(0, y - half, canvas.width, 2 * half) for y in range(side, canvas.height, side)]
    return (*across, *(b for b in down if b.y + b.h <= canvas.height))


def _draw(last: int, prompt_id: str, axis: str) -> int:
    number = int.from_bytes(hashlib.sha256(f"view:1:{axis}:{prompt_id}".encode()).digest()[:8])
    return number % (last + 1)


def _cut(rgb: np.ndarray, box: Box) -> np.ndarray:
    rows = rgb[box.y : box.y + box.h]
    if box.x + box.w <= rgb.shape[1]:
        return rows[:, box.x : box.x + box.w]
    return rows[:, np.arange(box.x, box.x + box.w) % rgb.shape[1]]


def _fit(rgb: np.ndarray, side: int, bars: bool) -> np.ndarray:
    """Resize to a square (Pillow, antialiased bicubic), keeping the shape and adding black bars if ``bars``."""
    from PIL import Image

    height, width = rgb.shape[:2]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale))) if bars else (side, side)
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
    square = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = small
    return square
