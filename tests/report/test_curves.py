"""Curves of a suite that varies one thing: what x is, means and intervals by prompt, a picture of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.errors import IncompleteError, UsageError
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.report.curves import draw, places, points
from bench.stats.means import bounds
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.support.small import SUITE, small

GRAIN = '[[methods]]\nref = "plugins.py@grain"\n'
LATENT = '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "latent"\n'
STRIDES = SUITE.replace(GRAIN, "").replace(
    LATENT, "".join(GRAIN + f'label = "grain u={x}"\nset = {{ scale = {v} }}\n' for x, v in (("1/8", 0.25), ("1", 1.0)))
)


def made(folder: Path, text: str) -> tuple[Store, Suite]:
    suite, store = small(folder, text), Store(folder / "store")
    generate(make_plan(suite, store), store)
    build(store)
    with pytest.raises(IncompleteError, match=r"scrollbench run --suite \S*small"):
        points(store, suite)
    score(suite, store)
    build(store)
    return store, suite


def test_a_knob_at_the_end_of_labels_is_the_axis_and_a_point_is_the_mean_of_its_prompts(tmp_path: Path) -> None:
    store, suite = made(tmp_path, STRIDES)
    rows = draw(store, suite, tmp_path / "figures" / "curves.png")
    assert [(r["metric"], r["curve"], r["knob"], r["x"], r["prompts"]) for r in rows] == [
        ("brightness", "grain", "u", 0.125, 3), ("brightness", "grain", "u", 1.0, 3),
    ]  # fmt: skip
    for row, scale in zip(rows, (0.25, 1.0)):
        of = [job for job in make_plan(suite, store).done if job.use.params["scale"] == scale]
        heads = [store.ledger().heads("image", (job.recipe_id,))[0] for job in of]
        each = [store.read_image(head["image_id"]).mean() for head in heads]
        assert row["mean"] == pytest.approx(np.mean(each))
        assert (row["low"], row["high"]) == pytest.approx(bounds(np.array(each)))
        assert row["low"] < row["mean"] < row["high"]
    assert (tmp_path / "figures" / "curves.png").stat().st_size > 10_000


def test_of_several_parts_the_width_is_the_axis(tmp_path: Path) -> None:
    wide = '[[parts]]\nname = "4to1"\nwidth = 32\nheight = 8\nprompts = "prompts.jsonl"\n'
    store, suite = made(tmp_path, SUITE.replace(LATENT, "").replace(GRAIN, wide + GRAIN + 'label = "grain"\n'))
    rows = points(store, suite)
    assert [(r["curve"], r["knob"], r["x"]) for r in rows] == [
        ("grain", "width in squares", 2.0), ("grain", "width in squares", 4.0),
    ]  # fmt: skip


def test_the_shipped_ablations_have_an_axis_and_other_suites_are_refused(tmp_path: Path) -> None:
    fig4 = list(places(load_suite("panollama-fig4", {"limit": 1})))
    assert {(curve, knob) for _, _, curve, knob, _ in fig4} == {
        ("MultiDiffusion", "u"), ("MAD", "u"), ("PanoLlama", "u"),
    }  # fmt: skip
    assert sorted({x for *_, x in fig4}) == [0.125, 0.75, 1.0]
    assert {x for *_, x in places(load_suite("panollama-fig5", {"limit": 1}))} == {2.0, 4.0, 6.0, 8.0, 10.0}
    assert {(c, k, x) for _, _, c, k, x in places(load_suite("msd-fig5", {"limit": 1}))} >= {("msd", "weight", 8.0)}
    with pytest.raises(UsageError, match="varies nothing that could be an axis"):
        points(Store(tmp_path / "store"), load_suite("panollama-table1", {"limit": 1}))
