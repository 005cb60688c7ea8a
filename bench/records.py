"""What happened, as append-only segments of JSON lines, and the tables that are looked things up in.

    records/<utc>-<pid>-<random>.jsonl      one writer each; lines are never changed

A record has ``v``, ``kind``, ``time`` and the fields of its kind. A line without its newline is the trace of a
crash in mid-write and does not count. Any other line that cannot be read is damage, and an error. Segments of other
machines or labs are merged by copying the files.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.commit import commit_point, sync_folder, write_file, writing
from bench.errors import StoreError

VERSION = 1
REPAIR = "`scrollbench store verify --repair` sets it aside and keeps everything else"

Record = dict[str, Any]

# Fields a record of a kind cannot be used without. Unknown kinds are kept and passed on.
FIELDS: dict[str, tuple[str, ...]] = {
    "run": ("run_id", "status"),
    "member": ("suite", "suite_digest", "part", "label", "recipe_id", "prompt_id", "seed"),
    "image": ("recipe_id", "recipe", "image_id"),
    "failure": ("recipe_id", "recipe", "reason"),
    "score": ("key", "image_id", "metric", "values"),
    "set_score": ("key", "suite_digest", "part", "label", "metric", "values"),
}


class Journal:
    """The writing end: one segment a process, begun with its first record.

    Args:
        folder: the store's ``records`` folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._handle = -1
        self._pid = 0
        self._path = folder

    def append(self, record: Mapping[str, Any]) -> Record:
        """Add a record; when this returns, it is on disk. Numbers that are not finite are written as null.

        Returns:
            The record as it will be read: with version and time.

        Raises:
            StoreError: it could not be written; nothing of it stays.
        """
        now = datetime.now(UTC)
        stamped = {"v": VERSION, "time": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **record}
        line = (json.dumps(_plain(stamped), separators=(",", ":"), ensure_ascii=True, allow_nan=False) + "\n").encode()
        made: Record = json.loads(line)
        check(made)
        with self._lock:
            if self._pid != os.getpid():  # first record, or first after a fork
                self._begin(now, len(line))
            commit_point("record-before")
            with writing(self._path, len(line)):
                self._write(line)
            commit_point("record-after")
        return made

    def _begin(self, now: datetime, size: int) -> None:
        name = f"{now:%Y%m%dT%H%M%SZ}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        with writing(self.folder / name, size):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            sync_folder(self.folder)
        self._handle, self._path, self._pid = handle, self.folder / name, os.getpid()

    def _write(self, line: bytes) -> None:
        start = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, line) < len(line):  # a file takes less than it is given when the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, start)
            raise


def _plain(value: Any) -> Any:
    """JSON values: mappings and tuples become objects and lists, non-finite numbers null (missing is missing)."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check(record: Any) -> Record:
    """The record itself if it is one. Raises ``ValueError`` saying what is wrong with it."""
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise ValueError("not a record (an object with a 'kind')")
    if not isinstance(record.get("v"), int):
        raise ValueError("it has no version 'v'")
    missing = [f for f in ("time", *FIELDS.get(record["kind"], ())) if f not in record]
    if missing:
        raise ValueError(f"a record of kind {record['kind']!r} without {missing[0]!r}")
    return record


@dataclass(frozen=True)
class Line:
    """One line of a segment: a record, a torn tail, or damage (``problem``)."""

    path: Path
    number: int  # from 1
    raw: bytes
    record: Record | None
    problem: str = ""
    torn: bool = False

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.number}"


def scan(folder: Path) -> Iterator[Line]:
    """All lines of all segments, sound or not, in the order of the files.

    Raises:
        StoreError: a segment cannot be opened, or was written by a newer ScrollBench.
    """
    for path in sorted(folder.glob("*.jsonl")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}. Check its permissions") from error
        for number, raw in enumerate(io.BytesIO(content), 1):
            if not raw.endswith(b"\n"):
                yield Line(path, number, raw, None, torn=True)
                continue
            try:
                record = check(json.loads(raw))
            except ValueError as error:  # bad JSON and bad UTF-8 among them
                yield Line(path, number, raw, None, problem=str(error))
                continue
            if record["v"] > VERSION:
                raise StoreError(
                    f"{path}:{number}: record version {record['v']}, this ScrollBench reads up to {VERSION}. "
                    "Upgrade it: pip install --upgrade scrollbench"
                )
            yield Line(path, number, raw, record)


def read(folder: Path) -> list[Record]:
    """All records, oldest first. Torn tails do not count.

    Raises:
        StoreError: a line that cannot be read, with ``file:line`` and the command that repairs it.
    """
    records = []
    for line in scan(folder):
        if line.problem:
            raise StoreError(f"{line.where}: unreadable record: {line.problem}. {REPAIR}")
        if line.record is not None:
            records.append(line.record)
    return sorted(records, key=lambda r: str(r["time"]))  # stable: ties keep the order of the files


def set_aside(damaged: Iterable[Line]) -> None:
    """Move lines out of their segments into ``<segment>.bad``. Only safe while nobody writes to them."""
    by_path: dict[Path, dict[int, bytes]] = {}
    for line in damaged:
        by_path.setdefault(line.path, {})[line.number] = line.raw
    for path, bad in by_path.items():
        lines = list(io.BytesIO(path.read_bytes()))
        aside = path.with_name(path.name + ".bad")
        before = aside.read_bytes() if aside.exists() else b""
        write_file(aside, before + b"".join(bad.values()))  # first the copy, then the cut
        write_file(path, b"".join(raw for i, raw in enumerate(lines, 1) if i not in bad))


class Ledger:
    """All records, sorted into what work needs to look up. The latest of two records counts.

    Attributes:
        images: recipe id -> image record.
        failures: recipe id -> its failure records, oldest first.
        scores: score key -> score record.
        set_scores: key -> set score record.
        members: (suite, suite digest, part, label, prompt id, seed) -> member record.
        runs: run id -> its records merged; ``status`` stays ``started`` until proven finished.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.images: dict[str, Record] = {}
        self.failures: dict[str, list[Record]] = {}
        self.scores: dict[str, Record] = {}
        self.set_scores: dict[str, Record] = {}
        self.members: dict[tuple[Any, ...], Record] = {}
        self.runs: dict[str, Record] = {}
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in one more record."""
        match record["kind"]:
            case "image":
                self.images[record["recipe_id"]] = record
            case "failure":
                self.failures.setdefault(record["recipe_id"], []).append(record)
            case "score":
                self.scores[record["key"]] = record
            case "set_score":
                self.set_scores[record["key"]] = record
            case "member":
                self.members[member_key(record)] = record
            case "run":
                self.runs[record["run_id"]] = {**self.runs.get(record["run_id"], {}), **record}

    def attempts(self, recipe_id: str) -> int:
        """Failed attempts that count against a recipe: a missing prerequisite is not the recipe's fault."""
        return sum(r["reason"] != "prerequisite" for r in self.failures.get(recipe_id, ()))


def member_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """The cell of a suite a member record speaks of."""
    return tuple(record[f] for f in ("suite", "suite_digest", "part", "label", "prompt_id", "seed"))
