"""What a method returned, and what is likely wrong with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.types import Canvas

LIKELY = 1.1  # how far beyond -1 to 1 a picture in that range may go


def kind_cause(picture: Any, canvas: Canvas) -> str:
    """Why something is no picture of floats; empty where nothing is known."""
    if picture is None:
        return "nothing is returned: end with `return`"
    if hasattr(picture, "images"):
        return "the output of a pipeline: return .images[0], as floats (pipeline argument output_type='pt')"
    if isinstance(picture, list | tuple):
        return "return one picture"
    if hasattr(picture, "getbands"):
        return "a PIL picture: numpy.asarray(picture).transpose(2, 0, 1) / 255"
    if "uint8" in str(getattr(picture, "dtype", "")):
        return "levels from 0 to 255: turn them into floats and divide by 255"
    return shape_cause(tuple(getattr(picture, "shape", ())), canvas)


def shape_cause(shape: tuple[int, ...], canvas: Canvas) -> str:
    """Why a shape is not (3, height, width); empty where nothing is known."""
    height, width = canvas.height, canvas.width
    if shape == (height, width, 3):
        return "looks like height x width x 3: permute(2, 0, 1)"
    if len(shape) == 4 and shape[0] == 1:
        inner = shape_cause(shape[1:], canvas)
        return "the batch is left on: return picture[0]" + (f"; then it {inner}" if inner else "")
    if len(shape) == 4:
        return f"a batch of {shape[0]}: return one picture"
    if shape == (3, width, height) and width != height:
        return "looks like width x height: transpose(1, 2)"
    if shape in ((height, width), (1, height, width)):
        return "looks like one channel of grey: expand(3, -1, -1)"
    if shape == (4, height, width):
        return "looks like RGBA: leave the fourth channel out"
    if len(shape) == 3 and min(shape) > 0 and width / shape[2] == height / shape[1] == width // shape[2] > 1:
        return f"1/{width // shape[2]} of the canvas: latents that are not decoded (methods.shared.canvas.picture)?"
    if len(shape) == 3 and shape[0] == 3:
        return f"wrong size: the canvas is {width} wide and {height} high, this is {shape[2]} wide and {shape[1]} high"
    return ""


def range_cause(low: float, high: float) -> str:
    """Why values are not in [0, 1]."""
    if low < 0:
        both = low >= -LIKELY and high <= LIKELY and low < -0.5
        return "looks like -1..1: x / 2 + 0.5" if both else "negative values: clamp(0, 1) what the decoder overshoots"
    if high > 2:
        return "looks like 0..255: divide by 255"
    return "clamp(0, 1) what the decoder overshoots"


def because(said: str, cause: str) -> str:
    """What is wrong, with its likely cause where one is known."""
    return f"{said}: {cause}" if cause else said


def place(fn: Callable[..., Any]) -> str:
    """File and line of a function, as ``FILE:LINE in NAME``."""
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    return f"{Path(code.co_filename)}:{code.co_firstlineno} in {fn.__name__}" if code else str(fn)
