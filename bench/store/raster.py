"""Pictures too large for memory, on disk: one that is being added up, and one that is looked at through windows.

Both lie in a file that has no name and goes with the process, beside what the store keeps: at 32768x4096 the sum takes
1.6 GB while the picture is made, the pixels 0.4 GB. They are read and written by plain calls, never mapped: what they
leave in the system's cache of files is the system's to drop, and no memory of the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.store.commit import writing

STRIP = 64  # rows that are handled at once
BLOCK = 1024  # columns of a block of a sum


def strips(pixels: np.ndarray | Raster, rows: int = STRIP) -> Iterator[np.ndarray]:
    """The rows of a picture (h, w, 3) from the top, so many at a time."""
    return (pixels[y : y + rows, :] for y in range(0, len(pixels), rows))


class Raster:
    """Pixels of a picture on disk, uint8 (height, width, 3).

    ``raster[y0:y1, x0:x1]`` reads a window as an array, ``np.asarray(raster)`` everything.

    Args:
        folder: on the disk that is to hold them, made if it is not there.
        height, width: of the picture.
        strips: its rows from the top, in arrays of some rows each.

    Raises:
        StoreError: the disk is full.
        ValueError: strips that are no such picture.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, folder: Path, height: int, width: int, strips: Iterable[np.ndarray]) -> None:
        self.shape = (height, width, 3)
        self._file, rows = _scratch(folder), 0
        for strip in strips:
            if strip.dtype != np.uint8 or strip.shape[1:] != self.shape[1:]:
                raise ValueError(f"expected strips of uint8 {('n', *self.shape[1:])}, got {strip.dtype} {strip.shape}")
            with writing(folder, height * width * 3):
                self._file.write(np.ascontiguousarray(strip).data)
            rows += len(strip)
        with writing(folder, height * width * 3):
            self._file.flush()
        if rows != height:
            raise ValueError(f"expected {height} rows, got {rows}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, down), (left, right, across) = (s.indices(n) for s, n in zip(window, self.shape, strict=False))
        if (down, across) != (1, 1):
            raise IndexError("windows of a picture on disk have no steps")
        height, width = max(0, bottom - top), max(0, right - left)
        found = np.empty((height, width, 3), np.uint8)
        if width == self.shape[1]:
            self._read(top * width * 3, found)
        else:
            for y, row in enumerate(found, top):
                self._read((y * self.shape[1] + left) * 3, row)
        return found

    def _read(self, offset: int, into: np.ndarray) -> None:
        self._file.seek(offset)
        if into.size and self._file.readinto(into.data) != into.size:  # type: ignore[attr-defined]
            raise ValueError("the scratch file of a picture is shorter than it was")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:, :]
        return whole if dtype is None else whole.astype(dtype)


class Sum:
    """A picture being added up on disk, (3, height, width), in blocks of ``STRIP`` rows and ``BLOCK`` columns."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.shape, self.folder = (3, height, width), folder
        self._file = _scratch(folder)
        self._across = -(-width // BLOCK)
        self._begun: set[int] = set()

    def add(self, y: int, x: int, values: np.ndarray) -> None:
        """Add (3, h, w), which lies in the picture, in single precision.

        Raises:
            StoreError: the disk is full.
        """
        _, height, width = values.shape
        for i in range(y // STRIP, -(-(y + height) // STRIP)):
            for j in range(x // BLOCK, -(-(x + width) // BLOCK)):
                block = self._block(i, j)
                top, left = i * STRIP, j * BLOCK
                a, b = max(y, top), max(x, left)
                c, d = min(y + height, top + STRIP), min(x + width, left + BLOCK)
                block[:, a - top : c - top, b - left : d - left] += values[:, a - y : c - y, b - x : d - x]
                self._keep(i, j, block)

    def blocks(self) -> Iterator[Iterator[np.ndarray]]:
        """The sum, row of blocks after row of blocks, without what blocks have beyond the picture."""
        _, height, width = self.shape
        for i in range(-(-height // STRIP)):
            yield (self._block(i, j)[:, : height - i * STRIP, : width - j * BLOCK] for j in range(self._across))

    def _block(self, i: int, j: int) -> np.ndarray:
        block = np.zeros((3, STRIP, BLOCK), np.float32)
        if (at := i * self._across + j) in self._begun:
            self._file.seek(at * block.nbytes)
            self._file.readinto(block.data)  # type: ignore[attr-defined]
        return block

    def _keep(self, i: int, j: int, block: np.ndarray) -> None:
        at = i * self._across + j
        with writing(self.folder, self._across * -(-self.shape[1] // STRIP) * block.nbytes):
            self._file.seek(at * block.nbytes)
            self._file.write(block.data)
        self._begun.add(at)


def _scratch(folder: Path) -> IO[bytes]:
    with writing(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
