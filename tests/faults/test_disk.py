"""A disk that refuses, breaks, is slow or shared, and a clock that jumps: nothing done is lost, nothing is wrong."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StoreError
from bench.pipeline.run import run
from bench.store import Store, ledger, records
from bench.store.index import build
from bench.store.records import Journal, Record, scan
from tests.faults.kept import answers, done
from tests.support.small import PLUGINS, picture_ids, small

CALLS = ("write", "fsync", "replace")  # by which a store asks the disk for something
ERRORS = {
    errno.ENOSPC: "Free some space",
    errno.EROFS: "Check permissions or choose another --store",
    errno.EIO: "Check permissions or choose another --store",
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected")
    return done(small(folder, limit=1), Store(folder / "store"))


class Refusing:
    """A disk that refuses one call with an error, the n-th, and all after it where ``lasting``."""

    def __init__(self, patch: pytest.MonkeyPatch, n: int, error: int, lasting: bool) -> None:
        self.left, self.error, self.lasting, self.refused = n, error, lasting, False
        for name in CALLS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any) -> Any:
            self.left -= 1
            if self.left == 0 or (self.lasting and self.left < 0):
                self.refused = True
                raise OSError(self.error, os.strerror(self.error))
            return call(*args)

        return asked


@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_refuses_at_any_moment_ends_the_run_with_what_to_do_and_the_next_run_ends_it(
    error: int, expected: dict[str, Any], tmp_path: Path
) -> None:
    said = set()
    for n in range(1 + list(ERRORS).index(error), 200, len(ERRORS)):  # a third of all moments for each error
        folder, store = tmp_path / str(n), Store(tmp_path / str(n) / "store")
        with pytest.MonkeyPatch.context() as patch:
            suite, disk = small(folder, limit=1), Refusing(patch, n, error, lasting=n % 2 == 0)
            try:
                run(suite, store)
            except StoreError as refusal:
                said.add(str(refusal))
            if not disk.refused:
                break
        assert picture_ids(store).items() <= expected["pictures"].items()
        assert not [line for line in scan(store.root / "records") if line.torn or line.problem]
        assert done(suite, store) == expected
    assert n > 20
    assert all(ERRORS[error] in text and str(tmp_path) in text for text in said)
    assert len(said) > 5


def test_without_the_cut_a_refused_record_leaves_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half(handle: int, line: bytes) -> int:
        return write(handle, line[:20])

    for name, cut in (("cut", os.ftruncate), ("left", lambda handle, size: None)):
        journal = Journal(tmp_path / name)
        journal.append({"kind": "note"})
        monkeypatch.setattr(os, "write", half)
        monkeypatch.setattr(os, "ftruncate", cut)
        with pytest.raises(StoreError):
            journal.append({"kind": "note"})
        monkeypatch.undo()
        journal.append({"kind": "note"})
    assert [[line.damaged for line in scan(tmp_path / name)] for name in ("cut", "left")] == [
        [False] * 2,
        [False, True],
    ]


# -- several drivers, on a slow disk


context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["bench.pipeline.run", "bench.metrics", "duckdb", "pandas", "torch"])


def drive(folder: str, root: str, barrier: Any) -> None:
    """A whole run by a process of its own, every write of which takes its time."""
    os.fsync = lambda handle: time.sleep(0.005)
    suite = small(Path(folder))
    barrier.wait()
    run(suite, Store(root))


def test_drivers_at_work_on_one_store_at_the_same_time_leave_what_one_leaves(tmp_path: Path) -> None:
    suite, barrier = small(tmp_path / "suite"), context.Barrier(2)
    alone = done(suite, Store(tmp_path / "alone"))
    root = str(tmp_path / "store")
    drivers = [context.Process(target=drive, args=(str(tmp_path / str(n)), root, barrier)) for n in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert [driver.exitcode for driver in drivers] == [0, 0]
    store = Store(root)
    assert len(list((store.root / "records").glob("*.jsonl"))) == 2  # they all had work
    assert answers(store) == alone
    assert store.verify().ok


def test_writers_of_one_segment_would_write_over_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def shared(path: Path, flags: int, mode: int = 0o777) -> int:
        if path.suffix != ".jsonl":
            return opened(path, flags, mode)
        return opened(path.with_name("one.jsonl"), os.O_WRONLY | os.O_CREAT, mode)

    for name, opening in (("own", opened), ("one", shared)):
        monkeypatch.setattr(os, "open", opening)
        for _ in range(2):
            Journal(tmp_path / name).append(
                {"kind": "note", "time": "2026-01-01T00:00:00.000000Z", "message": os.urandom(4).hex()}
            )
        monkeypatch.undo()
    assert [len(records.read(tmp_path / name)) for name in ("own", "one")] == [2, 1]


# -- the clock


def jumping(patch: pytest.MonkeyPatch) -> None:
    """From here on every look at the clock shows a time a year before the last one."""
    began, looks = datetime.now(UTC), iter(range(1, 10**6))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return began - timedelta(days=365) * (next(looks) % 1000)

    patch.setattr(records, "datetime", Clock)
    patch.setattr(time, "time", lambda: Clock.now().timestamp())


def edited(folder: Path, store: Store, patch: pytest.MonkeyPatch | None) -> dict[str, Any]:
    """What a store answers after a run, an edit of its sampler, and another run; the clock may jump in between."""
    run(small(folder), store)
    if patch:
        jumping(patch)
    return done(small(folder, plugins=PLUGINS.replace("scale * noise", "0.5 * scale * noise")), store)


def test_a_clock_that_jumps_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steady = edited(tmp_path / "a", Store(tmp_path / "steady"), None)
    store = Store(tmp_path / "jumping")
    assert edited(tmp_path / "b", store, monkeypatch)["board"] == steady["board"]
    monkeypatch.undo()
    assert done(small(tmp_path / "b"), store)["board"] != steady["board"]  # the sampler as it was before the edit
    assert Store(store.root).verify().ok


def test_were_the_latest_record_the_one_that_counts_an_old_sampler_would_be_on_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    new = edited(tmp_path / "a", store, monkeypatch)

    def latest(self: ledger.Ledger, kind: str, slot: ledger.Slot) -> list[Record]:
        return sorted(self._said[kind].get(slot, []), key=lambda r: str(r["time"]))[-1:]

    monkeypatch.setattr(ledger.Ledger, "heads", latest)
    build(store)
    assert answers(store)["board"] != new["board"]
