"""Pictures too large for memory: added up on disk, written and read by rows, the same picture under the same id."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import StoreError, UsageError
from bench.ids import image_id
from bench.store import Store, commit, png
from bench.store.raster import Raster, Sum, strips
from bench.types import Parts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.types.WHOLE", 2**7)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth one, so that rows take every filter."""
    x = np.random.default_rng(seed).integers(-2, 3, (height, width, 3)).cumsum(axis=1).cumsum(axis=0)
    return (x // 4 % 256).astype(np.uint8)


SHAPES = [(70, 33), (1, 300), (300, 1), (129, 2050)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_a_large_picture_has_the_id_of_its_pixels_and_every_program_reads_them(
    store: Store, large: None, height: int, width: int
) -> None:
    rgb = picture(height, width)
    raster = Raster(store.root, height, width, strips(rgb, 7))
    names = {store.write_image(rgb), store.write_image(raster)}
    assert names == {image_id(rgb)}
    (name,) = names
    with Image.open(store.image_path(name)) as read:
        assert (np.asarray(read) == rgb).all()
    found = store.open_image(name)
    assert isinstance(found, Raster)
    assert (found[1:60, 2:40] == rgb[1:60, 2:40]).all()
    assert (found[5:, -9:] == rgb[5:, -9:]).all()
    assert (store.read_image(name) == rgb).all()
    assert store.verify().ok


def test_small_pictures_are_packed_as_ever(store: Store) -> None:
    name = store.write_image(picture(70, 33))
    Image.fromarray(picture(70, 33)).save(store.root / "pillow.png")
    assert store.image_path(name).read_bytes() == (store.root / "pillow.png").read_bytes()
    assert isinstance(store.open_image(name), np.ndarray)


def test_rows_take_the_filter_that_leaves_the_least(tmp_path: Path) -> None:
    rgb = picture(64, 200)
    file = tmp_path / "x.png"
    file.write_bytes(b"".join(png.encode(64, 200, [rgb[:10], rgb[10:]])))
    assert set(_filters(file, 200)) == {png.SUB, png.UP}
    assert file.stat().st_size < 0.9 * len(zlib.compress(rgb.tobytes()))


def _filters(file: Path, width: int) -> Iterator[int]:
    with file.open("rb") as f:
        f.read(8)
        packed = b"".join(data for kind, data in png._chunks(f) if kind == b"IDAT")
    yield from zlib.decompress(packed)[:: 3 * width + 1]


def test_a_large_file_with_other_filters_is_read_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:90, :120]
    rgb = np.stack([x + y, x * y // 40, np.hypot(x, y)], axis=-1).astype(np.uint8)
    name = store.write_image(rgb)  # by Pillow
    assert set(_filters(store.image_path(name), 120)) - {png.NONE, png.SUB, png.UP}
    monkeypatch.setattr("bench.types.WHOLE", 2**7)
    with pytest.raises(png.Foreign):
        list(png.decode(store.image_path(name)))
    found = store.open_image(name)
    assert isinstance(found, np.ndarray)
    assert (found == rgb).all()


@pytest.mark.parametrize("damage", ["a flipped bit", "truncated", "rows short", "other pixels"])
def test_damage_in_a_large_file_is_found(store: Store, large: None, damage: str) -> None:
    name = store.write_image(picture(70, 33))
    path = store.image_path(name)
    data = bytearray(path.read_bytes())
    if damage == "a flipped bit":
        data[len(data) // 2] ^= 1
    elif damage == "truncated":
        del data[-40:]
    elif damage == "rows short":
        head = b"IHDR" + struct.pack(">IIBBBBB", 33, 71, 8, 2, 0, 0, 0)
        data[12:33] = head + struct.pack(">I", zlib.crc32(head))
    else:
        data = bytearray(b"".join(png.encode(70, 33, [picture(70, 33, 1)])))
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"damaged picture.*store verify --repair"):
        store.open_image(name)
    assert [str(path) in line for line in store.verify().damaged] == [True]


def test_strips_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 4 rows, got 3"):
        Raster(tmp_path, 4, 5, [np.zeros((3, 5, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"expected strips of uint8 \('n', 5, 3\), got float64"):
        Raster(tmp_path, 4, 5, [np.zeros((4, 5, 3))])
    with pytest.raises(ValueError, match="expected 4 rows, got 2"):
        b"".join(png.encode(4, 5, [np.zeros((2, 5, 3), np.uint8)]))
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_full_disk_is_no_damage(store: Store, large: None, monkeypatch: pytest.MonkeyPatch) -> None:
    name = store.write_image(picture(70, 33))

    class Full:
        def write(self, _: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.store.raster._scratch", lambda folder: Full())
    with pytest.raises(StoreError, match=r"no space left to write .* 6,930 bytes wanted"):
        store.open_image(name)


def parts(height: int, width: int, side: int, seed: int = 0) -> tuple[list[tuple[int, int, np.ndarray]], np.ndarray]:
    """Overlapping squares in any order, some beyond the edges, and their sum."""
    draw = np.random.default_rng(seed)
    total, made = np.zeros((3, height, width), np.float32), []
    places = [(y, x) for y in range(0, height, side // 2) for x in range(0, width, side // 2)]
    for y, x in draw.permutation(places):
        values = draw.random((3, side, side), dtype=np.float32) / 4
        made.append((int(y), int(x), values))
        there = total[:, y : y + side, x : x + side]
        there += values[:, : there.shape[1], : there.shape[2]]
    return made, total


def test_parts_add_up_in_any_order_in_memory_and_on_disk(tmp_path: Path) -> None:
    made, total = parts(150, 2100, 300)
    assert (Parts(150, 2100, made).whole() == total).all()
    assert (np.asarray(Parts(150, 2100, made)) == total).all()
    on_disk = Sum(tmp_path, 150, 2100)
    for y, x, values in Parts(150, 2100, made):
        on_disk.add(y, x, values)
    rows = [np.concatenate(list(row), axis=2) for row in on_disk.blocks()]
    assert (np.concatenate(rows, axis=1) == total).all()
    untouched = [block.any() for row in Sum(tmp_path, 70, 70).blocks() for block in row]
    assert untouched == [False, False]
    with pytest.raises(ValueError, match="a picture without parts"):
        Parts(4, 4, []).whole()


def test_a_method_gives_a_small_picture_and_a_large_ones_parts(large: None) -> None:
    one = np.ones((3, 8, 16), np.float32)
    assert isinstance(Parts(8, 16, [(0, 0, one)]).settled(), np.ndarray)
    assert isinstance(Parts(8, 17, [(0, 0, one)]).settled(), Parts)


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_picture_while_it_is_kept_and_looked_at(store: Store, large: None) -> None:
    def keep(height: int) -> str:
        return store.write_image(Raster(store.root, height, 256, (np.zeros((64, 256, 3), np.uint8),) * (height // 64)))

    def look(name: str, whole: bool = False) -> None:
        found = store.open_image(name)
        assert sum(int(w.sum()) for w in ([np.asarray(found)] if whole else strips(found))) == 0

    heights = (1024, 4096)
    keep(64)  # modules that are imported on the way
    names: list[str] = []
    kept = [peak(lambda: names.append(keep(h))) for h in heights]  # noqa: B023
    seen = [peak(lambda: look(n)) for n in names]  # noqa: B023
    held = [peak(lambda: look(n, whole=True)) for n in names]  # noqa: B023
    assert kept[1] < 1.1 * kept[0]
    assert seen[1] < 1.1 * seen[0]
    assert held[1] > 2 * held[0]  # the control: all pixels at once


@pytest.mark.parametrize("ending", ["png", "tif", "TIFF"])
def test_a_picture_is_written_out_for_viewers(store: Store, large: None, tmp_path: Path, ending: str) -> None:
    rgb = picture(530, 1100)
    out = store.copy_image(store.write_image(rgb), tmp_path / "deep" / f"scroll.{ending}")
    with Image.open(out) as read:
        assert (np.asarray(read) == rgb).all()
    if ending != "png":
        assert out.read_bytes()[:4] == b"II\x2b\x00"  # 43: BigTIFF
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_another_ending_is_refused(store: Store, tmp_path: Path) -> None:
    name = store.write_image(picture(8, 8))
    with pytest.raises(UsageError, match=r"is written as \.png, \.tif or \.tiff; got '\.jpg'"):
        store.copy_image(name, tmp_path / "x.jpg")


def test_a_large_picture_passes_the_same_commit_points(
    store: Store, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[str] = []
    monkeypatch.setattr(commit, "commit_point", passed.append)
    store.write_image(picture(70, 33))
    assert passed == ["image-before", "image-temp-written", "image-renamed"]
