"""Candidates for a gate: nine defects that were tried first, nine others, and six that have none.

Each makes a candidate's pictures from pictures of the baseline's own sampler with another seed. The other
nine were chosen before their verdicts were seen; none may be changed because it is not caught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from bench.metrics.sharpness import LUMA
from bench.world import defects

RGB = np.ndarray
UNFINISHED = "a square lacks its last 4 of 20 steps"
SIDE, PERIOD = 32, 16  # px of a square, and between the borders of windows


@dataclass(frozen=True)
class Drawn:
    """Pictures of some prompts, by set: ``plain``, the baseline's own noise as ``same``, and what was drawn broken."""

    ids: Sequence[str]
    sets: Mapping[str, Sequence[RGB]]


Candidate = Callable[[Drawn], list[RGB]]


def each(change: Callable[[RGB, int], RGB], source: str = "plain") -> Candidate:
    """A change of every picture; it is told a number that is the prompt's own."""
    return lambda d: [change(rgb, number_of(of)) for of, rgb in zip(d.ids, d.sets[source], strict=True)]


def drawn(name: str) -> Candidate:
    """Pictures that had to be drawn."""
    return lambda d: list(d.sets[name])


def number_of(prompt_id: str) -> int:
    """The same for a prompt on every machine."""
    return sum(ord(c) * 31**i for i, c in enumerate(prompt_id)) % 2**31


def levels(values: Any) -> RGB:
    """Rounded to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def saturation(rgb: RGB, by: float) -> RGB:
    """Colours mixed with their luminance."""
    grey = (rgb @ np.array(LUMA))[..., None]
    return levels(grey + by * (rgb - grey))


def turned(rgb: RGB, degrees: float) -> RGB:
    """Hues turned round the grey axis."""
    axis, angle = np.full(3, 3**-0.5), np.deg2rad(degrees)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    return levels(rgb @ turn.T)


def patched(rgb: RGB, other: RGB, number: int) -> RGB:
    """One square taken from another picture of the same size."""
    x, out = SIDE * (number % (rgb.shape[1] // SIDE)), rgb.copy()
    out[:, x : x + SIDE] = other[:, x : x + SIDE]
    return out


def mirrored_half(rgb: RGB) -> RGB:
    """The right half is the mirror image of the left."""
    out, half = rgb.copy(), rgb.shape[1] // 2
    out[:, -half:] = rgb[:, :half][:, ::-1]
    return out


def pasted(rgb: RGB) -> RGB:
    """A square pasted where no tile begins."""
    out = rgb.copy()
    out[:, 77 : 77 + SIDE] = rgb[:, 5 : 5 + SIDE]
    return out


def bluer(rgb: RGB, by: float) -> RGB:
    """Blue rises along the canvas, by a share of the range at its right edge."""
    along = np.linspace(0, by * 255, rgb.shape[1])[None, :, None]
    return levels(rgb + along * np.array([0, 0, 1]))


def flat(count: int) -> Candidate:
    """Pictures of one colour for so many prompts."""

    def change(d: Drawn) -> list[RGB]:
        grey = [np.full_like(d.sets["plain"][0], 90 + 40 * i) for i in range(count)]
        return [*grey, *d.sets["plain"][count:]]

    return change


def swapped(d: Drawn) -> list[RGB]:
    """Of every twenty prompts the first two have each other's pictures."""
    found = list(d.sets["plain"])
    for i in range(0, len(found) - 1, 20):
        found[i], found[i + 1] = found[i + 1], found[i]
    return found


def unfinished(d: Drawn) -> list[RGB]:
    """One square of each picture as it was before its last four steps."""
    both = zip(d.ids, d.sets["plain"], d.sets["early"], strict=True)
    return [patched(rgb, early, number_of(of)) for of, rgb, early in both]


GIVEN: Mapping[str, Candidate] = {
    "grid of 3 %": each(lambda rgb, k: defects.seam(rgb, 0.03, range(PERIOD, rgb.shape[1], PERIOD))),
    "two flat pictures": flat(2),
    "a cloned tile": each(lambda rgb, k: defects.repeat(rgb, 1, k)),
    "guidance 1": drawn("guidance-1"),
    "saturation 0.8": each(lambda rgb, k: saturation(rgb, 0.8)),
    "right half mirrors the left": each(lambda rgb, k: mirrored_half(rgb)),
    "red times 1.04": each(lambda rgb, k: levels(rgb * np.array([1.04, 1, 1]))),
    UNFINISHED: unfinished,
    "half the steps": drawn("half-steps"),
}
OTHERS: Mapping[str, Candidate] = {
    "hues turned by 15 degrees": each(lambda rgb, k: turned(rgb, 15)),
    "contrast 0.85": each(lambda rgb, k: levels(rgb.mean() + 0.85 * (rgb - rgb.mean()))),
    "4 % darker": each(lambda rgb, k: levels(rgb * 0.96)),
    "one square blurred, sigma 1": each(lambda rgb, k: patched(rgb, defects.blur(rgb, 1.0), k)),
    "noise of 0.02 everywhere": each(lambda rgb, k: defects.noise(rgb, 0.02, k)),
    "a square pasted off the grid": each(lambda rgb, k: pasted(rgb)),
    "10 % bluer towards the right edge": each(lambda rgb, k: bluer(rgb, 0.1)),
    "one square upside down": each(lambda rgb, k: patched(rgb, rgb[::-1], k)),
    "one prompt in ten has another's picture": swapped,
}
NULLS: Mapping[str, Candidate] = {
    "another seed": drawn("plain"),
    "another seed, seven bits a value": each(lambda rgb, k: rgb // 2 * 2 + (rgb > 127)),
    "another seed, cut off instead of rounded": each(
        lambda rgb, k: levels(rgb - (np.random.default_rng(k).random(rgb.shape) < 0.5))
    ),
    "another seed, mirrored as a whole": each(lambda rgb, k: rgb[:, ::-1].copy()),
    "another seed, one pixel aside": each(lambda rgb, k: ndimage.shift(rgb, (0, 1, 0), order=0, mode="nearest")),
    "the same noise, a level more or less in places": each(
        lambda rgb, k: levels(rgb + np.random.default_rng(k).choice([-1, 0, 1], rgb.shape, p=[0.05, 0.9, 0.05])), "same"
    ),
}
