"""Reading ScrollWorld pictures back with hand-written rules: reserved colours, sizes and rows. No network.

Neighbouring pixels of a kind's own colour (:mod:`bench.world.colours`) form blobs; pieces that together fit into one
thing are joined, blobs too wide for one thing are split, and blobs of the wrong size or in the wrong rows dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.errors import UsageError, near
from bench.world.colours import Floats, background, guess, membership, oklab
from bench.world.render import HEIGHT
from bench.world.scene import OBJECT_OF_BIOME, OBJECTS, UNIQUES, Scene

KINDS = (*UNIQUES, *OBJECTS)


@dataclass(frozen=True)
class Detection:
    """One thing found: its kind, its centre in pixels and how much of it is there (1: all of it)."""

    kind: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Shape:
    """What one thing of a kind looks like: box and reserved-colour area in px, rows its centre may have."""

    width: float
    height: float
    area: float
    rows: tuple[float, float]
    least: tuple[float, float]  # smallest width and height that still count
    widest: float = math.inf  # px; beyond it a blob is no row of things but something else, such as a glow
    share: float = 0.4  # least share of the area
    level: float = 0.45  # least membership of a pixel; suns and moons stand in a glow of their own colour
    opening: int = 1  # rows: flatter streaks of the same colour do not count
    peak: float = 0.6  # least mean membership of the strongest 6 px


SHAPES = {
    "sun": Shape(9, 9, 48, (2, 13), (4, 4), level=0.62),
    "moon": Shape(9, 9, 48, (2, 13), (4, 4), level=0.62),
    "balloon": Shape(8, 8, 43, (2, 13), (4, 4)),
    "lighthouse": Shape(4, 13, 20, (10, 20), (2, 7), widest=9),
    "house": Shape(7, 6, 26, (20, 30), (4, 3), share=0.3, peak=0.5),
    "boat": Shape(5, 5, 17, (18, 29), (3, 2)),
    "tent": Shape(7, 5, 18, (20, 31), (4, 3), share=0.35, peak=0.6, opening=3),
}


def detect_colour(
    rgb: NDArray[np.uint8], scene: Scene | None = None, kinds: Iterable[str] | None = None, loop: bool = False
) -> list[Detection]:
    """Find things by their reserved colours.

    Args:
        rgb: uint8 (32, W, 3).
        scene: what was asked for; its style and time say which colours to look for. None: judged by the sky.
        kinds: what to look for. Default: every unique thing and, as far as the scene tells, its counted object.
        loop: the left and right edges meet.

    Returns:
        Detections ordered by kind, then x. Sun and moon share their colours, so one picture holds only one of the
        two: what the scene names, else the moon at night.

    Raises:
        ValueError: a picture that is not uint8 (32, W, 3).
        UsageError: an unknown kind.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[0] != HEIGHT or rgb.shape[2] != 3:
        raise ValueError(f"expected a uint8 picture of shape ({HEIGHT}, W, 3), got {rgb.dtype} {rgb.shape}")
    style, time = (scene.style, scene.time) if scene else guess(rgb)
    wanted = _wanted(scene, time) if kinds is None else _known(kinds)
    width, pad = rgb.shape[1], min(rgb.shape[1], 24) if loop else 0
    lab = oklab(np.pad(rgb, ((0, 0), (pad, pad), (0, 0)), mode="wrap"))
    behind = background(lab, loop)
    claimed = np.zeros(lab.shape[:2], dtype=bool)
    found = []
    for kind in wanted:
        member = np.where(claimed, 0.0, membership(lab, behind, kind, style, time))
        for x, y, score in _things(SHAPES[kind], member):
            _claim(claimed, SHAPES[kind], x, y)
            if 0 <= round(x - pad, 6) < width if loop else True:
                found.append(Detection(kind, float(x - pad), float(y), float(min(1.0, score))))
    return found


def _known(kinds: Iterable[str]) -> tuple[str, ...]:
    for kind in (wanted := tuple(kinds)):
        if kind not in SHAPES:
            raise UsageError(f"no detector for {kind!r}; {near(kind, SHAPES)}")
    return wanted


def _wanted(scene: Scene | None, time: str) -> tuple[str, ...]:
    body = scene.unique if scene and scene.unique in ("sun", "moon") else "moon" if time == "night" else "sun"
    kind = OBJECT_OF_BIOME[scene.biome] if scene else None
    if scene and scene.counted:
        kind = scene.counted[0]
    return (body, "balloon", "lighthouse", *((kind,) if kind else OBJECTS if scene is None else ()))


def _claim(claimed: NDArray[np.bool_], shape: Shape, x: float, y: float) -> None:
    """What belongs to one thing is no piece of another: a lighthouse's lowest band is not a roof."""
    x0, x1 = int(max(0, x - shape.width / 2 - 1)), int(x + shape.width / 2 + 2)
    claimed[int(max(0, y - shape.height / 2 - 1)) : int(y + shape.height / 2 + 2), x0:x1] = True


