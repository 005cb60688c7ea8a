"""Calibration of GSD: the variant whose values are planted as the paper's is found, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.analysis.calibrate_gsd import (
    METHODS,
    GsdCalibration,
    Trial,
    Variant,
    calibrate_gsd,
    networks,
    published,
    verdict,
)
from bench.cli.app import main
from bench.errors import UsageError
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.suites.load import load_suite
from bench.suites.suite import Suite

SUITE = """
name = "rows"
version = "1"
tier = "miniature"
title = "Drawn panoramas under the names of the table's rows"
backbone = "world-sd"
parts = [{ name = "8to1", width = 256, height = 32, prompts = "scrollworld@1:spread" }]
methods = [{ ref = "world-truth", label = "MultiDiffusion" }, { ref = "world-suns", label = "SyncDiffusion" }]
metrics = []
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Store]:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.toml").write_text(SUITE)
    suite, store = load_suite(folder / "rows.toml", {"limit": 4}), Store(folder / "store")
    assert generate(make_plan(suite, store), store).complete
    return suite, store


@pytest.fixture(scope="module")
def found(drawn: tuple[Suite, Store]) -> GsdCalibration:
    return calibrate_gsd(drawn[1], drawn[0])


def test_the_variant_whose_values_are_planted_as_the_papers_is_the_nearest(
    drawn: tuple[Suite, Store], found: GsdCalibration
) -> None:
    suite, store = drawn
    allowed = {m: [t for t in found.trials if t.variant.metric == m and t.allowed] for m in found.points}
    planted = {metric: trials[-1] for metric, trials in allowed.items()}  # the farthest from what the paper prints
    assert all(found.best(metric) != trial for metric, trial in planted.items())
    points = {metric: {m: round(v[0], 3) for m, v in t.means.items()} for metric, t in planted.items()}
    again = calibrate_gsd(store, suite, points)
    for metric, trial in planted.items():
        best = again.best(metric)
        assert best is not None
        assert best.variant == trial.variant
        assert best.distance < 0.0006  # three printed digits
        assert best.holds
        others = [t for t in again.trials if t.variant.metric == metric and t.variant != trial.variant]
        assert all(t.distance > best.distance for t in others)


def test_every_reading_is_tried_on_the_networks_of_the_tier_and_said(found: GsdCalibration) -> None:
    tried = {(t.variant.metric, t.variant.view, t.variant.pairs, t.variant.scale) for t in found.trials}
    assert len(tried) == len(found.trials) == 3 * 2 * (1 + 2)
    assert {t.variant.extractor for t in found.trials} == {"world-lpips", "world-vit"}
    assert (found.prompts, found.absent) == (4, {})
    plain = {(t.variant.view, t.variant.pairs, t.variant.scale): t for t in found.trials if t.clone is not None}
    for (view, pairs, scale), trial in plain.items():
        if scale == "half":
            same = plain[view, pairs, "plain"]
            assert trial.means["SyncDiffusion"][0] == pytest.approx((1 + same.means["SyncDiffusion"][0]) / 2)
    assert plain["tiles", "all", "plain"].clone == pytest.approx(1, abs=1e-5)  # one square, eight times
    assert "nearest is world-" in verdict(found)[0]
    assert sum(t.nearest for t in found.trials if t.variant.metric == "gsd-dino") == pytest.approx(1)


def test_a_reading_that_does_not_call_repeated_squares_clones_is_never_the_nearest(found: GsdCalibration) -> None:
    first = Trial(Variant("gsd-dino", "n", "windows", "all"), {}, True, 0.01, 1.0, 0.9)
    second = replace(first, distance=0.1, clone=0.98)
    told = replace(found, trials=(first, second))
    assert told.best("gsd-dino") is second
    assert told.best("gsd-lpips") is None
    assert "no variant calls repeated squares clones" in verdict(told)[0]


def test_the_papers_two_rows_are_held_against_the_cards_networks() -> None:
    assert published() == {
        "gsd-lpips": dict(zip(METHODS, (0.658, 0.618))), "gsd-dino": dict(zip(METHODS, (0.902, 0.895))),
    }  # fmt: skip
    expected = {f"dinov2-vit{x}14-{p}-{size}" for x in "sbl" for p in ("cls", "mean") for size in (224, 518)}
    assert set(networks("dino", "full")) == expected  # and no network twice under two names
    assert len(networks("dino", "full")) == len(expected)
    assert networks("dino", "miniature") == ["world-vit"]


def test_the_command_prints_the_nearest_and_suites_or_stores_without_the_methods_are_refused(
    drawn: tuple[Suite, Store], tmp_path: Path
) -> None:
    suite, store = drawn
    told = CliRunner().invoke(
        main, ["calibrate-gsd", "--suite", str(suite.file), "--limit", "4", "--store", str(store.root), "--json"]
    )
    assert told.exit_code == 0, told.output
    assert set(json.loads(told.stdout)["nearest"]) == {"gsd-lpips", "gsd-dino"}
    with pytest.raises(UsageError, match="has no MultiDiffusion and no SyncDiffusion; take scrollscape-table1"):
        calibrate_gsd(store, load_suite("miniature-scaledit", {"limit": 1}))
    with pytest.raises(UsageError, match=r"scrollbench run --suite \S*rows\S* --limit 4 --method"):
        calibrate_gsd(Store(tmp_path / "empty"), suite)
