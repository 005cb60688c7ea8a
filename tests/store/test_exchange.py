"""Stores of several machines become one, and nothing that was damaged on the way is believed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import StoreError, UsageError
from bench.pipeline.generate import generate
from bench.pipeline.score import score
from bench.store import Store
from bench.store.exchange import Merged, export_store, import_store, merge
from bench.store.features import Features
from tests.support.small import picture_ids, planned, small


def numbers(store: Store) -> dict[str, object]:
    return {r["key"]: r["values"] for r in store.records() if r["kind"] == "score"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Everything on one machine, with a part of features."""
    return filled(tmp_path_factory.mktemp("whole"))


def filled(folder: Path, shard: tuple[int, int] | None = None) -> Store:
    store = Store(folder / "store")
    generate(planned(folder, store, shard), store)
    score(small(folder), store)
    with Features(store.root / "features", "net", "digest") as features:
        import numpy as np

        features.get(("a", "whole"), lambda: np.ones((1, 2), np.float32))
    return store


def test_merged_shards_are_what_one_machine_makes(whole: Store, tmp_path: Path) -> None:
    shards = [filled(tmp_path / str(i), (i, 2)) for i in (1, 2)]
    assert all(0 < len(picture_ids(s)) < len(picture_ids(whole)) for s in shards)
    store = Store(tmp_path / "merged")
    found = [merge(store, s.root) for s in shards]
    assert picture_ids(store) == picture_ids(whole)
    assert numbers(store) == numbers(whole)
    assert (sum(m.pictures for m in found), [m.features for m in found]) == (6, [1, 0])
    assert all(m.ok for m in found)
    assert generate(planned(tmp_path / "1", store), store).made == 0
    assert score(small(tmp_path / "1"), store).scored == 0
    assert store.verify().ok


def test_merging_twice_adds_nothing(whole: Store, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = merge(store, whole.root)
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert (first.records, merge(store, whole.root)) == (len(whole.records()), Merged(0, 0, 0, (), ()))
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == files


def test_a_store_goes_through_one_file(whole: Store, tmp_path: Path) -> None:
    file = export_store(whole, tmp_path / "out" / "whole.tar")
    store = Store(tmp_path / "there")
    assert import_store(store, file) == Merged(len(whole.records()), 6, 1, (), ())
    assert (picture_ids(store), numbers(store)) == (picture_ids(whole), numbers(whole))
    assert sorted(p.name for p in store.root.iterdir()) == ["features", "images", "records"]
    light = Store(tmp_path / "light")
    assert import_store(light, export_store(whole, tmp_path / "light.tar", pictures=False)).pictures == 0
    assert numbers(light) == numbers(whole)
    assert len(light.verify().missing) == 6


def flipped(path: Path, at: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["images/*/*.png", "features/*/*.parquet"])
def test_what_is_damaged_there_stays_there_and_the_rest_is_taken(kind: str, tmp_path: Path) -> None:
    other = filled(tmp_path / "other")
    victim = sorted(other.root.glob(kind))[0]
    flipped(victim)
    store = Store(tmp_path / "here")
    merged = merge(store, other.root)
    assert len(merged.damaged) == 1
    assert str(victim) in merged.damaged[0]
    assert not (store.root / victim.relative_to(other.root)).exists()
    assert merged.pictures + merged.features == 6
    assert store.verify().ok
    assert generate(planned(tmp_path / "other", store), store).made == merged.features  # the lost picture, made again


def test_a_damaged_record_there_refuses_the_merge(tmp_path: Path) -> None:
    other = filled(tmp_path / "other")
    flipped(next(other.root.glob("records/*.jsonl")))
    with pytest.raises(StoreError, match=r"damaged record: it does not match its id.*--repair.*--store"):
        merge(Store(tmp_path / "here"), other.root)
    assert not (tmp_path / "here").exists()


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_picture(path: Path) -> None:
    with tarfile.open(path) as tar:
        kept = [(e, tar.extractfile(e).read()) for e in tar if not e.name.endswith(".png")]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for entry, data in kept:
            tar.addfile(entry, io.BytesIO(data))


def with_a_way_out(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("../outside.jsonl"))


def with_a_link(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        entry = tarfile.TarInfo("records/link.jsonl")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (lambda p: flipped(p, 3000), StoreError, "not as they were written"),
        (shortened, StoreError, "Send it again"),
        (without_a_picture, StoreError, "not as they were written, e.g. images/"),
        (with_a_way_out, UsageError, r"holds '\.\./outside\.jsonl'"),
        (with_a_link, UsageError, "holds 'records/link.jsonl'"),
        (lambda p: p.write_bytes(b"no archive"), StoreError, "cannot be read as an exported store"),
    ],
)
def test_of_a_file_that_changed_on_the_way_nothing_is_taken(
    harm: Callable[[Path], None], error: type[Exception], said: str, whole: Store, tmp_path: Path
) -> None:
    file = export_store(whole, tmp_path / "whole.tar")
    harm(file)
    with pytest.raises(error, match=said):
        import_store(Store(tmp_path / "here"), file)
    assert list((tmp_path / "here").iterdir()) == []
    assert not (tmp_path / "outside.jsonl").exists()


def test_what_is_no_store_is_said(whole: Store, tmp_path: Path) -> None:
    for call, said in (
        (lambda: merge(Store(tmp_path), tmp_path / "none"), "no store at"),
        (lambda: merge(whole, whole.root), "is this store itself"),
        (lambda: export_store(whole, tmp_path / "x.zip"), "is a .tar file, got '.zip'"),
        (lambda: export_store(Store(tmp_path / "none"), tmp_path / "x.tar"), "nothing to export"),
        (lambda: import_store(Store(tmp_path), tmp_path / "none.tar"), "no file"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
