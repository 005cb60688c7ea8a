"""Stores of other machines and labs: taken in from their folder, or through one file that can be sent.

Nothing is believed by its name: a record's line is held against its checksum, a picture's pixels against its id, a part
of features against the digest that it is called by, and every file of an archive against the archive's list. Pictures
come first and records last, so that a merge that is stopped leaves a sound store and the same merge goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

from bench.errors import StoreError, UsageError
from bench.ids import file_digest
from bench.store import records
from bench.store.commit import write_file, writing
from bench.store.png import PIECE
from bench.store.store import Store

LIST = "scrollbench-store.json"  # an archive's last file: name -> sha256 of all others
FORMAT = 1
ALLOWED = re.compile(
    r"records/[\w.-]+\.jsonl|images/[0-9a-f]{2}/[0-9a-f]+\.png|features/[\w.-]+/[0-9a-f]+\.parquet", re.ASCII
)


@dataclass(frozen=True)
class Merged:
    """What :func:`merge` took in. ``damaged`` files and ``unusable`` records stayed behind; the rest was here."""

    records: int
    pictures: int
    features: int
    damaged: tuple[str, ...]
    unusable: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing stayed behind."""
        return not (self.damaged or self.unusable)


def merge(store: Store, folder: Path | str) -> Merged:
    """Take in another store's records, pictures and features, as far as they are not here. Twice adds nothing.

    A damaged picture or part of features stays behind, and is named; what its records want is made again by the next
    run. What the two stores tell of the same thing in two ways is settled as docs/store.md says.

    Raises:
        UsageError: no store there, or this one.
        StoreError: a damaged record there (nothing is taken in), or this store cannot be written.
    """
    other = Store(folder)
    if not (other.root / "records").is_dir():
        raise UsageError(f"no store at {other.root}: a store has a folder 'records'")
    if store.root.resolve() == other.root.resolve():
        raise UsageError(f"{other.root} is this store itself")
    here = {line.record["id"] for line in records.scan(store.root / "records") if line.record}
    fresh: dict[str, bytes] = {}
    unusable: list[str] = []
    for line in records.scan(other.root / "records"):
        if line.damaged:
            raise StoreError(f"{line.where}: damaged record: {line.problem}. {records.REPAIR} (--store {other.root})")
        if line.problem:
            unusable.append(f"{line.where}: {line.problem}")
        if line.record is not None and line.record["id"] not in here:
            fresh[line.record["id"]] = line.raw
    damaged: list[str] = []
    pictures = sum(_picture(store, other, path, damaged) for path in sorted(other.root.glob("images/*/*.png")))
    features = sum(_part(store, other, path, damaged) for path in sorted(other.root.glob("features/*/*.parquet")))
    if fresh:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-merged-{uuid.uuid4().hex[:8]}.jsonl"
        write_file(store.root / "records" / name, b"".join(fresh.values()))
    return Merged(len(fresh), pictures, features, tuple(damaged), tuple(unusable))


def _picture(store: Store, other: Store, path: Path, damaged: list[str]) -> bool:
    if store.has_image(path.stem):
        return False
    try:
        other.open_image(path.stem)
    except StoreError as error:
        damaged.append(str(error))
        return False
    _copy(path, store.image_path(path.stem))
    return True


def _part(store: Store, other: Store, path: Path, damaged: list[str]) -> bool:
    target = store.root / path.relative_to(other.root)
    if target.exists():
        return False
    if not file_digest(path).startswith(path.stem):
        damaged.append(f"damaged features {path}: its bytes do not match its name")
        return False
    _copy(path, target)
    return True


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        write_file(target, iter(partial(file.read, PIECE), b""), size=path.stat().st_size)


def export_store(store: Store, path: Path | str, pictures: bool = True) -> Path:
    """Write a store into one tar file, to be sent and imported elsewhere. The leaderboard is built anew there.

    Args:
        store: which.
        path: the file, ``.tar``.
        pictures: False for records and features alone: numbers to compare with.

    Raises:
        UsageError: another ending, or no store.
        StoreError: it cannot be written; nothing half-written stays.
    """
    path = Path(path)
    if path.suffix != ".tar":
        raise UsageError(f"{path}: an exported store is a .tar file, got {path.suffix or 'no ending'!r}")
    if not (store.root / "records").is_dir():
        raise UsageError(f"no store at {store.root}: nothing to export")
    kinds = ("images/*/*.png", "features/*/*.parquet", "records/*.jsonl") if pictures else (
        "features/*/*.parquet", "records/*.jsonl")  # fmt: skip
    files = [p for kind in kinds for p in sorted(store.root.glob(kind))]
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
    with writing(path, sum(p.stat().st_size for p in files)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(temporary, "w") as tar:
                digests = {name: _add(tar, name, p) for p in files if (name := p.relative_to(store.root).as_posix())}
                text = json.dumps({"format": FORMAT, "files": digests}).encode()
                tar.addfile(_entry(LIST, len(text)), io.BytesIO(text))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


class _Hashing:
    """A file that is read, and the digest of what was read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _add(tar: tarfile.TarFile, name: str, path: Path) -> str:
    with path.open("rb") as file:
        reading: Any = _Hashing(file)
        tar.addfile(_entry(name, path.stat().st_size), reading)
    return str(reading.digest.hexdigest())


def import_store(store: Store, path: Path | str) -> Merged:
    """Take in a store that :func:`export_store` wrote. Nothing of it is, unless all of the file is as it was written.

    Raises:
        UsageError: no such file, or no exported store.
        StoreError: a file that was cut short or changed on the way; or what :func:`merge` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no file {path}")
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".import-") as folder:
        _unpack(path, Path(folder))
        return merge(store, folder)


def _unpack(path: Path, folder: Path) -> None:
    digests: dict[str, str] = {}
    listed: dict[str, Any] | None = None
    (folder / "records").mkdir()
    try:
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is not None and entry.name == LIST:
                    listed = json.loads(file.read())
                elif file is None or not ALLOWED.fullmatch(entry.name):
                    raise UsageError(f"{path} holds {entry.name!r}, which no exported store does")
                else:
                    digests[entry.name] = _written(file, folder / entry.name)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise StoreError(f"{path} cannot be read as an exported store: {error}. Send it again") from error
    if listed is None or listed.get("format") != FORMAT:
        raise StoreError(
            f"{path} ends without its list of files, or has one of another format: it was cut short. Send it again"
        )
    wrong = sorted({n for n, _ in digests.items() ^ listed.get("files", {}).items()})
    if wrong:
        raise StoreError(f"{path}: {len(wrong)} files are not as they were written, e.g. {wrong[0]}. Send it again")


def _written(file: IO[bytes], target: Path) -> str:
    reading = _Hashing(file)

    def pieces() -> Iterator[bytes]:
        return iter(partial(reading.read, PIECE), b"")

    write_file(target, pieces())
    return reading.digest.hexdigest()
