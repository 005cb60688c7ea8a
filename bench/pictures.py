"""Reading pictures that were made elsewhere: one function, one rule for every odd kind of file."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 2**29  # 32768x16384; larger files are taken for a mistake or an attack
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
    from PIL import Image, ImageOps

    try:
        with _LOCK:
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = before
        with picture:
            if problem := _refused(picture):
                raise UsageError(f"cannot take picture {path}: {problem}")
            ImageOps.exif_transpose(picture, in_place=True)
            return np.asarray(_rgb(picture))
    except UsageError:
        raise
    except Exception as error:  # decoders fail on broken bytes in many ways
        raise UsageError(f"cannot read picture {path}: {error}; mend it or take it away") from error


def _refused(picture: Picture) -> str:
    """Why a picture is not taken; empty if it is."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        return f"{width}x{height} is more than {MAX_PIXELS} pixels; cut it into parts"
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        return f"it holds {frames} pictures; save the one that is meant as a picture of its own"
    if picture.mode in ("I", "F"):
        return f"its values have 32 bits (mode {picture.mode}) and no agreed white; save it with 8 or 16 bits"
    return ""


def _rgb(picture: Picture) -> Picture:
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")
