"""Features are computed once, survive on disk, and a damaged part is rebuilt rather than believed."""

import warnings

import numpy as np
import pytest

from bench.features import PART, Features

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
