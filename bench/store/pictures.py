"""Reading pictures that were made elsewhere: one function and one rule for every odd kind of file, and for folders."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = {  # what is read, by Pillow's names, and the suffixes it counts under in a folder
    "PNG": (".png", ".apng"), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "MPO": (".mpo",), "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"), "BMP": (".bmp",), "AVIF": (".avif",), "GIF": (".gif",), "QOI": (".qoi",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}  # fmt: skip
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
HIDDEN = ("__macosx", "thumbs", "thumbs.db", "@eadir", "$recycle.bin")  # beside all that begins with a dot
MAX_PIXELS = 2**29  # 32768x16384; larger files are taken for a mistake or an attack
MAX_TEXT = 2**26  # bytes of text or colour profile in a PNG, unpacked: workflows of a few MB are common
FLAT = 2  # levels that a channel of a flat picture may span: what rounding leaves
BAND = 2**20  # pixels that are converted at once
_LOCK = Lock()  # Pillow's own limits are globals


@dataclass(frozen=True)
class Head:
    """What is known of a picture file before it is decoded: its size as read, and whether its format loses detail."""

    width: int
    height: int
    lossy: bool


def picture_files(folder: Path) -> list[Path]:
    """The picture files in a folder and its subfolders, by suffix, in the order of their names.

    Left out is what systems and editors put beside pictures: names that begin with a dot (``.ipynb_checkpoints``,
    ``._name``) and those in ``HIDDEN``, with all below them. Only names below ``folder`` count. Links to folders are
    not followed.

    Raises:
        UsageError: a folder that cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot list folder {error.filename}: {error.strerror}")

    found = []
    for place, inner, names in os.walk(folder, onerror=refuse):
        inner[:] = [n for n in inner if not _hidden(n)]
        found += [Path(place, n) for n in names if n.lower().endswith(SUFFIXES) and not _hidden(n)]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in HIDDEN


def read_picture(path: Path | str) -> np.ndarray:
    """The pixels of a picture file as a viewer shows them, uint8 (h, w, 3) in RGB.

    ================  ==========================================================================
    formats           ``FORMATS``, known by their content, not by their suffix
    transparency      laid on white, as browsers and viewers do
    16 bits           the high byte of each value, for grey pictures as for coloured ones
    CMYK, YCbCr, Lab  Pillow's plain conversion; colour profiles are not applied to any picture
    grey, palette     the same grey or the palette's colour in all three channels
    EXIF orientation  applied
    animation, pages  refused; of a camera's MPO file the first picture is taken
    32-bit values     refused: integers and floats of that size have no agreed white
    size              up to ``MAX_PIXELS`` (32768x16384), beyond Pillow's own limit
    text, profiles    ignored; up to ``MAX_TEXT`` (64 MiB) in a PNG
    damage            refused, whatever ``LOAD_TRUNCATED_IMAGES`` says
    ================  ==========================================================================

    Raises:
        UsageError: no picture, a damaged or refused one; with its path and what to do.
    """
    with _named(path), opened(path) as picture:
        if problem := _refused(picture):
            raise UsageError(f"cannot take picture {path}: {problem}")
        picture.load()  # some formats turn themselves now, and are upright afterwards
        return pixels(_without_alpha(_upright(picture)))


def read_head(path: Path | str) -> Head:
    """Size and kind of a picture file, as :func:`read_picture` will give it; pixels are not decoded.

    Raises:
        UsageError: as :func:`read_picture`, where the head of the file already shows it.
    """
    with _named(path), opened(path) as picture:
        if problem := _refused(picture):
            raise UsageError(f"cannot take picture {path}: {problem}")
        width, height = picture.size
        if picture.format != "TIFF" and _orientation(picture) >= 5:  # Pillow gives the size of a turned TIFF turned
            width, height = height, width
        return Head(width, height, picture.format in LOSSY)


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


def nothing_on(rgb: np.ndarray) -> list[str]:
    """Why a picture shows nothing: ``black``, or ``flat`` where each channel spans at most 2 of 255 levels."""
    if not rgb.any():
        return ["black"]
    return ["flat"] if (np.ptp(rgb, axis=(0, 1)) <= FLAT).all() else []


def packed(rgb: np.ndarray) -> bytes:
    """The PNG file of a picture, uint8 (h, w, 3)."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(rgb).save(png, format="png")
    return png.getvalue()


@contextmanager
def opened(path: Path | str) -> Iterator[Picture]:
    """A picture file, not decoded yet; while it is open our limits take the place of Pillow's own.

    Raises:
        UsageError: a larger picture, or one without pixels.
    """
    from PIL import Image

    if not Path(path).is_file():  # a pipe or a device would wait for ever
        raise UsageError(f"no picture file {path}")
    Image.init()  # Pillow knows which formats it was built with; MPO files open as JPEG
    with _our_limits(), Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as picture:
        width, height = picture.size
        if not 0 < width * height <= MAX_PIXELS:
            few = "it has no pixels" if not width * height else f"more than {MAX_PIXELS} pixels; cut it into parts"
            raise UsageError(f"cannot take picture {path}: {width}x{height} is {few}")
        yield picture


def pixels(picture: Picture) -> np.ndarray:
    """The pixels of an open picture in RGB, uint8 (h, w, 3); band by band, so that they exist twice and no more."""
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = np.asarray(picture.crop((0, top, width, bottom)).convert("RGB"))
    return rgb


@contextmanager
def _named(path: Path | str) -> Iterator[None]:
    """Every failure as an error with the file's name: decoders fail on broken bytes in many ways."""
    try:
        yield
    except UsageError:
        raise
    except MemoryError as error:
        raise UsageError(f"cannot read picture {path}: it takes more memory than there is") from error
    except Exception as error:
        why = str(error) or type(error).__name__
        raise UsageError(f"cannot read picture {path}: {why}; mend it or take it away") from error


@contextmanager
def _our_limits() -> Iterator[None]:
    from PIL import Image, ImageFile, PngImagePlugin

    limits = (
        (Image, "MAX_IMAGE_PIXELS", None), (PngImagePlugin, "MAX_TEXT_CHUNK", MAX_TEXT),
        (PngImagePlugin, "MAX_TEXT_MEMORY", MAX_TEXT), (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    )  # fmt: skip
    with _LOCK:
        before = [getattr(module, name) for module, name, _ in limits]
        try:
            for module, name, ours in limits:
                setattr(module, name, ours)
            yield
        finally:
            for (module, name, _), theirs in zip(limits, before, strict=True):
                setattr(module, name, theirs)


def _refused(picture: Picture) -> str:
    """Why a picture is not taken; empty if it is."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        return f"it holds {frames} pictures; save the one that is meant as a picture of its own"
    if picture.mode in ("I", "F"):
        return f"its values have 32 bits (mode {picture.mode}) and no agreed white; save it with 8 or 16 bits"
    return ""


def _orientation(picture: Picture) -> int:
    """EXIF orientation, 1 to 8; 1 where it says something else."""
    value = picture.getexif().get(0x0112)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(picture: Picture) -> Picture:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    orientation = _orientation(picture)
    if orientation == 1:
        return picture
    turned = picture.transpose(turns[orientation])
    turned.info = picture.info  # transparency
    return turned


def _without_alpha(picture: Picture) -> Picture:
    """A picture of 8 bits without transparency."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.uint16)
        grey = (values >> 8).astype(np.uint8)
        grey[values == picture.info.get("transparency", -1)] = 255
        return Image.fromarray(grey)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture
