"""What can only fail is refused, all at once, before anything is drawn or recorded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.pipeline.executors.preflight import preflight
from bench.pipeline.generate import generate
from bench.pipeline.plan import Plan, make_plan
from bench.pipeline.run import run
from bench.store import Store
from bench.suites.load import load_suite
from tests.support.small import SUITE, write_suite

MINIATURE = SUITE.replace("plugins.py@fake", "world-sd").replace("plugins.py@latent-grain", "multidiffusion")
SQUARE = MINIATURE.replace("width = 16\nheight = 8", "width = 64\nheight = 32")


def plan(folder: Path, text: str = SQUARE, **changes: object) -> Plan:
    return make_plan(load_suite(write_suite(folder, text), {"methods": ["latent"], **changes}), Store(folder / "store"))


@pytest.mark.parametrize(
    ("text", "knob", "said"),
    [
        (SQUARE, "steps=0", "canvas 64x32: steps must be at least 1, got 0"),
        (SQUARE, "steps=1001", "steps must be 1 to 1000, got 1001"),
        (SQUARE, "stride=9", "stride must be 1 to 8 cells"),
        (SQUARE, "window=1000", "ask for a height of at least 4000 px"),
        (SQUARE.replace("64", "66"), "steps=4", r"the canvas width must be a multiple of 4, got 66; nearest: 64 or 68"),
        (SQUARE.replace("64", "40000").replace("32", "40000"), "steps=4", "1,600,000,000 pixels are more than"),
    ],
)  # fmt: skip
def test_cells_knobs_and_canvases_are_refused_before_any_work(tmp_path: Path, text: str, knob: str, said: str) -> None:
    refused = plan(tmp_path, text, set=[f"latent.{knob}"])
    store = Store(tmp_path / "store")
    with pytest.raises(UsageError, match=f"this can only fail:\n.*{said}"):
        generate(refused, store)
    assert not store.root.exists()


def test_what_works_is_not_refused_and_the_outline_is_left_as_it_was(tmp_path: Path) -> None:
    assert preflight(plan(tmp_path)) == preflight(plan(tmp_path)) == "cpu"


def test_a_forecast_for_another_machine_asks_for_no_device(tmp_path: Path) -> None:
    half = SQUARE.replace('title = "Small"', 'backbone_options = {precision = "fp16"}')
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        preflight(plan(tmp_path, half), "cpu")
    assert preflight(plan(tmp_path, half), "cpu", here=False) == ""


def test_all_that_is_refused_is_said_at_once(tmp_path: Path) -> None:
    again = '[[methods]]\nref = "multidiffusion"\nlabel = "other"\nset = {stride = 0}\n'
    with pytest.raises(UsageError) as refusal:
        preflight(plan(tmp_path, SQUARE + again, methods=["latent", "other"], set=["latent.steps=0"]))
    assert re.findall("method '(.*?)', part '2to1'", str(refusal.value)) == ["latent[steps=0]", "other"]


@pytest.mark.parametrize(("view", "drawn"), [("squares", False), ("whole", True)])
def test_a_wrong_metric_is_refused_before_any_picture_is_drawn(tmp_path: Path, view: str, drawn: bool) -> None:
    suite, store = load_suite(write_suite(tmp_path, f'{SUITE}view = "{view}"\n')), Store(tmp_path / "store")
    if drawn:
        assert run(suite, store).complete
    else:
        with pytest.raises(UsageError, match="unknown view 'squares'"):
            run(suite, store)
    assert (store.root / "images").exists() is drawn
