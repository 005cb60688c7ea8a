"""Controls: pictures drawn from the known truth of a prompt, and its deliberate defects. They need no network.

A board shows them below the methods, so that every number can be read against the truth, against a panorama that
only repeats itself, against a blurred one and against one with a known number of suns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene


@method("world-truth", family="control")
def truth(prompt: Prompt, canvas: Canvas, noise: Noise) -> NDArray[np.float32]:
    """The prompt's scene as the renderer draws it: exactly what was asked."""
    return _floats(_truth(prompt, canvas, noise))


@method("world-tiled", family="control")
def tiled(prompt: Prompt, canvas: Canvas, noise: Noise) -> NDArray[np.float32]:
    """One drawn square repeated along the canvas: perfect squares, a worthless panorama.

    On a loop the square's own edges meet too, so that no seam shows where the canvas holds whole squares.
    """
    square = render(_scene(prompt, canvas), HEIGHT, _seed(noise), loop=canvas.loop).rgb
    return _floats(defects.tile(square, canvas.width))


@method("world-blurred", family="control")
def blurred(prompt: Prompt, canvas: Canvas, noise: Noise, *, sigma: float = 1.0) -> NDArray[np.float32]:
    """The truth under a Gaussian blur of ``sigma`` px: the right content, softly drawn."""
    return _floats(defects.blur(_truth(prompt, canvas, noise), sigma, canvas.loop))


@method("world-suns", family="control")
def suns(prompt: Prompt, canvas: Canvas, noise: Noise, *, k: int = 6) -> NDArray[np.float32]:
    """The truth with ``k`` copies of the prompt's unique thing, or as many as fit; an empty sky stays empty."""
    scene = _scene(prompt, canvas)
    if k < 0:
        raise UsageError(f"world-suns.k must be 0 or more, got {k}")
    most = max(1, canvas.width // 18)
    return _floats(defects.copies(scene, canvas.width, _seed(noise), min(k, most), canvas.loop).rgb)


def _truth(prompt: Prompt, canvas: Canvas, noise: Noise) -> NDArray[np.uint8]:
    return render(_scene(prompt, canvas), canvas.width, _seed(noise), loop=canvas.loop).rgb


def _scene(prompt: Prompt, canvas: Canvas) -> Scene:
    data: Any = prompt.attributes.get("scene")
    if data is None:
        raise PrerequisiteError(
            f"prompt {prompt.id!r} says no ScrollWorld scene, and only a known truth can be drawn; use prompts of the "
            "set scrollworld@1, whose attributes hold one, or leave the world-* controls out"
        )
    if canvas.height != HEIGHT or canvas.width < HEIGHT:
        raise UsageError(f"ScrollWorld is {HEIGHT} px high and at least as wide, got a canvas of {canvas} px")
    try:
        return Scene.from_dict(data)
    except UsageError as error:
        raise UsageError(f"prompt {prompt.id!r}: its attribute 'scene' is not a ScrollWorld scene: {error}") from error


def _seed(noise: Noise) -> int:
    """Renders of controls use seeds above those the networks are trained on."""
    return 2**31 + int(noise.generator("world").integers(2**31))


def _floats(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
