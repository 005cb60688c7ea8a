"""Reading pictures that were made elsewhere: one function, one rule for every odd kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 2**29  # 32768x16384; larger files are taken for a mistake or an attack
BAND = 2**20  # pixels that are converted at once
_LOCK = Lock()  # Pillow's own limit is a global


def read_picture(path: Path | str) -> np.ndarray:
    """The pixels of a picture file as a viewer shows them, uint8 (h, w, 3) in RGB.

    ================  ==========================================================================
    transparency      laid on white, as browsers and viewers do
    16 bits           the high byte of each value, for grey pictures as for coloured ones
    CMYK, YCbCr, Lab  Pillow's plain conversion; colour profiles are not applied to any picture
    grey, palette     the same grey or the palette's colour in all three channels
    EXIF orientation  applied
    animation, pages  refused; of a camera's MPO file the first picture is taken
    32-bit values     refused: integers and floats of that size have no agreed white
    size              up to ``MAX_PIXELS`` (32768x16384), beyond Pillow's own limit
    ================  ==========================================================================

    Raises:
        UsageError: no picture, a damaged or refused one; with its path and what to do.
    """
    from PIL import ImageOps

    try:
        with opened(path) as picture:
            if problem := _refused(picture):
                raise UsageError(f"cannot take picture {path}: {problem}")
            ImageOps.exif_transpose(picture, in_place=True)
            return pixels(_without_alpha(picture))
    except UsageError:
        raise
    except Exception as error:  # decoders fail on broken bytes in many ways
        raise UsageError(f"cannot read picture {path}: {error}; mend it or take it away") from error


def levels(values: Any) -> np.ndarray:
    """round(255 x) as uint8 of values in [0, 1], clipped to it; ties go to the even level.

    Args:
        values: finite, an array, or a tensor on any device, of any float type. They become float64 before anything
            is done: there 255 x is exact up to float32, so it is rounded once. In a narrower type the product is
            rounded first, in half precision to steps that are as coarse as the levels.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    wide = np.asarray(values, dtype=np.float64)
    scaled: np.ndarray = np.rint(wide.clip(0, 1) * 255).astype(np.uint8)
    return scaled


@contextmanager
def opened(path: Path | str) -> Iterator[Picture]:
    """A picture file, not decoded yet; while it is open ``MAX_PIXELS`` takes the place of Pillow's own limit.

    Raises:
        UsageError: a larger picture.
    """
    from PIL import Image

    with _LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise UsageError(
                        f"cannot take picture {path}: {width}x{height} is more than {MAX_PIXELS} pixels; "
                        "cut it into parts"
                    )
                yield picture
        finally:
            Image.MAX_IMAGE_PIXELS = before


def pixels(picture: Picture) -> np.ndarray:
    """The pixels of an open picture in RGB, uint8 (h, w, 3); band by band, so that they exist twice and no more."""
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)).convert("RGB"))
    return rgb


def _refused(picture: Picture) -> str:
    """Why a picture is not taken; empty if it is."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        return f"it holds {frames} pictures; save the one that is meant as a picture of its own"
    if picture.mode in ("I", "F"):
        return f"its values have 32 bits (mode {picture.mode}) and no agreed white; save it with 8 or 16 bits"
    return ""


def _without_alpha(picture: Picture) -> Picture:
    """A picture of 8 bits without transparency."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture
