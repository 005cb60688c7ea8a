"""Pictures are kept by content, whole or not at all, and damage is found and mended."""

from __future__ import annotations

import errno
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import commit, pictures
from bench.errors import StoreError
from bench.ids import image_id
from bench.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)


def files(store: Store) -> list[str]:
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file())


def record(store: Store, name: str, recipe: str = "r1") -> None:
    store.append({"kind": "image", "recipe_id": recipe, "recipe": {}, "image_id": name})


def test_a_picture_comes_back_bit_for_bit_under_the_digest_of_its_pixels(store: Store) -> None:
    name = store.write_image(picture())
    assert name == image_id(picture())
    assert (store.read_image(name) == picture()).all()
    assert files(store) == [f"images/{name[:2]}/{name}.png"]


def test_the_same_pixels_are_kept_once(store: Store) -> None:
    assert store.write_image(picture()) == store.write_image(picture())
    assert len(files(store)) == 1


@pytest.mark.parametrize(("shape", "kind"), [((8, 16, 3), "float32"), ((8, 16), "uint8"), ((8, 16, 4), "uint8")])
def test_what_is_no_rgb_picture_is_refused(store: Store, shape: tuple[int, ...], kind: str) -> None:
    bad = np.zeros(shape, kind)
    with pytest.raises(ValueError, match=r"a picture is uint8 \(h, w, 3\)"):
        store.write_image(bad)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "text", "other pixels"])
def test_a_damaged_picture_is_an_error_that_names_the_file_and_the_repair(store: Store, damage: str) -> None:
    name = store.write_image(picture())
    path = store.image_path(name)
    other = store.image_path(store.write_image(picture(1))).read_bytes()
    content = {"truncated": path.read_bytes()[:-40], "emptied": b"", "text": b"hello", "other pixels": other}
    path.write_bytes(content[damage])
    with pytest.raises(StoreError) as caught:
        store.read_image(name)
    assert str(path) in str(caught.value)
    assert "scrollbench store verify --repair" in str(caught.value)


def test_a_missing_picture_is_an_error_that_says_how_to_get_it(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no picture 0123.*scrollbench generate"):
        store.read_image("0123")


def test_writing_a_picture_again_heals_a_damaged_file(store: Store) -> None:
    name = store.write_image(picture())
    store.image_path(name).write_bytes(b"")
    store.write_image(picture())
    assert (store.read_image(name) == picture()).all()


def test_what_the_store_wrote_it_reads_however_large_pillow_finds_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store.write_image(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError), Image.open(store.image_path(name)):
        pass
    assert (store.read_image(name) == picture()).all()
    assert store.verify().ok
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pictures_are_written_and_read_up_to_one_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store.write_image(picture())
    monkeypatch.setattr(pictures, "MAX_PIXELS", 8 * 16)
    assert store.read_image(name).shape == (8, 16, 3)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 8 * 16 - 1)
    with pytest.raises(ValueError, match="at most 127 pixels, got 16x8"):
        store.write_image(picture(1))
    with pytest.raises(StoreError, match="16x8 is more than 127 pixels"):
        store.read_image(name)


def test_verify_finds_nothing_in_a_sound_store(store: Store) -> None:
    record(store, store.write_image(picture()))
    report = store.verify()
    assert (report.ok, report.pictures, report.records, report.repaired) == (True, 1, 1, False)
    assert report.damaged == report.unreadable == report.torn == report.missing == ()


def test_repair_sets_damaged_pictures_aside_and_keeps_all_others(store: Store) -> None:
    good, bad = store.write_image(picture(0)), store.write_image(picture(1))
    record(store, good, "r1")
    record(store, bad, "r2")
    store.image_path(bad).write_bytes(b"")
    found = store.verify()
    assert not found.ok
    assert [str(store.image_path(bad)) in line for line in found.damaged] == [True]
    assert store.has_image(bad)  # looking changes nothing
    assert store.verify(repair=True).ok
    assert store.verify().missing == (bad,)
    assert not store.has_image(bad)
    assert (store.read_image(good) == picture(0)).all()
    assert store.image_path(bad).with_name(f"{bad}.png.bad").exists()


def test_prune_deletes_only_what_no_record_names_and_no_run_can_be_about_to_name(store: Store) -> None:
    named, orphan, young = (store.write_image(picture(i)) for i in range(3))
    record(store, named)
    leftover = store.image_path(named).with_name(".left.tmp")
    leftover.write_bytes(b"half")
    old = time.time() - 7200
    for path in (store.image_path(named), store.image_path(orphan), leftover):
        os.utime(path, (old, old))
    before = files(store)
    dry = store.prune(dry_run=True)
    assert files(store) == before
    assert (dry.pictures, dry.temporaries) == (1, 1)
    assert store.prune().bytes == dry.bytes > 0
    assert [store.has_image(i) for i in (named, orphan, young)] == [True, False, True]
    assert not leftover.exists()


def test_a_full_disk_says_how_much_and_where_and_leaves_nothing_half_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.write_image(picture(0))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commit.os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space left to write .*\.png: [\d,]+ bytes wanted, [\d,]+ bytes free at "):
        store.write_image(picture(1))
    monkeypatch.undo()
    assert files(store) == [f"images/{kept[:2]}/{kept}.png"]


def test_a_folder_that_cannot_be_written_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*choose another --store"):
        Store(tmp_path / "file").write_image(picture())


def test_the_store_is_chosen_by_argument_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCROLLBENCH_STORE", raising=False)
    assert Store().root == Path("results/store")
    monkeypatch.setenv("SCROLLBENCH_STORE", "/elsewhere")
    assert Store().root == Path("/elsewhere")
    assert Store("here").root == Path("here")


def test_looking_into_a_store_that_is_not_there_does_not_make_it(store: Store) -> None:
    assert store.records() == []
    assert store.verify().ok
    assert store.prune().pictures == 0
    assert not store.root.exists()


def test_a_copy_in_another_process_writes_to_a_segment_of_its_own(store: Store) -> None:
    record(store, "a")
    record(pickle.loads(pickle.dumps(store)), "b")
    assert len(list((store.root / "records").glob("*.jsonl"))) == 2
    assert sorted(r["image_id"] for r in store.records()) == ["a", "b"]


def test_an_unlisted_commit_step_is_refused_so_that_none_goes_untested() -> None:
    with pytest.raises(ValueError, match="POINTS"):
        commit.commit_point("new-step")
