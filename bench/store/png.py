"""PNG by rows: large pictures written and read without ever being whole in memory. The rest is Pillow's.

Written are 8 bits RGB in one pass, each row by the one of the filters ``none``, ``sub`` and ``up`` whose bytes are the
smallest in sum, the specification's advice (W3C PNG, section 12.7). These three are undone with whole rows at a time.
A file with another filter, as most programs write, is :class:`Foreign` here and no less a PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ROWS = 16  # of a strip that is read
LEVEL = 4  # of zlib: half the time of its usual 6, a few per cent more bytes
PIECE = 2**20  # bytes of a chunk of pixels
LONGEST = 2**26  # bytes of a chunk that is read at once
NONE, SUB, UP = 0, 1, 2


class Foreign(Exception):
    """A PNG that cannot be read by rows here."""


def encode(height: int, width: int, strips: Iterable[np.ndarray]) -> Iterator[bytes]:
    """A PNG file, piece by piece, of strips of whole rows from the top, uint8 (n, width, 3).

    Raises:
        ValueError: strips of another width, or not ``height`` rows of them.
    """
    yield SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    packer = zlib.compressobj(LEVEL, strategy=zlib.Z_FILTERED)
    above, done, waiting = np.zeros((1, width * 3), np.uint8), 0, b""
    for strip in strips:
        if strip.shape[1:] != (width, 3):
            raise ValueError(f"expected strips {width} pixels wide, got {strip.shape}")
        rows = strip.reshape(len(strip), width * 3)
        waiting += packer.compress(_filtered(rows, above).data)
        above, done = rows[-1:], done + len(rows)
        if len(waiting) >= PIECE:
            yield _chunk(b"IDAT", waiting)
            waiting = b""
    if done != height:
        raise ValueError(f"expected {height} rows, got {done}")
    yield _chunk(b"IDAT", waiting + packer.flush()) + _chunk(b"IEND", b"")


def _filtered(rows: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Rows (n, bytes) with the byte of their filter in front; ``above`` (1, bytes) is the row before them."""
    shifted = np.zeros_like(rows)
    shifted[:, 3:] = rows[:, :-3]
    tried = (rows, rows - shifted, rows - np.concatenate([above, rows[:-1]]))
    sums = [np.abs(t.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64) for t in tried]
    best = np.argmin(sums, axis=0)
    out = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
    out[:, 0] = best
    for kind, made in enumerate(tried):
        out[best == kind, 1:] = made[best == kind]
    return out


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def size(path: Path) -> tuple[int, int]:
    """(height, width) that a PNG states; (0, 0) where it does not begin like one."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:8] != SIGNATURE or head[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack(">II", head[16:24])
    return height, width


def decode(path: Path) -> Iterator[np.ndarray]:
    """The strips of a PNG from the top, uint8 (n, width, 3), ``ROWS`` rows at most.

    Raises:
        Foreign: it has other filters or another kind of pixels; some strips may have come before.
        ValueError: it is damaged.
    """
    with path.open("rb") as file:
        if file.read(8) != SIGNATURE:
            raise ValueError("it does not begin like a PNG")
        chunks = _chunks(file)
        kind, head = next(chunks, (b"", b""))
        if kind != b"IHDR" or len(head) != 13:
            raise ValueError("it has no head")
        width, height, *how = struct.unpack(">IIBBBBB", head)
        if how != [8, 2, 0, 0, 0]:
            raise Foreign("not 8 bits of RGB in one pass")
        above, done = np.zeros(width * 3, np.uint8), 0
        for raw in _unpacked(chunks, height, width * 3 + 1):
            rows = _unfiltered(raw, above)
            above, done = rows[-1], done + len(rows)
            yield rows.reshape(len(rows), width, 3)
        if done != height:
            raise ValueError(f"it ends after {done} of {height} rows")


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of each chunk up to the end mark."""
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it ends before its end mark")
        length, kind = struct.unpack(">I4s", head)
        if length > LONGEST:
            raise Foreign(f"a chunk of {length} bytes")
        data, mark = file.read(length), file.read(4)
        if len(data) < length or mark != struct.pack(">I", zlib.crc32(kind + data)):
            raise ValueError(f"chunk {kind!r} is damaged")
        if kind == b"IEND":
            return
        yield kind, data


def _unpacked(chunks: Iterable[tuple[bytes, bytes]], height: int, length: int) -> Iterator[np.ndarray]:
    """The rows as they are packed, (n, length), of ``height`` in all."""
    unpacker, most, left, waiting = zlib.decompressobj(), ROWS * length, height, bytearray()
    for kind, data in chunks:
        if kind in (b"PLTE", b"tRNS"):
            raise Foreign("a palette or a colour that is transparent")
        while kind == b"IDAT" and data and left:
            try:
                waiting += unpacker.decompress(data, most - len(waiting))
            except zlib.error as error:
                raise ValueError(f"its pixels do not unpack: {error}") from error
            data, n = unpacker.unconsumed_tail, min(left, len(waiting) // length)
            if n and (n == left or len(waiting) == most):
                yield np.frombuffer(bytes(waiting[: n * length]), np.uint8).reshape(n, length)
                left -= n
                del waiting[: n * length]


def _unfiltered(raw: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The rows of packed rows (n, 1 + bytes); ``above`` is the row before them."""
    rows = raw[:, 1:].copy()
    for row, kind in zip(rows, raw[:, 0]):
        if kind == SUB:
            np.add.accumulate(row.reshape(-1, 3), axis=0, dtype=np.uint8, out=row.reshape(-1, 3))
        elif kind == UP:
            row += above
        elif kind != NONE:
            raise Foreign(f"a row with filter {kind}")
        above = row
    return rows
