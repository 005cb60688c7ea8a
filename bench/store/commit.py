"""Writing so that a crash at any moment leaves either the old state or the new one.

Every step that a kill could separate from the next passes a named :func:`commit_point`; the tests end the process at
each of them, every time it is passed.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import StoreError

POINTS = ("image-before", "image-temp-written", "image-renamed", "record-before", "record-after")
KILL_AT = "SCROLLBENCH_KILL_AT"  # NAME[:N]: for tests, die the N-th time (default 1) NAME is passed

_passed: Counter[str] = Counter()


def commit_point(name: str) -> None:
    """Mark a step. Does nothing unless ``SCROLLBENCH_KILL_AT`` asks for the process's death here."""
    if name not in POINTS:
        raise ValueError(
            f"unknown commit point {name!r}: add it to bench.store.commit.POINTS, so that tests die there too"
        )
    wanted = os.environ.get(KILL_AT)
    if wanted is None:
        return
    where, _, nth = wanted.partition(":")
    _passed[name] += 1
    if where == name and _passed[name] == int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def write_file(path: Path, data: bytes | Iterable[bytes], step: str | None = None, size: int = 0) -> None:
    """Replace a file atomically: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: where to; missing folders are made.
        data: all of it, or its pieces as they are made.
        step: prefix of the commit points to pass (``image``).
        size: about how many bytes the pieces are, to be told where the disk is full.

    Raises:
        StoreError: nothing could be written; no half-written file stays.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
    pieces = [data] if isinstance(data, bytes) else data
    with writing(path, len(data) if isinstance(data, bytes) else size):
        path.parent.mkdir(parents=True, exist_ok=True)
        if step:
            commit_point(f"{step}-before")
        try:
            with temporary.open("wb") as f:
                f.writelines(pieces)
                f.flush()
                os.fsync(f.fileno())
            if step:
                commit_point(f"{step}-temp-written")
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        if step:
            commit_point(f"{step}-renamed")


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file survive a power cut, where the platform can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def writing(path: Path, size: int) -> Iterator[None]:
    """Turn the system's refusal to write ``size`` bytes at ``path`` into a ``StoreError`` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = next((p for p in path.absolute().parents if p.exists()), Path("/"))
            free = shutil.disk_usage(place).free
            raise StoreError(
                f"no space left to write {path}: {size:,} bytes wanted, {free:,} bytes free at {place}. "
                "Free some space, or point --store elsewhere; the same command again goes on where this one stopped"
            ) from error
        raise StoreError(f"cannot write {path}: {error}. Check permissions or choose another --store") from error
