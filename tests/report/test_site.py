"""A report says what the leaderboard says, in a folder that needs nothing else, whatever prompts and names hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bench
from bench.analysis.compare import compare
from bench.errors import StoreError, UsageError
from bench.report.site.pictures import TILE, halved, kind, write_tiles
from bench.report.site.write import ASSETS, write_site
from bench.store.index import query
from bench.store.raster import Raster
from tests.support.gating import made, suite_in
from tests.support.hostile import HOSTILE, hostile


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("site")
    suite, store = made(folder, "plain", "dark", "striped")
    write_site(store, suite, folder / "report")
    return suite, store, folder / "report"


def data(out: Path, name: str) -> Any:
    """What a page finds in ``window.DATA``."""
    text = (out / "data" / f"{name}.js").read_text(encoding="ascii")
    head = f'(window.DATA = window.DATA || {{}})["{name}"] = '
    assert text.startswith(head)
    return json.loads(text.removeprefix(head).removesuffix(";\n"))


def test_every_number_of_the_board_is_the_leaderboards(written: tuple[Any, Any, Path]) -> None:
    _, store, out = written
    found = {
        (row["method"], label): spot["value"]
        for s in data(out, "board")["sections"] for row in s["rows"] for label, spot in row["spots"].items()
    }  # fmt: skip
    asked = query(
        store, "select method, metric, value from leaderboard where metric not in ('peak_bytes', 'mean-level')"
    )
    assert found == {(m, k): v for m, k, v in asked[1] if v is not None}
    assert len(found) == 3 * 4


def test_costs_and_places_are_the_leaderboards(written: tuple[Any, Any, Path]) -> None:
    _, store, out = written
    costs = {(r["method"], k): r[k] for r in data(out, "cost") for k in ("seconds", "nfe", "peak_bytes")}
    for (method, name), value in costs.items():
        (row,) = query(store, f"select avg({name}) from picture where method = '{method}'")[1]
        assert value == (row[0] if value is None else pytest.approx(row[0]))
    pictures = data(out, "pictures")
    places = {(p, m, s): pictures["images"][i][0] for _, p, m, s, i in pictures["places"]}
    assert places == {
        tuple(r[:3]): r[3] for r in query(store, "select prompt_id, method, seed, image_id from picture")[1]
    }
    along = data(out, "along")
    for image, index, value in query(store, """select image_id, "index", c.value from curve c
            join picture p using (suite_digest, method, prompt_id, seed) where c.metric = 'seam'""")[1]:  # fmt: skip
        assert [index, value] in along[image]["seam@whole"]


def test_comparisons_are_those_of_the_command(written: tuple[Any, Any, Path]) -> None:
    suite, store, out = written
    compared = data(out, "compare")
    for pair in compared["pairs"]:
        report = compare(store, suite, pair["a"], pair["b"])
        (c,) = [c for c in report.comparisons if c.measure.name == pair["metric"]]
        assert (pair["mean_a"], pair["mean_b"], pair["adjusted"], pair["said"]) == (c.a, c.b, c.adjusted, c.said)
        assert pair["gain"] == vars(c.gain)
        values = compared["values"]["2to1"][pair["metric"]]
        assert {p.prompt_id: (p.a, p.b) for p in c.losses} == {
            p: (values[pair["a"]][p], values[pair["b"]][p]) for p in values[pair["a"]]
        }
    assert len(compared["pairs"]) == 3 * 2


def test_previews_are_the_pictures_and_a_second_report_makes_none_again(written: tuple[Any, Any, Path]) -> None:
    suite, store, out = written
    previews = sorted((out / "previews").iterdir())
    assert {p.stem for p in previews} == {i[0] for i in data(out, "pictures")["images"]}
    assert np.array_equal(
        np.asarray(Image.open(previews[0])), store.read_image(previews[0].stem)
    )  # small: without loss
    before = {p: p.stat().st_mtime_ns for p in previews}
    site = write_site(store, suite, out)
    assert {p: p.stat().st_mtime_ns for p in previews} == before
    assert site.files == len([p for p in out.rglob("*") if p.is_file()])


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


def test_hostile_text_stays_in_the_data_and_the_data_in_their_script(tmp_path: Path) -> None:
    suite, store = hostile(tmp_path)
    out = write_site(store, suite, tmp_path / "report").index.parent
    raw = (out / "data" / "suite.js").read_text(encoding="ascii")
    assert "<" not in raw
    assert HOSTILE in {p["text"] for part in data(out, "suite")["parts"] for p in part["prompts"]}
    for page in out.glob("*.html"):  # pages are the same for every suite
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
