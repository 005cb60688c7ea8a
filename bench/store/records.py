"""What happened, as append-only segments of JSON lines.

    records/<utc>-<pid>-<random>.jsonl      one writer each; lines are never changed

A line is ``{"id":"<24 hex digits>",`` and the rest, and the id is the sha256 of the rest: a changed bit is found on
reading. A record has ``id``, ``v``, ``kind``, ``time`` and the fields of its kind. Its time is provenance and decides
nothing; a record that changes the word on something names the ids it ``replaces`` (:mod:`bench.store.ledger`).

A line without its newline is the trace of a crash in mid-write and does not count. Any other line that does not match
its id is damage, and an error. A sound line that says what no leaderboard could hold (:mod:`bench.store.record_check`)
is set aside with a warning. Segments of other machines or labs are merged by copying the files, in any order and under
any names; a record that is there twice is one.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import StoreError, UsageError
from bench.store.commit import commit_point, sync_folder, write_file, writing
from bench.store.record_check import cleaned, problem

VERSION = 2  # 1 had no id: what it says is under identities of an older scheme
REPAIR = "`scrollbench store verify --repair` sets it aside and keeps everything else"
LENGTH = 24  # hex digits of an id

_HEAD = b'{"id":"'
_REST = len(_HEAD) + LENGTH + 2  # where the rest of a line begins, after the id's quote and comma
_OLD = b'{"v":1,'

Record = dict[str, Any]


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
        """Add a record; when this returns, it is on disk.

        Provenance (messages, command lines, environments, costs) is cleaned where it holds what cannot be kept.

        Returns:
            The record as it will be read: with id, version and time.

        Raises:
            UsageError: anything else that could not be read back or put on a leaderboard, by its field.
            StoreError: it could not be written; nothing of it stays.
        """
        now = datetime.now(UTC)
        made, line = stamped({"time": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **record})
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


def stamped(record: Mapping[str, Any]) -> tuple[Record, bytes]:
    """A record with its version and id, and the line it is kept as. ``time`` and ``kind`` must be there.

    Raises:
        UsageError: what :func:`bench.store.record_check.problem` finds wrong with it.
    """
    made = cleaned(_plain({"v": VERSION, **{k: v for k, v in record.items() if k != "id"}}))
    if why := problem(made):
        raise UsageError(f"a record of kind {made.get('kind')!r} cannot be kept: {why}")
    rest = json.dumps(made, separators=(",", ":"), ensure_ascii=True, allow_nan=False)[1:].encode()
    name = _digest(rest)
    return {"id": name, **made}, _HEAD + name.encode() + b'",' + rest + b"\n"


def _digest(rest: bytes) -> str:
    return hashlib.sha256(rest).hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    """What is like a value of JSON becomes one: mappings, tuples, numbers and texts of classes of their own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    like = next((kind for kind in (int, float) if isinstance(value, kind)), None)
    return like(value) if like else str.__str__(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Line:
    """One line of a segment: a record, a torn tail, damage, or a sound line of which nothing can be made.

    ``problem`` says what is wrong with the last two; ``damaged`` tells them apart.
    """

    path: Path
    number: int  # from 1
    raw: bytes
    record: Record | None
    problem: str = ""
    damaged: bool = False
    torn: bool = False

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.number}"


def scan(folder: Path) -> Iterator[Line]:
    """All lines of all segments, sound or not, in the order of the files.

    Raises:
        StoreError: a segment cannot be opened, or was written by an older or a newer ScrollBench.
    """
    for path in sorted(folder.glob("*.jsonl")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}. Check its permissions") from error
        for number, raw in enumerate(io.BytesIO(content), 1):
            yield _line(path, number, raw)


def _line(path: Path, number: int, raw: bytes) -> Line:
    if not raw.endswith(b"\n"):
        if _sound(raw[:-1]):  # whole, and then one byte that is no newline: no crash leaves that
            return Line(path, number, raw, None, "its end is damaged", damaged=True)
        return Line(path, number, raw, None, torn=True)
    if raw.startswith(_OLD):
        raise StoreError(
            f"{path}:{number}: record version 1, this ScrollBench reads version {VERSION}: what it says is under "
            f"identities of an older scheme and cannot be used. Move {path.parent} away, or choose another --store; "
            "`scrollbench run` then makes everything anew"
        )
    if not _sound(raw[:-1]):
        return Line(path, number, raw, None, "it does not match its id", damaged=True)
    try:
        record = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # bad JSON and bad UTF-8 among them
        return Line(path, number, raw, None, str(error))
    if record.get("id") != raw[len(_HEAD) : _REST - 2].decode():
        return Line(path, number, raw, None, "it names two ids")
    if type(record.get("v")) is int and record["v"] > VERSION:
        raise StoreError(
            f"{path}:{number}: record version {record['v']}, this ScrollBench reads up to {VERSION}. "
            "Upgrade it: pip install --upgrade scrollbench"
        )
    why = problem(record)
    return Line(path, number, raw, None if why else record, why)


def _sound(line: bytes) -> bool:
    """Whether a line, without its newline, is an id and what has this id."""
    head, name, quote, rest = line[: len(_HEAD)], line[len(_HEAD) : _REST - 2], line[_REST - 2 : _REST], line[_REST:]
    return head == _HEAD and quote == b'",' and name == _digest(rest).encode()


def read(folder: Path) -> list[Record]:
    """All records, in the order of the files; each once. Torn tails do not count.

    Warns:
        RuntimeWarning: of every sound line that cannot be used, with ``file:line`` and the reason; it is left out.

    Raises:
        StoreError: a damaged line, with ``file:line`` and the command that repairs it.
    """
    records: dict[str, Record] = {}
    with no_cycles():
        for line in scan(folder):
            if line.damaged:
                raise StoreError(f"{line.where}: damaged record: {line.problem}. {REPAIR}")
            if line.problem:
                said = f"{line.where}: this record is left out: {line.problem}. {REPAIR}"
                warnings.warn(said, RuntimeWarning, stacklevel=2)
            if line.record is not None:
                records.setdefault(line.record["id"], line.record)
    return list(records.values())


@contextmanager
def no_cycles() -> Iterator[None]:
    """Pause the search for cycles: in millions of plain values it finds none, and takes a third of the time."""
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


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
