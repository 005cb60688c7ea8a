"""Features are computed once, survive on disk, and a damaged part is rebuilt rather than believed."""

import warnings

import numpy as np
import pytest

from bench.store import features as module
from bench.store.features import PART, Features

KEY = ("image", "tiles@1")


def block(seed=0, n=3, d=5):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def never():
    raise AssertionError("computed again")


def only_part(root):
    (part,) = root.glob("*/*.parquet")
    return part


def test_features_are_computed_once_and_read_back_exactly(tmp_path):
    with Features(tmp_path, "net", "d1") as features:
        assert KEY not in features
        assert np.array_equal(features.get(KEY, block), block())
        assert np.array_equal(features.get(KEY, never), block())
    again = Features(tmp_path, "net", "d1")
    assert KEY in again
    assert np.array_equal(again.get(KEY, never), block())


def test_another_extractor_or_view_shares_nothing(tmp_path):
    with Features(tmp_path, "net", "d1") as features:
        features.get(KEY, block)
    assert KEY not in Features(tmp_path, "net", "d2")
    assert ("image", "windows@1") not in Features(tmp_path, "net", "d1")


def test_blocks_of_different_lengths_come_back_in_order(tmp_path):
    keys = [(f"image-{i}", "tiles@1") for i in range(12)]
    with Features(tmp_path, "net", "d") as features:
        for i, key in enumerate(keys):
            features.get(key, lambda i=i: block(i, n=1 + i))
    again = Features(tmp_path, "net", "d")
    for i, key in reversed(list(enumerate(keys))):
        assert np.array_equal(again.get(key, never), block(i, n=1 + i))


def test_parts_are_written_as_the_work_goes_on(tmp_path):
    features = Features(tmp_path, "net", "d")
    for i in range(PART):
        features.get((f"image-{i}", "tiles@1"), block)
    assert only_part(tmp_path)


def test_large_features_are_written_before_many_pictures_have_come_together(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 3 * block().nbytes)
    features = Features(tmp_path, "net", "d")
    for i, parts in enumerate((0, 0, 1, 1)):
        features.get((f"image-{i}", "tiles@1"), block)
        assert len(list(tmp_path.glob("*/*.parquet"))) == parts


def test_memory_is_bounded_and_what_was_let_go_comes_back_the_same(tmp_path, monkeypatch):
    limit, n = 5 * block().nbytes, 40
    monkeypatch.setattr(module, "HELD_BYTES", limit)
    monkeypatch.setattr(module, "PART_BYTES", 3 * block().nbytes)
    held = []

    def get(features, i, compute):
        found = features.get((f"image-{i}", "tiles@1"), compute)
        held.append(sum(b.nbytes for table in (features._held, features._fresh) for b in table.values()))
        assert np.array_equal(found, block(i))

    with Features(tmp_path, "net", "d") as features:
        for i in range(n):
            get(features, i, lambda i=i: block(i))
        for i in np.random.default_rng(0).permutation(n):
            get(features, i, never)
    again = Features(tmp_path, "net", "d")
    for i in (*range(n), *reversed(range(n))):
        get(again, i, never)
    assert limit // 2 < max(held) <= limit + 3 * block().nbytes
    monkeypatch.setattr(module, "HELD_BYTES", 100 * limit)
    for i in range(n):  # the control: with room for all of them, all stay
        get(again, i, never)
    assert max(held) == n * block().nbytes


def test_the_last_used_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HELD_BYTES", 3 * block().nbytes)
    monkeypatch.setattr(module, "PART_BYTES", block().nbytes)
    reads, real = [], Features._load
    monkeypatch.setattr(Features, "_load", lambda self, part: reads.append(part) or real(self, part))
    features = Features(tmp_path, "net", "d")
    for name in ("a", "b", "c", "a", "d"):  # b is the one used longest ago
        features.get((name, "tiles@1"), block)
    for name in ("a", "c", "d"):
        features.get((name, "tiles@1"), never)
    assert not reads
    features.get(("b", "tiles@1"), never)
    assert len(reads) == 1


def test_two_writers_do_not_disturb_each_other(tmp_path):
    first, second = Features(tmp_path, "net", "d"), Features(tmp_path, "net", "d")
    first.get(("a", "tiles@1"), lambda: block(1))
    second.get(("b", "tiles@1"), lambda: block(2))
    first.flush()
    second.flush()
    both = Features(tmp_path, "net", "d")
    assert np.array_equal(both.get(("a", "tiles@1"), never), block(1))
    assert np.array_equal(both.get(("b", "tiles@1"), never), block(2))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_part_is_named_set_aside_and_rebuilt(tmp_path, damage):
    with Features(tmp_path, "net", "d") as features:
        features.get(KEY, block)
    part = only_part(tmp_path)
    data = bytearray(part.read_bytes())
    if damage == "flipped":
        data[len(data) // 4] ^= 0xFF
    part.write_bytes({"truncated": data[: len(data) // 2], "emptied": b""}.get(damage, data))
    with pytest.warns(RuntimeWarning, match=part.name), Features(tmp_path, "net", "d") as damaged:
        assert np.array_equal(damaged.get(KEY, block), block())
    assert part.with_name(part.name + ".bad").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(Features(tmp_path, "net", "d").get(KEY, never), block())


def test_parts_are_plain_parquet_for_everybody(tmp_path):
    import duckdb

    with Features(tmp_path, "net", "d") as features:
        features.get(KEY, block)
    rows = duckdb.sql(f"select image_id, view, idx, len(vector) from '{only_part(tmp_path)}' order by idx").fetchall()
    assert rows == [("image", "tiles@1", i, 5) for i in range(3)]


def test_features_that_are_not_a_table_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        Features(tmp_path, "net", "d").get(KEY, lambda: np.zeros(3))
