"""Calibration: the noise of a method against itself, and margins that are never under twice of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.analysis.calibrate import (
    APART,
    Calibration,
    ahead,
    calibrate,
    from_seeds,
    margins,
    round_up,
    rows,
    snippet,
)
from bench.analysis.gate import gate, margins_of
from bench.cli.app import main
from bench.errors import IncompleteError, UsageError
from bench.store import Store
from bench.suites.load import load_suite
from tests.support.gating import made, suite_in


def calibrated(folder: Path, method: str = "plain", **more: object) -> tuple[Calibration, Store]:
    ref = f"{folder / 'plugins.py'}@{method}" if method != "plain" else method
    suite, store = suite_in(folder, methods=[ref]), Store(folder / "store")
    return calibrate(store, suite, **more), store  # type: ignore[arg-type]


def test_margins_are_twice_the_largest_difference_between_runs_with_other_seeds(tmp_path: Path) -> None:
    found, _ = calibrated(tmp_path)
    brightness = next(f for f in found.floors if f.name == "brightness")
    assert set(brightness.by) == {"seeds 1", "seeds 2"}
    assert brightness.floor == max(brightness.by.values()) > 0
    assert 2 * brightness.floor <= margins(found)["brightness"] < 2.2 * brightness.floor
    assert brightness.n == 12
    assert [r["margin"] for r in rows(found)] == [margins(found)["brightness"], margins(found)["seam"]]


def test_the_method_with_other_seeds_passes_the_calibrated_gate_and_a_worse_one_does_not(tmp_path: Path) -> None:
    found, store = calibrated(tmp_path)
    (tmp_path / "margins.toml").write_text(snippet(found))
    suite, _ = made(tmp_path, "plain", "noisy", "dark", set=["noisy.spread=0.005"])
    limits = margins_of(suite, tmp_path / "margins.toml")
    assert gate(store, suite, "plain", "plugins.py@noisy[spread=0.005]", limits).verdict == "pass"
    assert gate(store, suite, "plain", "plugins.py@dark", limits).verdict == "regressed"
    assert verdict_of_stripes(tmp_path, limits) == "regressed"
    tight = {name: value / 50 for name, value in limits.items()}
    assert gate(store, suite, "plain", "plugins.py@noisy[spread=0.005]", tight).verdict != "pass"


def verdict_of_stripes(folder: Path, limits: dict[str, float]) -> str:
    suite, store = made(folder, "plain", "striped")
    return gate(store, suite, "plain", "plugins.py@striped", {"seam": limits["seam"]}).verdict


def test_the_baselines_own_seeds_give_margins_without_a_picture_more(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", seeds=[0, 1, 2])
    before = len(store.records())
    found = from_seeds(store, suite, "plain")
    assert len(store.records()) == before
    assert found.repetitions == ("seeds 0 and 1", "seeds 0 and 2")
    drawn, _ = calibrated(tmp_path / "drawn")  # the same noise, by other seeds
    own, other = margins(found)["brightness"], margins(drawn)["brightness"]
    assert other / 4 < own < 4 * other
    with pytest.raises(UsageError, match=r"has one seed.*scrollbench calibrate"):
        from_seeds(store, suite_in(tmp_path, methods=["plain"], seeds=[0]), "plain")


def test_one_prompt_gives_no_margins_and_says_so(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", prompts=1, seeds=[0, 1])
    with pytest.raises(IncompleteError, match=r"give no margins: .*one prompt has no interval; take two or more"):
        from_seeds(store, suite, "plain")
    two, store = made(tmp_path / "two", "plain", prompts=2, seeds=[0, 1])
    assert margins(from_seeds(store, two, "plain"))["brightness"] > 0


def test_what_a_calibration_will_draw_is_said_before_it_draws(tmp_path: Path) -> None:
    suite, store = suite_in(tmp_path, methods=["plain"]), Store(tmp_path / "store")
    pictures = len(suite.parts[0].prompts.prompts) * len(suite.seeds)
    assert ahead(store, suite, other_seeds=2).startswith(f"{3 * pictures} pictures to draw; their time is not known")
    made(tmp_path, "plain")
    assert ahead(store, suite, other_seeds=2).startswith(f"{2 * pictures} pictures to draw, about ")
    calibrate(store, suite, other_seeds=2)
    assert ahead(store, suite, other_seeds=2) == "all pictures of this calibration are here"


def test_a_deterministic_repetition_adds_no_noise_and_is_told(tmp_path: Path) -> None:
    found, store = calibrated(tmp_path, other_seeds=0, threads=[1])
    assert found.notes == ("threads 1: all pictures are equal",)
    assert margins(found) == {"brightness": 0, "seam": 0}
    assert "seam = 0 # never varied: any loss counts" in snippet(found)
    assert (store.root / "calibrate" / "threads-1" / "images").is_dir()


def test_the_second_call_makes_nothing_again(tmp_path: Path) -> None:
    first, store = calibrated(tmp_path, other_seeds=1)
    before = len(store.records())
    second, _ = calibrated(tmp_path, other_seeds=1)
    assert len(store.records()) == before
    assert first == second


def test_other_seeds_are_other_questions_and_do_not_reach_the_suites_board(tmp_path: Path) -> None:
    _, store = calibrated(tmp_path, other_seeds=1)
    members = [r for r in store.records() if r["kind"] == "member"]
    suite = load_suite(tmp_path / "gated.toml")
    assert {r["seed"] for r in members if r["suite_digest"] == suite.digest} == {0, 1}
    assert {r["seed"] for r in members} == {0, 1, APART, APART + 1}


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "dark", prompts=2)
    with pytest.raises(UsageError, match="takes one method"):
        calibrate(store, suite)
    alone = load_suite(tmp_path / "gated.toml")
    with pytest.raises(UsageError, match="nothing to repeat"):
        calibrate(store, alone, other_seeds=0)
    fails = {"methods": [f"{tmp_path / 'plugins.py'}@fails"], "set": ["fails.at=p01"]}
    broken = load_suite(tmp_path / "gated.toml", fails)
    with pytest.raises(IncompleteError, match="no idea what to draw"):
        calibrate(store, broken, other_seeds=1)


def test_margins_are_rounded_up_to_two_digits() -> None:
    assert [round_up(v) for v in (0.0101, 0.0110, 3.0, 12.01, 123.4)] == [0.011, 0.011, 3.0, 13, 130]


def test_the_command_writes_a_snippet_that_a_suite_takes(tmp_path: Path) -> None:
    suite_in(tmp_path)
    file = tmp_path / "out.toml"
    words = ["calibrate", "--suite", str(tmp_path / "gated.toml"), "--store", str(tmp_path / "store"), "--other-seeds"]
    said = CliRunner(env={"COLUMNS": "200"}).invoke(main, [*words, "1", "--write", str(file)])
    assert said.exit_code == 0, said.output
    assert "[gate.margins]" in said.stdout
    table = tomllib.loads(file.read_text())["gate"]["margins"]
    text = (tmp_path / "gated.toml").read_text().partition("[gate.margins]")[0] + file.read_text()
    (tmp_path / "gated.toml").write_text(text)
    assert margins_of(load_suite(tmp_path / "gated.toml")) == table
