"""Damage to any file of a store is found or harmless: no wrong score, no row twice, and the same command mends it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from bench.errors import StoreError
from bench.pipeline.run import run
from bench.store import Store, features, records
from bench.suites.suite import Suite
from tests.faults.kept import done, suite_in
from tests.support import tiny

REPAIR = "scrollbench store verify --repair"
KINDS = {"picture": "images/*/*.png", "records": "records/*.jsonl", "features": "features/*/*.parquet",
         "leaderboard": "leaderboard.duckdb"}  # fmt: skip


def flipped(data: bytes, seed: int) -> bytes:
    """The same with one bit turned."""
    place, bit = (int(n) for n in np.random.default_rng(seed).integers(0, (len(data), 8)))
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    **{f"bit {seed}": lambda data, seed=seed: flipped(data, seed) for seed in range(2)},  # type: ignore[misc]
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("suite")
    return suite_in(folder, tiny.vit(folder / "network"))


@pytest.fixture(scope="module")
def whole(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("whole")
    return root, done(suite, Store(root))


def damaged(root: Path, folder: Path, kind: str, damage: Callable[[bytes], bytes] | None) -> Store:
    """A copy of a store of which one file was changed, or removed."""
    shutil.copytree(root, folder)
    path = max(folder.glob(KINDS[kind]), key=lambda p: p.stat().st_size)
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    return Store(folder)


def mended(suite: Suite, store: Store) -> dict[str, Any]:
    """What the store answers after the run; where that is refused, after the repair that the message names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a part was set aside
        try:
            run(suite, store)
        except StoreError as error:
            said = str(error)
        else:
            said = "" if store.verify().ok else REPAIR  # a picture that nothing had to look at
        assert (REPAIR in said) == bool(said)
        if said:
            store.verify(repair=True)
        return done(suite, store)


@pytest.mark.parametrize("damage", [*DAMAGE, "removed"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_brings_back_what_was_there(
    kind: str, damage: str, suite: Suite, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, expected = whole
    store = damaged(root, tmp_path / "store", kind, DAMAGE.get(damage))
    assert mended(suite, store) == expected
    assert store.verify().ok


# -- each check taken out


def without_scores(store: Store) -> Store:
    """The store as if nothing in it had been scored, though its features are there."""
    for segment in (store.root / "records").glob("*.jsonl"):
        lines = segment.read_bytes().splitlines(keepends=True)
        segment.write_bytes(b"".join(line for line in lines if b'"kind":"score"' not in line))
    return store


def test_without_the_digest_of_pixels_another_picture_gives_another_score(
    suite: Suite, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, expected = whole

    def another(data: bytes) -> bytes:
        return next(png for path in sorted(root.glob(KINDS["picture"])) if (png := path.read_bytes()) != data)

    checked, believed = (
        without_scores(damaged(root, tmp_path / name, "picture", another)) for name in ("checked", "believed")
    )
    assert not run(suite, checked).complete  # its scores fail and say why
    assert mended(suite, checked) == expected
    monkeypatch.setattr(Store, "_content", Store._unpacked)
    assert done(suite, believed)["scores"] != expected["scores"]


def test_without_its_digest_a_changed_record_changes_the_board(
    suite: Suite, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, expected = whole
    scored = [r for r in Store(root).records() if r["kind"] == "score" and r["metric"] == "brightness"]
    old = str(scored[0]["values"][0][2]).encode()
    store = damaged(root, tmp_path / "store", "records", lambda data: data.replace(old, b"1.25"))
    with pytest.raises(StoreError, match="does not match its id"):
        run(suite, store)
    monkeypatch.setattr(records, "_sound", lambda line: True)
    assert done(suite, store)["scores"] != expected["scores"]


def test_without_their_digest_changed_features_change_scores(
    suite: Suite, whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, expected = whole

    def moved(data: bytes) -> bytes:
        part, new = tmp_path / "part.parquet", tmp_path / "new.parquet"
        part.write_bytes(data)
        table = f"select * replace (list_transform(vector, lambda x: x + idx) as vector) from read_parquet('{part}')"
        duckdb.sql(f"copy ({table}) to '{new}' (format parquet)")
        return new.read_bytes()

    checked, believed = (
        without_scores(damaged(root, tmp_path / name, "features", moved)) for name in ("checked", "believed")
    )
    assert mended(suite, checked) == expected
    monkeypatch.setattr(features, "file_digest", lambda part: part.stem)
    assert done(suite, believed)["scores"] != expected["scores"]
