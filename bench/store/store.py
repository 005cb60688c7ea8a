"""The store: pictures by content, records by the line. Everything else in it can be made again.

    images/ab/<image id>.png    named after the digest of the decoded pixels, verified on every reading
    records/*.jsonl             see bench.store.records
    features/ references/ leaderboard.duckdb

Any number of processes may work on one store; only repairs want it for themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import StoreError, UsageError
from bench.ids import strips_id
from bench.store import pictures, png, records, tiff
from bench.store.commit import write_file
from bench.store.ledger import Ledger
from bench.store.pictures import opened, pixels
from bench.store.raster import Raster, strips
from bench.store.records import Journal, Record
from bench.types import large

DEFAULT = Path("results/store")
ENV = "SCROLLBENCH_STORE"
GRACE = 3600.0  # seconds; what is younger may belong to a run that has not yet written its record


@dataclass(frozen=True)
class VerifyReport:
    """What :meth:`Store.verify` found. ``ok`` is False while anything damaged is still in its place."""

    records: int
    pictures: int
    unreadable: tuple[str, ...]  # records that are damaged or cannot be used, as file:line: what is wrong
    damaged: tuple[str, ...]  # picture files
    torn: tuple[str, ...]  # tails of writes that a crash cut short; harmless
    missing: tuple[str, ...]  # ids of recorded pictures that are not here; the next run makes them again
    repaired: bool
    ok: bool


@dataclass(frozen=True)
class PruneReport:
    """What :meth:`Store.prune` removed, or would remove."""

    pictures: int
    temporaries: int
    bytes: int
    dry_run: bool


class Store:
    """A folder of results.

    Args:
        root: the folder, made when something is written; ``$SCROLLBENCH_STORE`` or ``results/store`` by default.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root if root is not None else os.environ.get(ENV) or DEFAULT)
        self._journal = Journal(self.root / "records")

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.root,)  # a copy in another process has a segment of its own

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # -- records

    def append(self, record: Mapping[str, Any]) -> Record:
        """Add a record (see :meth:`bench.store.records.Journal.append`)."""
        return self._journal.append(record)

    def records(self) -> list[Record]:
        """All records that can be used (:func:`bench.store.records.read`, which says what it raises and warns of)."""
        return records.read(self.root / "records")

    def ledger(self) -> Ledger:
        """All records as lookup tables."""
        return Ledger(self.records())

    # -- pictures

    def image_path(self, image_id: str) -> Path:
        """Where a picture lies, or would lie."""
        return self.root / "images" / image_id[:2] / f"{image_id}.png"

    def has_image(self, image_id: str) -> bool:
        """Whether there is a file; its content is checked when it is read."""
        return self.image_path(image_id).is_file()

    def write_image(self, rgb: np.ndarray | Raster) -> str:
        """Keep a picture, uint8 (h, w, 3), and return its id. It is on disk, whole, when this returns.

        A large one (:func:`bench.types.large`) is packed and written strip by strip.

        Raises:
            StoreError: it cannot be written (disk full: how much and where); nothing half-written stays.
            ValueError: no such picture, or one of more than ``bench.store.pictures.MAX_PIXELS``, which no one could
            read.
        """
        if rgb.dtype.name != "uint8" or len(rgb.shape) != 3 or rgb.shape[2] != 3:
            raise ValueError(f"a picture is uint8 (h, w, 3), got {rgb.dtype} {rgb.shape}")
        height, width, _ = rgb.shape
        if height * width > pictures.MAX_PIXELS:
            raise ValueError(f"a picture has at most {pictures.MAX_PIXELS} pixels, got {width}x{height}")
        name = strips_id(rgb.shape, strips(rgb))
        by_rows = large(height, width)
        packed = png.encode(height, width, strips(rgb, png.ROWS)) if by_rows else pictures.packed(np.asarray(rgb))
        write_file(self.image_path(name), packed, step="image", size=height * width * 3)
        return name

    def read_image(self, image_id: str) -> np.ndarray:
        """A picture's pixels, all in memory, as :meth:`open_image` gives them."""
        return np.asarray(self.open_image(image_id))

    def open_image(self, image_id: str) -> np.ndarray | Raster:
        """A picture's pixels, uint8 (h, w, 3), checked against its id.

        Of either kind ``pixels[y0:y1, x0:x1]`` is a window as an array. A large picture is unpacked to the store's
        disk, where it stays as long as it is looked at; one that another program packed is read whole.

        Raises:
            StoreError: no such picture, or a damaged file; names the file and what to do.
        """
        path = self.image_path(image_id)
        if not path.is_file():
            raise StoreError(f"no picture {image_id} at {path}; `scrollbench generate` makes it again")
        found = self._content(path)
        if isinstance(found, str):
            raise StoreError(
                f"damaged picture {path}: {found}. `scrollbench store verify --repair` sets it aside, "
                "`scrollbench generate` then makes just that picture again"
            )
        return found

    def copy_image(self, image_id: str, path: Path | str) -> Path:
        """Write a picture out of the store, where viewers look for it.

        Args:
            image_id: which.
            path: ``.png`` for the store's own file, ``.tif`` or ``.tiff`` for a tiled BigTIFF.

        Raises:
            UsageError: another ending.
            StoreError: as :meth:`open_image`; or it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".png", *tiff.SUFFIXES):
            raise UsageError(f"{path}: a picture is written as .png, .tif or .tiff; got {path.suffix or 'no ending'!r}")
        pixels = self.open_image(image_id)
        if path.suffix.lower() == ".png":
            with self.image_path(image_id).open("rb") as file:
                write_file(path, iter(partial(file.read, png.PIECE), b""))
        else:
            tiff.write_tiff(pixels, path)
        return path

    def _content(self, path: Path) -> np.ndarray | Raster | str:
        """The pixels of a picture file, or what is wrong with it."""
        try:
            found = self._unpacked(path)
        except StoreError:  # the disk is full: no fault of the file
            raise
        except Exception as error:  # decoders fail on broken bytes in many ways
            return f"it does not decode ({error})"
        name = strips_id(found.shape, strips(found))
        return found if name == path.stem else f"its pixels do not match its name (they are {name})"

    def _unpacked(self, path: Path) -> np.ndarray | Raster:
        height, width = png.size(path)
        if large(height, width) and height * width <= pictures.MAX_PIXELS:
            with suppress(png.Foreign):
                return Raster(self.root, height, width, png.decode(path))
        with opened(path) as picture:
            return pixels(picture)

    # -- upkeep

    def verify(self, repair: bool = False) -> VerifyReport:
        """Read everything and say what is damaged or cannot be used.

        With ``repair`` such lines move to ``records/*.bad`` and damaged pictures to ``*.png.bad``; the next run
        makes those pictures again. Repair while nothing else writes to the store.
        """
        lines = list(records.scan(self.root / "records"))
        unreadable = [line for line in lines if line.problem]
        pictures = list(self._pictures())
        damaged = {path: found for path in pictures if isinstance(found := self._content(path), str)}
        if repair:
            records.set_aside(unreadable)
            for path in damaged:
                os.replace(path, path.with_name(path.name + ".bad"))
        named = {line.record["image_id"] for line in lines if line.record and line.record["kind"] == "image"}
        return VerifyReport(
            records=sum(line.record is not None for line in lines),
            pictures=len(pictures),
            unreadable=tuple(f"{line.where}: {line.problem}" for line in unreadable),
            damaged=tuple(f"{path}: {why}" for path, why in damaged.items()),
            torn=tuple(line.where for line in lines if line.torn),
            missing=tuple(sorted(i for i in named if not self.has_image(i))),
            repaired=repair and bool(unreadable or damaged),
            ok=repair or not (unreadable or damaged),
        )

    def prune(self, dry_run: bool = False, grace: float = GRACE) -> PruneReport:
        """Delete pictures that no record names and what killed runs left in temporary files.

        Args:
            dry_run: only count.
            grace: seconds; younger files are left alone, as a run at work writes the picture before the record.
        """
        named = {r["image_id"] for r in self.records() if "image_id" in r}
        before = time.time() - grace
        pictures = [p for p in self._pictures() if p.stem not in named and p.stat().st_mtime < before]
        inside = [p for folder in self.root.glob(".index-*.tmp") for p in folder.iterdir()]  # of a killed build
        leftovers = [p for p in (*self.root.rglob(".*.tmp"), *inside) if p.is_file() and p.stat().st_mtime < before]
        size = sum(p.stat().st_size for p in (*pictures, *leftovers))
        if not dry_run:
            for path in (*pictures, *leftovers):
                path.unlink(missing_ok=True)
            for folder in self.root.glob(".index-*.tmp"):
                if not any(folder.iterdir()):
                    folder.rmdir()
        return PruneReport(len(pictures), len(leftovers), size, dry_run)

    def _pictures(self) -> Iterator[Path]:
        return iter(sorted((self.root / "images").glob("*/*.png")))
