"""Features, computed once per (picture, extractor, view) and kept as Parquet parts anybody can read.

    features/<extractor>-<digest>/<digest of the file>.parquet    image_id, view, idx, vector FLOAT[]

A part is immutable and named after its own bytes, so a damaged one is found when it is opened: it is set aside
with a warning and its features are computed again. Writers never share a file, so any number of them may work at once.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.errors import StoreError
from bench.ids import file_digest
from bench.store.commit import sync_folder, writing
from bench.store.engine import cursor

Key = tuple[str, str]  # image id, view key (bench.views.key)
PART = 64  # keys per part
PART_BYTES = 2**26  # of features per part, where that is fewer keys
HELD_BYTES = 2**28  # of features that are on disk and kept in memory as well


class Features:
    """The feature table of one extractor, read lazily part by part.

    Of what is on disk at most ``HELD_BYTES`` stay in memory, the last used; the rest is read again when asked for.

    Args:
        root: the store's ``features`` folder.
        name, digest: the extractor's; both are part of the folder's name.

    Use it as a context manager, or call :meth:`flush`: what is not flushed is only in memory.
    """

    def __init__(self, root: Path, name: str, digest: str) -> None:
        self.folder = root / f"{name}-{digest}"
        self._where: dict[Key, Path] = {}
        self._held: dict[Key, np.ndarray] = {}  # the last used is last
        self._fresh: dict[Key, np.ndarray] = {}  # not on disk yet
        for part in sorted(self.folder.glob("*.parquet")):
            self._index(part)

    def get(self, key: Key, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """(n, d) float32 of a key: from memory, from its part, or computed now."""
        if key in self._fresh:
            return self._fresh[key]
        if key in self._held:
            self._held[key] = self._held.pop(key)
            return self._held[key]
        if key in self._where and key in (rows := self._load(self._where[key])):
            return rows[key]
        made = np.ascontiguousarray(compute(), dtype=np.float32)
        if made.ndim != 2:
            raise ValueError(f"features must be (n, d), got shape {made.shape}")
        self._fresh[key] = made
        if len(self._fresh) >= PART or _bytes(self._fresh) >= PART_BYTES:
            self.flush()
        return made

    def __contains__(self, key: Key) -> bool:
        return key in self._where or key in self._fresh

    def flush(self) -> None:
        """Write what is new as one part."""
        if not self._fresh:
            return
        with writing(self.folder, 0):
            self.folder.mkdir(parents=True, exist_ok=True)
        part = _write(self.folder, self._fresh)
        self._where.update(dict.fromkeys(self._fresh, part))
        self._hold(self._fresh)
        self._fresh = {}

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def _index(self, part: Path) -> None:
        import duckdb

        try:
            with cursor() as con:
                rows = con.execute("select distinct image_id, view from read_parquet(?)", [str(part)]).fetchall()
        except duckdb.Error as error:
            self._set_aside(part, str(error).partition("\n")[0])
            return
        self._where.update(dict.fromkeys(rows, part))

    def _hold(self, rows: dict[Key, np.ndarray]) -> None:
        """Keep what has just been written or read in memory, and let go of what was used longest ago."""
        self._held |= rows
        spare = _bytes(self._held) - HELD_BYTES
        for key in list(self._held):
            if spare <= 0:
                break
            spare -= self._held.pop(key).nbytes

    def _load(self, part: Path) -> dict[Key, np.ndarray]:
        """Read a whole part; a damaged one is forgotten and gives nothing."""
        import duckdb

        try:
            if file_digest(part) != part.stem:
                raise ValueError("its bytes do not match its name")
            with cursor() as con:
                query = "select image_id, view, vector from read_parquet(?) order by image_id, view, idx"
                columns = con.execute(query, [str(part)]).fetchnumpy()
        except (duckdb.Error, ValueError, OSError) as error:
            self._set_aside(part, str(error).partition("\n")[0])
            return {}
        keys = list(zip(map(str, columns["image_id"]), map(str, columns["view"])))
        starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
        blocks = zip(starts, [*starts[1:], len(keys)])
        rows = {keys[a]: np.stack(list(columns["vector"][a:b])).astype(np.float32) for a, b in blocks}
        self._hold(rows)
        return rows

    def _set_aside(self, part: Path, why: str) -> None:
        warnings.warn(
            f"feature part {part} is damaged ({why}); it is set aside as {part.name}.bad and rebuilt as needed",
            RuntimeWarning,
            stacklevel=3,
        )
        self._where = {key: where for key, where in self._where.items() if where != part}
        if part.exists():
            part.replace(part.with_name(part.name + ".bad"))


def _bytes(rows: dict[Key, np.ndarray]) -> int:
    return sum(block.nbytes for block in rows.values())


def _write(folder: Path, rows: dict[Key, np.ndarray]) -> Path:
    """Write a part under a temporary name, sync it, and rename it to the digest of its bytes."""
    import duckdb
    import pandas as pd

    table = pd.DataFrame(
        {
            "image_id": [image for (image, _), block in rows.items() for _ in block],
            "view": [view for (_, view), block in rows.items() for _ in block],
            "idx": [i for block in rows.values() for i in range(len(block))],
            "vector": [vector for block in rows.values() for vector in block],
        }
    )
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    size = _bytes(rows)
    try:
        with cursor() as con:
            con.register("part", table)
            target = str(temporary).replace("'", "''")
            query = "select image_id, view, idx::integer as idx, vector::float[] as vector from part"
            con.execute(f"copy ({query}) to '{target}' (format parquet, compression zstd)")
        with writing(folder, size):
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            part = folder / f"{file_digest(temporary)}.parquet"
            temporary.replace(part)
            sync_folder(folder)
    except duckdb.Error as error:
        raise StoreError(f"cannot write features to {folder}: {error}. Free some space or move --store") from error
    finally:
        temporary.unlink(missing_ok=True)
    return part
