"""The main job, small: the embedded suite from prompts to leaderboard, and once more for nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.registry import find
from bench.store import Store
from bench.store.index import build, query
from bench.suites.load import load_suite
from bench.suites.suite import Suite

METHODS = {"direct", "multidiffusion", "direct:flux", "dype", "scale-dit", "drspo", "panollama", "scrollscape"} | {
    f"world-{c}" for c in ("truth", "tiled", "blurred", "suns")
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """The embedded suite with small reference sets, fewer windows and steps; else as it is."""
    toml, sets = re.subn(r"count = \d+", "count = 24", Path(find("suites", "miniature")).read_text())
    toml, rows = re.subn(r"set = { steps = \d+", "set = { steps = 3", toml.replace("kept = 13", "kept = 2"))
    toml, strides = re.subn(r"stride = 2\b", "stride = 4", toml)
    toml, steps = re.subn(r"^steps = 20$", "steps = 8", toml, flags=re.M)
    assert (sets, rows, strides, steps) == (2, 5, 1, 1)
    file = tmp_path_factory.mktemp("suite") / "miniature.toml"
    file.write_text(toml)
    return load_suite(file, {"limit": 2})


@pytest.fixture(scope="module")
def store(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("store"))
    assert generate(make_plan(suite, made), made).complete
    result = score(suite, made)
    assert not result.failed
    assert not result.blocked
    build(made)
    return made


def test_every_cell_is_covered(store: Store) -> None:
    _, rows = query(store, "select method, wanted, made from coverage")
    assert {r[0] for r in rows} == METHODS
    assert all(wanted == made == 2 for _, wanted, made in rows)


def test_every_method_has_every_number(store: Store, suite: Suite) -> None:
    values = {name for use in suite.metrics for name in use.metric.values if not name.endswith("-lag")}
    _, rows = query(store, "select method, metric, coalesce(reference, ''), value, missing from leaderboard")
    found = {(r[0], r[1]) for r in rows}
    optional = {"kid-subset-mean", "kid-subset-std"}
    assert found >= {(m, v) for m in METHODS for v in values - optional}
    assert all(r[4] == 0 for r in rows)
    assert {r[2] for r in rows if r[1] in ("kid", "fid")} == {"panoramas", "squares"}


def test_the_truth_repeats_nothing_and_the_other_controls_are_what_they_are_called(store: Store) -> None:
    _, rows = query(store, "select method, value from leaderboard where metric = 'object-count'")
    count = dict(rows)
    assert count["world-truth"] == count["world-blurred"] == 1
    assert count["world-suns"] == 6
    assert count["world-tiled"] == 8
    assert count["multidiffusion"] > 2
    gsd = dict(query(store, "select method, value from leaderboard where metric = 'gsd-dino'")[1])
    assert gsd["world-tiled"] > 0.99 > gsd["world-truth"]


def test_the_same_command_again_makes_and_scores_nothing(store: Store, suite: Suite) -> None:
    plan = make_plan(suite, store)
    assert not plan.jobs
    assert generate(plan, store).made == 0
    again = score(suite, store)
    assert (again.scored, again.sets) == (0, 0)


def test_another_setting_of_a_knob_makes_new_pictures(store: Store, suite: Suite) -> None:
    other = load_suite(suite.file, {"limit": 2, "set": ["multidiffusion.stride=8"]})
    assert {job.use.label for job in make_plan(other, store).jobs} == {"multidiffusion[stride=8]"}
