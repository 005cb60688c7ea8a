"""Native squares: made, planned and forecast with a suite, on no board of it, and the base of relative FID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import extractors
from bench.analysis.board import boards
from bench.errors import UsageError
from bench.metrics.distribution import frechet_distance
from bench.pipeline.forecast import forecast
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from bench.suites.natives import drawn, natives
from bench.suites.suite import Suite
from tests.support import tiny

SUITE = """
name = "small"
version = "1"
tier = "miniature"
backbone = "world-sd"
defaults = { steps = 2, guidance = 2.5, stride = 4 }
parts = [
  { name = "2to1", width = 64, height = 32, prompts = "prompts.jsonl" },
  { name = "3to1", width = 96, height = 32, prompts = "prompts.jsonl" },
]
methods = [{ ref = "multidiffusion" }, { ref = "world-blurred", label = "blurred" }]
metrics = [{ ref = "relative-fid", view = "random", extractor = "inception@cnn", reference = "photographs" }]
[references.photographs]
kind = "folder"
path = "photographs"
[references.base-world-sd]
kind = "native"
width = 32
"""
PROMPTS = "".join(f'{{"id": "{i}", "text": "a {i}"}}\n' for i in ("harbour", "reef", "dune"))
PLAIN = SUITE.replace(', { ref = "world-blurred", label = "blurred" }', "")  # blurred wants scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite")
    (root / "prompts.jsonl").write_text(PROMPTS)
    (root / "photographs").mkdir()
    for i, rgb in enumerate(tiny.pictures(6)):
        Image.fromarray(rgb).save(root / "photographs" / f"{i}.png")
    tiny.cnn(root / "cnn")
    return root


def suite(folder: Path, toml: str = PLAIN, **overrides: Any) -> Suite:
    (folder / "suite.toml").write_text(toml.replace("inception@cnn", f"inception@{folder / 'cnn'}"))
    return load_suite(folder / "suite.toml", overrides)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("made") / "store")
    chosen = suite(folder)
    assert generate(make_plan(chosen, store), store).complete
    result = score(chosen, store)
    assert (result.sets, result.sets_failed, result.notes) == (2, 0, [])
    return store


def squares(store: Store) -> list[dict[str, Any]]:
    return [r for r in store.records() if r["kind"] == "image" and r["label"] == "base-world-sd"]


def test_every_prompt_is_drawn_once_as_a_square_by_plain_sampling_with_the_suites_knobs(
    folder: Path, made: Store
) -> None:
    found = squares(made)
    assert sorted(r["prompt_id"] for r in found) == ["dune", "harbour", "reef"]  # two parts, one square
    assert {(r["width"], r["height"]) for r in found} == {(32, 32)}
    for r in found:
        assert (r["recipe"]["method"], r["recipe"]["backbone"]) == ("direct", "world-sd")
        assert r["recipe"]["params"] == {"steps": 2, "guidance": 2.5}
    assert not make_plan(suite(folder), made).jobs


def test_relative_fid_is_taken_against_them(folder: Path, made: Store) -> None:
    net = extractors.load(f"inception@{folder / 'cnn'}")
    real = net.embed([np.asarray(Image.open(p)) for p in sorted((folder / "photographs").iterdir())])
    base = net.embed([made.read_image(r["image_id"]) for r in squares(made)])
    expected = frechet_distance(base, real)
    rows = [r for r in made.records() if r["kind"] == "set_score"]
    assert [(r["part"], r["n"], r["m"]) for r in rows] == [("2to1", 3, 6), ("3to1", 3, 6)]
    for r in rows:
        assert r["values"]["relative-fid-base"] == pytest.approx(expected, rel=1e-3)
        assert r["values"]["relative-fid-pictures"] != pytest.approx(expected, rel=1e-2)


def test_they_stand_on_no_board_and_change_no_identity(folder: Path, made: Store) -> None:
    chosen = suite(folder)
    build(made)
    assert [line.method for b in boards(made, chosen) for line in b.lines] == ["multidiffusion"] * 2
    assert chosen.digest == suite(folder, PLAIN.partition("[references.base")[0]).digest
    (own,) = natives(chosen).values()
    assert own.ref == "small-base-world-sd@1"
    assert own.digest != chosen.digest


def test_a_plan_and_a_forecast_count_them(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(suite(folder), Store(tmp_path))
    assert len(plan.cells) == 2 * 3 * 2
    assert len(plan.jobs) == 2 * 3 + 3
    without = make_plan(suite(folder), Store(tmp_path), natives=False)
    assert {j.use.label for j in without.cells} == {"multidiffusion"}
    rows = {(r.part, r.method): r for r in forecast(suite(folder))}
    assert rows["2to1", "base-world-sd"].nfe == 2 * 2  # steps, and both halves of guidance
    assert rows["2to1", "base-world-sd"].other < rows["2to1", "multidiffusion"].other


def test_a_run_without_the_networks_methods_draws_none(folder: Path, tmp_path: Path) -> None:
    chosen = suite(folder, SUITE, methods=["blurred"])
    assert drawn(chosen) == (chosen,)
    assert len(drawn(suite(folder, SUITE))) == 2


def test_before_any_is_made_the_metric_is_left_out_and_the_command_is_told(folder: Path, tmp_path: Path) -> None:
    store, chosen = Store(tmp_path / "store"), suite(folder)
    assert generate(make_plan(chosen, store, natives=False), store).complete
    result = score(chosen, store)
    assert (result.sets, result.sets_failed) == (0, 0)
    assert any(f"scrollbench generate {chosen.command}" in note for note in result.notes)
    generate(make_plan(chosen, store), store)
    assert score(chosen, store).sets == 2


def test_the_side_of_the_squares_must_be_given(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"references\.base-world-sd\.width: missing; expected the side"):
        natives(suite(folder, PLAIN.replace('"native"\nwidth = 32', '"native"')))


def test_the_suite_of_panollamas_table_makes_the_base_of_its_relative_fid_in_both_tiers() -> None:
    full, small = load_suite("panollama-table1"), load_suite("panollama-table1", {"tier": "miniature", "limit": 2})
    (of_full,), (of_small,) = natives(full).items(), natives(small).items()
    assert (of_full[0], str(of_full[1].parts[0].canvas), of_full[1].backbone) == ("base-sd20", "512x512", "sd20")
    assert (of_small[0], str(of_small[1].parts[0].canvas)) == ("base-world-sd", "32x32")
    assert [p.prompts.digest for p in of_full[1].parts] == [p.prompts.digest for p in full.parts]
    assert of_full[1].methods[0].params == {"steps": 50, "guidance": 7.5}
    assert "relative-fid" in {m.label for m in small.metrics}
