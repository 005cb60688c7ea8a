"""Records are appended whole, read back in order, and damage to one costs no other."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import records
from bench.errors import StoreError, UsageError
from bench.ledger import Ledger
from bench.records import Journal, read, scan
from bench.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def add(store: Store, *ids: str) -> None:
    for i in ids:
        store.append({"kind": "image", "recipe_id": i, "recipe": {}, "image_id": f"i-{i}"})


def segment(store: Store) -> Path:
    [path] = (store.root / "records").glob("*.jsonl")
    return path


def ids(store: Store) -> list[str]:
    return [r["recipe_id"] for r in store.records()]


def test_what_is_appended_is_read_back_with_version_and_time(store: Store) -> None:
    given = {"kind": "failure", "recipe_id": "a", "recipe": {"prompt": "é\n\"'"}, "reason": "crash", "values": (1, 2.5)}
    made = store.append(given)
    [got] = store.records()
    assert got == made == {**given, "values": [1, 2.5], "v": 2, "time": got["time"], "id": got["id"]}
    assert segment(store).read_bytes().count(b"\n") == 1


def test_a_record_without_a_field_of_its_kind_is_refused_before_it_is_written(store: Store) -> None:
    with pytest.raises(UsageError, match="'image' without 'image_id'"):
        store.append({"kind": "image", "recipe_id": "a", "recipe": {}})
    assert store.records() == []


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_tail_torn_by_a_crash_does_not_count_and_disturbs_nothing(store: Store, kept: int) -> None:
    add(store, "a", "b")
    path = segment(store)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert ids(store) == ["a"]
    report = store.verify()
    assert report.ok
    assert report.torn == ((f"{path}:2",) if kept else ())
    add(Store(store.root), "c")  # goes on, in a segment of its own
    assert sorted(ids(store)) == ["a", "c"]


BAD = [b"{broken}\n", b"\xff\xfe\n", b"[1]\n", b'{"v":2,"time":"t"}\n', b'{"kind":"image","time":"t"}\n',
       b'{"v":2,"kind":"image","time":"t","recipe_id":"x"}\n', b"half a record\r{\n"]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_an_unreadable_line_is_an_error_with_file_line_and_repair(store: Store, bad: bytes) -> None:
    add(store, "a", "b")
    path = segment(store)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + bad + second)
    with pytest.raises(StoreError) as caught:
        store.records()
    assert f"{path}:2: damaged record" in str(caught.value)
    assert "scrollbench store verify --repair" in str(caught.value)
    assert not store.verify().ok
    report = store.verify(repair=True)
    assert (report.ok, report.repaired, len(report.unreadable)) == (True, True, 1)
    assert ids(store) == ["a", "b"]
    assert path.with_name(f"{path.name}.bad").read_bytes() == bad
    assert store.verify().ok


def test_repairs_of_one_segment_add_up_in_its_bad_file(store: Store) -> None:
    add(store, "a")
    path = segment(store)
    for bad in (b"one\n", b"two\n"):
        path.write_bytes(path.read_bytes() + bad)
        store.verify(repair=True)
    assert path.with_name(f"{path.name}.bad").read_bytes() == b"one\ntwo\n"


def test_records_of_a_newer_version_are_left_alone_with_advice_to_upgrade(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(records, "VERSION", 3)
        add(store, "a")
    for look in (store.records, store.verify, lambda: store.verify(repair=True)):
        with pytest.raises(StoreError, match=r"record version 3.*Upgrade"):
            look()
    assert '"v":3' in segment(store).read_text()


def test_records_of_version_1_are_refused_with_what_to_do_and_left_alone(store: Store) -> None:
    add(store, "a")
    path = segment(store)
    old = b'{"v":1,"time":"2026-01-01T00:00:00Z","kind":"image","recipe_id":"r","recipe":{},"image_id":"i"}\n'
    path.write_bytes(path.read_bytes() + old)
    for look in (store.records, store.verify, lambda: store.verify(repair=True)):
        with pytest.raises(StoreError, match=rf"{path.name}:2: record version 1.*Move .*records away"):
            look()
    assert path.read_bytes().endswith(old)


def test_unknown_kinds_are_passed_on(store: Store) -> None:
    store.append({"kind": "comparison", "a": 1})
    assert store.records()[0]["a"] == 1
    assert Ledger(store.records()).images == {}


def test_segments_of_other_machines_merge_by_copying(tmp_path: Path) -> None:
    a, b, both = (Store(tmp_path / name) for name in ("a", "b", "both"))
    add(a, "1")
    add(b, "2")
    add(a, "3")
    (both.root / "records").mkdir(parents=True)
    for path in (segment(a), segment(b)):
        (both.root / "records" / path.name).write_bytes(path.read_bytes())
    assert sorted(ids(both)) == ["1", "2", "3"]
    (both.root / "records" / "0-again.jsonl").write_bytes(segment(a).read_bytes())
    assert sorted(ids(both)) == ["1", "2", "3"]  # a record that is there twice is one


def write_many(root: str, name: str) -> None:
    store = Store(root)
    add(store, *(f"{name}{i}" for i in range(25)))


def test_processes_that_write_at_once_lose_nothing(store: Store) -> None:
    add(store, "mine")
    context = multiprocessing.get_context("forkserver")
    workers = [context.Process(target=write_many, args=(str(store.root), name)) for name in "abc"]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert sorted(ids(store)) == sorted(["mine", *(f"{n}{i}" for n in "abc" for i in range(25))])


def test_a_forked_child_begins_a_segment_of_its_own(tmp_path: Path) -> None:
    code = (
        "import os, sys; from bench.store import Store; s = Store(sys.argv[1]);"
        "add = lambda n: s.append(dict(kind='run', run_id=n, status='started'));"
        "add('parent'); pid = os.fork(); add('child' if pid == 0 else 'after'); os.wait() if pid else os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    segments = list((tmp_path / "records").glob("*.jsonl"))
    assert sorted(len(p.read_bytes().splitlines()) for p in segments) == [1, 2]
    assert {r["run_id"] for r in Store(tmp_path).records()} == {"parent", "child", "after"}


@pytest.mark.parametrize("taken", [0, 10])
def test_a_full_disk_leaves_no_half_record_and_the_journal_goes_on_when_there_is_room(
    store: Store, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    add(store, "a")
    write = os.write

    def full(handle: int, line: bytes) -> int:
        if taken:
            return write(handle, line[:taken])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.os, "write", full)
    with pytest.raises(StoreError, match=r"no space left to write .*\.jsonl: \d+ bytes wanted"):
        add(store, "b")
    monkeypatch.undo()
    assert [line.torn for line in scan(store.root / "records")] == [False]
    add(store, "c")
    assert ids(store) == ["a", "c"]


def test_a_record_is_one_write_and_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append({"kind": "note"})
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(records.os, "write", lambda h, b: (calls.append(f"write {b[-1:]!r}"), write(h, b))[1])
    monkeypatch.setattr(records.os, "fsync", lambda h: (calls.append("sync"), fsync(h))[1])
    journal.append({"kind": "note"})
    assert calls == ["write b'\\n'", "sync"]
    assert len(read(tmp_path)) == 2


def test_lines_are_plain_json_that_anybody_can_read_and_check(store: Store) -> None:
    add(store, "a")
    line = segment(store).read_bytes()
    record = json.loads(line)
    assert record["recipe_id"] == "a"
    assert line.startswith(b'{"id":"%s",' % record["id"].encode())
    assert hashlib.sha256(line[len('{"id":"",') + 24 : -1]).hexdigest()[:24] == record["id"]
