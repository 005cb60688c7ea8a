"""A report says what the leaderboard says, in a folder that needs nothing else, whatever prompts and names hold."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bench
from bench.cli.app import main
from bench.errors import StoreError, UsageError
from bench.report.site.pictures import TILE, halved, kind, write_pictures, write_tiles
from bench.report.site.write import ASSETS, write_site
from bench.store.raster import Raster
from tests.support.gating import suite_in
from tests.support.reported import HOSTILE, Reported, data


def test_a_second_report_makes_no_picture_again_and_keeps_none_of_others(reported: Reported, tmp_path: Path) -> None:
    suite, store, out = reported
    out = Path(shutil.copytree(out, tmp_path / "report"))
    previews = sorted((out / "previews").iterdir())
    assert {p.stem for p in previews} == {i[0] for i in data(out, "pictures")["images"]}
    assert np.array_equal(
        np.asarray(Image.open(previews[0])), store.read_image(previews[0].stem)
    )  # small: without loss
    before = {p: p.stat().st_mtime_ns for p in previews}
    (out / "previews" / "other.webp").touch()
    (out / "tiles" / "other" / "0").mkdir(parents=True)
    words = ["report", "--suite", suite.file, "--store", store.root, "--out", out, "--json"]
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 0
    site = json.loads(told.stdout)
    assert {p: p.stat().st_mtime_ns for p in (out / "previews").iterdir()} == before
    assert list((out / "tiles").iterdir()) == []
    assert site["files"] == len([p for p in out.rglob("*") if p.is_file()])
    assert (site["index"], site["pictures"]) == (str(out / "index.html"), len(previews))


def test_a_folder_of_something_else_and_a_suite_without_pictures_are_refused(tmp_path: Path) -> None:
    suite = suite_in(tmp_path)
    store = bench.Store(tmp_path / "store")
    bench.build(store)
    with pytest.raises(StoreError, match="scrollbench run --suite"):
        write_site(store, suite, tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something that is not a report"):
        write_site(store, suite, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_hostile_text_stays_in_the_data_and_the_data_in_their_script(reported: Reported) -> None:
    for script in (reported.out / "data").iterdir():
        assert "<" not in script.read_text(encoding="ascii"), script
    assert HOSTILE in {p["text"] for part in data(reported.out, "suite")["parts"] for p in part["prompts"]}
    for page in reported.out.glob("*.html"):  # pages are the same for every suite
        assert page.read_text() == (ASSETS / page.name).read_text()


PARSES = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|DOMParser")
FETCHES = re.compile(r"\bfetch\(|XMLHttpRequest|https?://(?!www\.w3\.org|vega\.github\.io/schema)|\bimport\b")


def test_pages_parse_no_text_fetch_nothing_and_name_only_files_that_are_there() -> None:
    scripts = sorted(ASSETS.glob("*.js"))
    assert len(scripts) >= 9
    for script in scripts:
        assert not PARSES.search(script.read_text()), script
        assert not FETCHES.search(script.read_text()), script
    assert PARSES.search("place.innerHTML = text")
    assert FETCHES.search("await fetch('data.json')")
    for page in ASSETS.glob("*.html"):
        for name in re.findall(r'(?:src|href)="([^"#]+)"', page.read_text()):
            assert name.startswith(("data:", "data/")) or (ASSETS / name).is_file(), (page, name)


class Watched(Raster):
    """Remembers how many pixels were asked for at once."""

    most = 0

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        found = super().__getitem__(window)
        Watched.most = max(Watched.most, found.size // 3)
        return found


@pytest.mark.parametrize("whole", [True, False])
def test_a_large_picture_is_read_through_windows_and_never_whole(tmp_path: Path, whole: bool) -> None:
    height, width = 3 * TILE, 4200
    rows = (np.full((TILE, width, 3), shade, np.uint8) for shade in (40, 120, 200))
    raster, Watched.most = Watched(tmp_path, height, width, rows), 0
    store = Namespace(open_image=lambda image_id: raster)
    write_pictures(store, [("large", width, height)], tmp_path / "out", whole)  # type: ignore[arg-type]
    assert 0 < Watched.most <= TILE * width
    preview = np.asarray(Image.open(tmp_path / "out" / "previews" / "large.webp")).astype(int)
    assert np.abs(preview[[8, 48, 88], 100].mean(1) - (40, 120, 200)).max() < 4
    assert (tmp_path / "out" / "tiles" / "large" / "0" / "8_2.webp").exists() == whole
    assert np.asarray(raster).size // 3 == Watched.most == height * width  # to read it whole would be seen


def test_tiles_put_together_are_the_picture_and_half_of_it(tmp_path: Path) -> None:
    height, width = TILE + 90, 2 * TILE + 77
    rows, columns = np.mgrid[0:height, 0:width]
    rgb = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 64 + 96], -1).astype(np.uint8)
    write_tiles(Raster(tmp_path, height, width, iter([rgb])), tmp_path / "disk")
    smallest = write_tiles(rgb, tmp_path / "memory")
    levels = [rgb, halved(rgb), halved(halved(rgb))]
    assert [p.name for p in sorted((tmp_path / "disk").iterdir())] == ["0", "1", "2"]
    assert np.array_equal(smallest, levels[2])
    for level, whole in enumerate(levels):
        for tile in (tmp_path / "disk" / str(level)).iterdir():
            column, row = map(int, tile.stem.split("_"))
            piece = whole[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            shown = np.asarray(Image.open(tile)).astype(int)
            assert shown.shape == piece.shape
            assert np.abs(shown - piece).mean() < 6  # compressed with loss
            assert tile.read_bytes() == (tmp_path / "memory" / str(level) / tile.name).read_bytes()
    assert np.abs(rgb.astype(int) - rgb[:, ::-1]).mean() > 30  # another picture would be far
    assert [kind(256, 32), kind(3072, 512), kind(32768, 4096)] == ["preview", "file", "tiles"]
