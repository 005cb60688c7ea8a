"""Any folder of pictures is measured as a suite would measure it, and what was looked at is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import bench
from bench import extractors, views
from bench.cli.app import main
from bench.errors import UsageError
from bench.metrics.distribution import kernel_distance
from bench.metrics.sample import Sample
from bench.metrics.sharpness import sharpness
from bench.types import Canvas, Prompt

SIZES = {"a": (96, 32), "b": (64, 32), "sub/c": (64, 32)}


def pictures(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    rng, made = np.random.default_rng(seed), {}
    for name, (width, height) in SIZES.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        made[name] = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(made[name]).save(path)
    return made


def test_means_are_those_of_the_metric_on_each_picture_and_what_was_cut_is_said(tmp_path: Path) -> None:
    made = pictures(tmp_path)
    found, _worst = bench.evaluate(tmp_path, metrics=["sharpness"])
    canvases = {name: Canvas(*SIZES[name]) for name in made}
    each = []
    for name, rgb in made.items():
        values = sharpness.fn(Sample(rgb, Prompt(name, ""), canvases[name], view="tiles"))
        each.append(np.mean([v.value for v in values if v.name == "sharpness"]))
    assert found.value == pytest.approx(np.mean(each))
    assert found.low is not None
    assert found.low < found.value < (found.high or 0)
    assert (found.n, found.better, found.network) == (3, "higher", "")
    assert found.looks == "tiles: 3 of 32x32 px from 96x32; 2 of 32x32 px from 64x32"
    other, _worst = bench.evaluate(
        tmp_path, metrics=["sharpness@centre"]
    )  # negative control: another view, another number
    assert other.looks.startswith("centre: 1 of 32x32 px from 96x32; 1 of 32x32 px from 64x32")
    assert other.looks.endswith("sees 33 %")
    assert other.value != found.value


def test_a_distance_between_two_folders_is_the_metrics_on_their_features(tmp_path: Path) -> None:
    sides = [pictures(tmp_path / name, seed) for seed, name in enumerate(("ours", "theirs"))]
    found = {r.number: r for r in bench.evaluate(tmp_path / "ours", tmp_path / "theirs", ["kid"], tier="miniature")}
    network = extractors.load("world-cnn")
    rows = [
        np.concatenate(
            [network.embed(views.cuts(rgb, "tiles", Canvas(*SIZES[name]), "")) for name, rgb in side.items()]
        )
        for side in sides
    ]
    assert found["kid"].value == pytest.approx(kernel_distance(*(r.astype(np.float64) for r in rows)))
    assert found["kid"].low is None
    assert "7 crops against 7" in found["kid"].looks
    assert (found["kid"].network, found["kid"].n) == ("world-cnn", 3)


def test_what_cannot_be_measured_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of pictures"):
        bench.evaluate(tmp_path / "none", metrics=["sharpness"])
    with pytest.raises(UsageError, match="no picture in"):
        bench.evaluate(tmp_path, metrics=["sharpness"])
    pictures(tmp_path)
    for metrics, why in (
        (["kid"], "--against"), (["clip-score"], "--prompts FILE.csv"), (["caption-match"], "known truth"),
        (["sharpnes"], "did you mean 'sharpness'"), (["sharpness@tile"], "did you mean 'tiles'"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            bench.evaluate(tmp_path, metrics=metrics, tier="miniature")
    with pytest.raises(UsageError, match=r"no prompt for 2 pictures, b\.png first"):
        bench.evaluate(tmp_path, metrics=["clip-score"], prompts={"a.png": "a reef"}, tier="miniature")


def test_the_command_prints_the_numbers_and_what_they_looked_at(tmp_path: Path) -> None:
    pictures(tmp_path)
    runner = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    said = runner.invoke(main, ["measure", str(tmp_path), "--metric", "sharpness"])
    assert said.exit_code == 0, said.output
    assert "sharpness, sharpness-worst: tiles: 3 of 32x32 px from 96x32; 2 of 32x32 px from 64x32" in said.stdout
    rows = json.loads(runner.invoke(main, ["measure", str(tmp_path), "--metric", "sharpness", "--json"]).stdout)
    assert [row["number"] for row in rows] == ["sharpness", "sharpness-worst"]
