"""The pictures of a report as WebP: a preview of each, the picture itself, and tiles of those too large for one file.

Files are named by the picture's id, so a report written again makes only those that are new.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import text
from bench.store.commit import writing
from bench.store.index import query
from bench.store.raster import Raster
from bench.types import Canvas
from bench.views import boxes

if TYPE_CHECKING:
    from bench.report.site.numbers import Step
    from bench.store import Store
    from bench.suites.suite import Suite

PREVIEW = (1024, 96)  # px: a preview is no wider and no higher
SIDE, TILE = 4096, 512  # px: a picture with a longer side is cut into tiles of this side
OVERLAID = ("windows", "tiles", "seams")  # views whose boxes are drawn over a picture
WHOLE, FILE, TILES = "preview", "file", "tiles"  # where a picture's own pixels are: in its preview, a file, tiles

DONE = "done"  # a file that says all tiles are there


@dataclass(frozen=True)
class Shown:
    """A picture in a report: its size, and where its own pixels are."""

    image_id: str
    width: int
    height: int
    kind: str


def placed(store: Store, suite: Suite) -> list[tuple[str, str, str, int, str, int, int]]:
    """(part, prompt, method, seed, image, width, height) of every picture that is made."""
    return query(store, f"""
        select part, prompt_id, method, seed, image_id, width, height from picture
        where suite_digest = {text(suite.digest)} and image_id is not null
        order by part, prompt_id, method, seed""")[1]  # type: ignore[return-value]  # fmt: skip


def overlays(suite: Suite) -> dict[str, dict[str, list[list[int]]]]:
    """Part -> view -> boxes [x, y, width, height] that are drawn over its pictures."""
    return {
        p.name: {
            view: [[b.x, b.y, b.w, b.h] for b in boxes(view, Canvas(p.canvas.width, p.canvas.height, False))]
            for view in OVERLAID
        }
        for p in suite.parts
    }


def kind(width: int, height: int) -> str:
    """Where a picture of a size has its own pixels in a report."""
    if width <= PREVIEW[0] and height <= PREVIEW[1]:
        return WHOLE
    return TILES if max(width, height) > SIDE else FILE


def write_pictures(
    store: Store, images: Iterable[tuple[str, int, int]], out: Path, whole: bool = True, step: Step = lambda: None
) -> list[Shown]:
    """Write what is not there yet of pictures (id, width, height) under ``out``.

    ``previews/ID.webp`` always; without loss where the preview is the whole picture. Larger ones, if ``whole``:
    ``pictures/ID.webp`` (quality 92), or tiles ``tiles/ID/LEVEL/COLUMN_ROW.webp`` (quality 88) where level 0 is the
    picture and each further one half as wide and high.

    Raises:
        StoreError: a picture that is missing or damaged, or a full disk.
    """
    shown = []
    for image_id, width, height in images:
        of = kind(width, height)
        files = {WHOLE: [], FILE: [out / "pictures" / f"{image_id}.webp"], TILES: [out / "tiles" / image_id / DONE]}
        preview, own = out / "previews" / f"{image_id}.webp", files[of] if whole else []
        if not all(path.exists() for path in (preview, *own)):
            pixels = store.open_image(image_id)
            smaller = _write_own(pixels, of, own[0]) if own else _reduced(pixels)
            _write_preview(smaller, preview, of == WHOLE)
        shown.append(Shown(image_id, width, height, of if own else WHOLE))
        step()
    return shown


def sweep(out: Path, shown: Iterable[Shown]) -> None:
    """Take away the pictures that an earlier report under ``out`` had and this one has not."""
    kept = {s.image_id for s in shown}
    for folder in ("previews", "pictures", "tiles"):
        for path in (out / folder).glob("*"):
            if path.stem not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_own(pixels: np.ndarray | Raster, of: str, path: Path) -> np.ndarray:
    """Write a picture's own pixels; returns the picture, or a smaller one, to make the preview of."""
    from PIL import Image

    if of == FILE:
        picture = np.asarray(pixels)
        _save(Image.fromarray(picture), path, quality=92)
        return picture
    smallest = write_tiles(pixels, path.parent)
    _put(path, b"")  # all tiles are there
    return smallest


def _write_preview(pixels: np.ndarray, path: Path, exact: bool) -> None:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail(PREVIEW, Image.Resampling.LANCZOS)
    _save(picture, path, **({"lossless": True} if exact else {"quality": 82}))


def _reduced(pixels: np.ndarray | Raster) -> np.ndarray:
    """Every n-th pixel of a picture, at least as many as a preview has."""
    factor = max(1, min(pixels.shape[0] // PREVIEW[1], pixels.shape[1] // PREVIEW[0]))
    return np.concatenate([pixels[y : y + 1, :][:, ::factor] for y in range(0, pixels.shape[0], factor)])


def write_tiles(pixels: np.ndarray | Raster, folder: Path) -> np.ndarray:
    """Cut a picture (h, w, 3) into tiles at all levels down to the one that is a single tile, which is returned.

    A picture on disk is read in strips of ``TILE`` rows; each level is made of the strips of the one before.
    """
    rows: Iterator[np.ndarray] = (np.asarray(pixels[y : y + TILE, :]) for y in range(0, pixels.shape[0], TILE))
    shape, level = pixels.shape[:2], 0
    levels = rows
    while max(shape) > TILE:
        levels = _joined(_level(levels, folder / str(level)))
        shape, level = ((shape[0] + 1) // 2, (shape[1] + 1) // 2), level + 1
    (last,) = _level(levels, folder / str(level), keep=True)
    return last


def _level(strips: Iterable[np.ndarray], folder: Path, keep: bool = False) -> Iterator[np.ndarray]:
    """Write the tiles of a level as its strips come, and pass on what the next level is made of."""
    from PIL import Image

    for row, strip in enumerate(strips):
        for column, x in enumerate(range(0, strip.shape[1], TILE)):
            tile = Image.fromarray(np.ascontiguousarray(strip[:, x : x + TILE]))
            _save(tile, folder / f"{column}_{row}.webp", quality=88)
        yield strip if keep else halved(strip)


def halved(strip: np.ndarray) -> np.ndarray:
    """A strip at half its size by means of 2 by 2 pixels; an odd last row or column counts twice."""
    height, width = strip.shape[:2]
    even = np.pad(strip, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(np.uint16)
    quads = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((quads + 2) // 4).astype(np.uint8)


def _joined(halves: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Two half strips to one of ``TILE`` rows."""
    for first in halves:
        second = next(halves, None)
        yield first if second is None else np.concatenate([first, second])


def _save(picture: Any, path: Path, **options: Any) -> None:
    packed = BytesIO()
    picture.save(packed, format="WEBP", method=2, **options)
    _put(path, packed.getvalue())


def _put(path: Path, data: bytes) -> None:
    """A file that is whole where it is there. Not flushed to the disk, as the store's are: it can be made again."""
    with writing(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(path)