@dataclass(frozen=True)
class _Blob:
    x0: int  # box, half open
    x1: int
    y0: int
    y1: int
    mass: float
    peak: float
    x: float
    y: float

    def join(self, other: _Blob) -> _Blob:
        mass = self.mass + other.mass
        t = other.mass / mass
        return _Blob(
            min(self.x0, other.x0), max(self.x1, other.x1), min(self.y0, other.y0), max(self.y1, other.y1), mass,
            max(self.peak, other.peak), self.x + (other.x - self.x) * t, self.y + (other.y - self.y) * t,
        )  # fmt: skip


def _blobs(member: Floats, level: float) -> list[_Blob]:
    labels, _ = ndimage.label(member > level, structure=np.ones((3, 3)))
    blobs = []
    for i, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
        part = np.where(labels[rows, cols] == i, member[rows, cols], 0.0)
        mass = float(part.sum())
        peak = float(np.mean(np.sort(part, axis=None)[-6:]))
        y, x = ndimage.center_of_mass(part)
        blobs.append(_Blob(cols.start, cols.stop, rows.start, rows.stop, mass, peak, x + cols.start, y + rows.start))
    return blobs


def _joined(blobs: list[_Blob], shape: Shape) -> list[_Blob]:
    """Join pieces, nearest first, as long as together they fit into one thing's box."""
    blobs = [b for b in blobs if b.mass >= 1]  # specks are noise
    while True:
        blobs.sort(key=lambda b: b.x0)
        fits = []
        for i, a in enumerate(blobs):
            for j in range(i + 1, len(blobs)):
                b = blobs[j]
                if b.x0 - a.x0 > shape.width:
                    break
                both = a.join(b)
                if both.x1 - both.x0 <= shape.width + 1 and both.y1 - both.y0 <= shape.height + 1:
                    fits.append((abs(a.x - b.x) + abs(a.y - b.y), i, j))
        if not fits:
            return blobs
        _, i, j = min(fits)
        blobs = [b for k, b in enumerate(blobs) if k not in (i, j)] + [blobs[i].join(blobs[j])]


def _things(shape: Shape, member: Floats) -> list[tuple[float, float, float]]:
    """(x, y, score) of every blob of the right size, left to right."""
    member = ndimage.grey_opening(member, size=(shape.opening, 1)) if shape.opening > 1 else member
    out = []
    for b in _joined(_blobs(member, shape.level), shape):
        wide, high = b.x1 - b.x0, b.y1 - b.y0
        placed = shape.rows[0] <= b.y <= shape.rows[1]
        sized = shape.least[0] <= wide <= shape.widest and shape.least[1] <= high <= 1.6 * shape.height + 1
        if not (placed and sized and b.mass >= shape.share * shape.area and b.peak >= shape.peak):
            continue
        by_width, by_mass = int(wide / shape.width + 0.4), int(b.mass / (0.75 * shape.area) + 0.35)
        n = max(1, min(by_width, by_mass))
        for i in range(n):
            x = b.x if n == 1 else b.x0 - 0.5 + (i + 0.5) * (b.x1 - b.x0) / n
            out.append((x, b.y, b.mass / n / shape.area))
    return sorted(out)


_SHIFTS = np.arange(-6, 7)  # px the horizon may stray
_MOST = 0.15  # Oklab: what differs more is an object, not a shifted background


def horizon_rows(rgb: NDArray[np.uint8], loop: bool = False) -> Floats:
    """The first row of ground in every column of a picture (32, W, 3): (W,) floats, px from the top.

    A landscape looks alike in all columns but for the height of its horizon: every column's profile (median of 25
    columns) is laid over the picture's median profile, and the best path of shifts pays for each change, so that it
    jumps only where the picture does. Changes along the picture are reliable; the level of the whole is the sharpest
    step of the median profile, which in fog and mountains can be a ridge.
    """
    pad = min(rgb.shape[1], 24) if loop else 0
    lab = oklab(np.pad(rgb, ((0, 0), (pad, pad), (0, 0)), mode="wrap"))
    typical = np.median(lab, axis=1)
    profile = ndimage.median_filter(lab, size=(1, 25, 1), mode="nearest")[8:28]
    moved = [typical[np.clip(np.arange(8, 28) - s, 0, HEIGHT - 1)][:, None] for s in _SHIFTS]
    misfit = np.stack([np.minimum(np.abs(profile - m).sum(-1), _MOST).mean(0) for m in moved])
    price = np.minimum(0.5 * np.abs(_SHIFTS[:, None] - _SHIFTS[None]), 4.0)
    step = np.sqrt((np.diff(typical, axis=0)[11:27] ** 2).sum(-1))
    level = 12 + int((step / (step + 0.01) + 0.01 * np.arange(16)).argmax())  # among sharp steps the lowest
    path = _best_path(-8 / _MOST * misfit, price)
    return level + _SHIFTS[path[pad : pad + rgb.shape[1]]].astype(np.float64)


def _best_path(gain: Floats, price: Floats) -> NDArray[np.int_]:
    """The row of every column that maximises gain (rows, columns) less the price (rows, rows) of each change."""
    best, back = gain[:, 0], []
    for column in gain.T[1:]:
        total = best[None] - price
        back.append(total.argmax(axis=1))
        best = column + total.max(axis=1)
    path = [int(best.argmax())]
    for previous in reversed(back):
        path.append(int(previous[path[-1]]))
    return np.array(path[::-1])
