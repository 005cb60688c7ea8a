"""A plan is wanted - done - quarantined, whatever was done before, wherever, in whatever order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.generate import generate
from bench.pipeline.plan import ATTEMPTS, Plan, make_plan
from bench.store import Store
from tests.support.small import PLUGINS, SUITE, planned, small


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def cells(jobs: Any) -> list[tuple[str, str]]:
    return [(j.use.label, j.prompt.id) for j in jobs]


def fail(store: Store, plan: Plan, times: int, reason: str = "crash") -> str:
    """Let the first job of a plan have failed this often."""
    job = plan.jobs[0]
    for _ in range(times):
        store.append({"kind": "failure", "recipe_id": job.recipe_id, "recipe": {}, "reason": reason})
    return job.recipe_id


def test_every_method_prompt_and_seed_is_wanted_once(tmp_path: Path, store: Store) -> None:
    plan = planned(tmp_path, store, seeds=[0, 1])
    assert len(plan.cells) == len(plan.wanted) == len(plan.jobs) == 2 * 3 * 2
    assert len({j.recipe_id for j in plan.wanted}) == 12
    assert plan.done == plan.quarantined == ()


def test_planning_changes_nothing(tmp_path: Path, store: Store) -> None:
    planned(tmp_path, store)
    assert not store.root.exists()


def test_a_recipe_says_all_that_decides_the_pixels(tmp_path: Path, store: Store) -> None:
    recipe = planned(tmp_path, store, methods=["latent"]).jobs[0].recipe
    assert (recipe.prompt_id, recipe.prompt, recipe.seed) == ("harbour", "a photo of a harbour", 0)
    assert str(recipe.canvas) == "16x8"
    assert (recipe.method, recipe.method_version, recipe.params) == ("latent-grain", "1", {"steps": 3})
    assert (recipe.backbone, recipe.weights, recipe.precision) == ("fake", "weights-1", "fp32")
    control = planned(tmp_path, store).jobs[0].recipe
    assert (control.method, control.backbone, control.weights) == ("grain", None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"suite": SUITE.replace("width = 16", "width = 24")},
        {"set": ["latent.steps=4"]},
        {"seeds": [1]},
        {"plugins": PLUGINS.replace('"weights-1"', '"weights-2"')},
        {"plugins": PLUGINS.replace("backbone.meter.nfe += steps", "backbone.meter.nfe += 2 * steps")},
        {"suite": SUITE.replace('title = "Small"', 'backbone_options = {precision = "fp16"}')},
    ],
)
def test_a_change_of_canvas_knob_seed_weights_source_or_precision_is_new_work(
    tmp_path: Path, store: Store, change: dict[str, Any]
) -> None:
    before = make_plan(small(tmp_path / "a", methods=["latent"]), store)
    after = make_plan(small(tmp_path / "b", **{"methods": ["latent"], **change}), store)
    assert not {j.recipe_id for j in before.wanted} & {j.recipe_id for j in after.wanted}


def test_the_device_is_not_part_of_the_work(tmp_path: Path, store: Store) -> None:
    there = SUITE.replace('title = "Small"', 'backbone_options = {device = "cuda"}')
    before, after = (make_plan(small(tmp_path, s), store) for s in (SUITE, there))
    assert [j.recipe_id for j in before.wanted] == [j.recipe_id for j in after.wanted]


def test_what_is_there_is_done(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store, limit=1), store)
    plan = planned(tmp_path, store)
    assert cells(plan.done) == [("plugins.py@grain", "harbour"), ("latent", "harbour")]
    assert len(plan.jobs) == 4


def test_a_picture_whose_file_is_gone_is_wanted_again_and_no_other(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store), store)
    lost = planned(tmp_path, store).done[2]
    store.image_path(store.ledger().images[lost.recipe_id]["image_id"]).unlink()
    assert [j.recipe_id for j in planned(tmp_path, store).jobs] == [lost.recipe_id]


def test_methods_of_one_backbone_stand_together(tmp_path: Path, store: Store) -> None:
    mixed = SUITE + '[[methods]]\nref = "plugins.py@grain"\nlabel = "half"\nset = {scale = 0.5}\n'
    plan = make_plan(small(tmp_path, mixed), store)
    assert [j.recipe.backbone for j in plan.wanted] == [None] * 6 + ["fake"] * 3


def test_a_picture_of_every_sampler_that_has_none_comes_first(tmp_path: Path, store: Store) -> None:
    mixed = SUITE + '[[methods]]\nref = "plugins.py@grain"\nlabel = "half"\nset = {scale = 0.5}\n'
    labels = [j.use.label for j in make_plan(small(tmp_path, mixed), store).jobs]
    assert labels == ["plugins.py@grain", "half", "latent", *["plugins.py@grain"] * 2, *["half"] * 2, *["latent"] * 2]
    generate(make_plan(small(tmp_path, mixed, limit=1, methods=["latent"]), store), store)
    labels = [j.use.label for j in make_plan(small(tmp_path, mixed), store).jobs]
    assert labels == ["plugins.py@grain", "half", *["plugins.py@grain"] * 2, *["half"] * 2, *["latent"] * 2]


def test_cells_with_the_same_recipe_share_one_job(tmp_path: Path, store: Store) -> None:
    twice = SUITE + '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "again"\n'
    plan = make_plan(small(tmp_path, twice), store)
    assert (len(plan.cells), len(plan.wanted)) == (9, 6)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shards_part_the_work_without_overlap(tmp_path: Path, store: Store, n: int) -> None:
    whole = {j.recipe_id for j in planned(tmp_path, store).wanted}
    shards = [{j.recipe_id for j in planned(tmp_path, store, (i, n)).wanted} for i in range(1, n + 1)]
    assert set().union(*shards) == whole
    assert sum(map(len, shards)) == len(whole)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_a_shard_out_of_range_is_refused(tmp_path: Path, store: Store, shard: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="I from 1 to N"):
        planned(tmp_path, store, shard)


def test_a_limited_run_is_a_part_of_the_whole_one(tmp_path: Path, store: Store) -> None:
    few, whole = ({j.recipe_id for j in planned(tmp_path, store, **o).wanted} for o in ({"limit": 2}, {}))
    assert few < whole


def test_what_failed_three_times_is_quarantined_and_nothing_else(tmp_path: Path, store: Store) -> None:
    bad = fail(store, planned(tmp_path, store), ATTEMPTS - 1)
    assert planned(tmp_path, store).quarantined == ()
    assert fail(store, planned(tmp_path, store), 1) == bad
    plan = planned(tmp_path, store)
    assert [j.recipe_id for j in plan.quarantined] == [bad]
    assert len(plan.jobs) == 5
    assert len(make_plan(plan.suite, store, retry=True).jobs) == 6


def test_a_missing_prerequisite_never_leads_to_quarantine(tmp_path: Path, store: Store) -> None:
    fail(store, planned(tmp_path, store), 2 * ATTEMPTS, "prerequisite")
    assert planned(tmp_path, store).quarantined == ()


def test_a_mended_method_leaves_quarantine(tmp_path: Path, store: Store) -> None:
    fail(store, planned(tmp_path / "a", store), ATTEMPTS)
    mended = make_plan(small(tmp_path / "b", plugins=PLUGINS.replace("return scale *", "return 1.0 * scale *")), store)
    assert (len(mended.jobs), mended.quarantined) == (6, ())


def test_a_method_of_another_family_than_the_backbone_is_refused_before_loading(tmp_path: Path, store: Store) -> None:
    plugins = PLUGINS.replace('"fake", "latent"', '"fake", "video"')
    with pytest.raises(UsageError, match=r"'latent' samples in family 'latent', backbone '.*' is of family 'video'"):
        make_plan(small(tmp_path, plugins=plugins), store)


def test_a_method_that_needs_a_backbone_is_refused_where_the_suite_has_none(tmp_path: Path, store: Store) -> None:
    bare = SUITE.replace('backbone = "plugins.py@fake"', "")
    with pytest.raises(UsageError, match=r"'latent' \(family latent\) needs a backbone.*add backbone = NAME to .*toml"):
        make_plan(small(tmp_path, bare), store)
    assert len(make_plan(small(tmp_path, bare, methods=["plugins.py@grain"]), store).jobs) == 3


# -- several backbones

TWO = (
    PLUGINS
    + """
class Weightless:
    name, family, weights_digest = "other", "latent", "weights-2"

def other(device="cpu", precision="fp32", batch=1):
    loads.append("other")
    made = Backbone()
    made.weights = Weightless.weights_digest
    return made

def told(**options):
    from bench.errors import PrerequisiteError
    raise PrerequisiteError("fetch them with: hf download someone/other")

other.describe = lambda **options: Weightless
"""
)
MIXED = SUITE + '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "own"\nbackbone = "plugins.py@other"\n'
MISSING = TWO + "other.describe = told\n"


def test_a_recipe_names_the_backbone_of_its_method(tmp_path: Path, store: Store) -> None:
    plan = make_plan(small(tmp_path, MIXED, TWO), store)
    said = {j.use.label: (j.recipe.backbone, j.recipe.weights) for j in plan.wanted}
    assert said == {
        "plugins.py@grain": (None, None), "latent": ("fake", "weights-1"), "own": ("other", "weights-2"),
    }  # fmt: skip
    assert [j.recipe.backbone for j in plan.wanted] == [None] * 3 + ["fake"] * 3 + ["other"] * 3
    assert len({j.recipe_id for j in plan.wanted}) == 9


def test_naming_the_suites_own_backbone_again_is_the_same_work(tmp_path: Path, store: Store) -> None:
    named = SUITE.replace('label = "latent"', 'label = "latent"\nbackbone = "plugins.py@fake"')
    other = SUITE.replace('label = "latent"', 'label = "latent"\nbackbone = "plugins.py@other"')
    suites = (small(tmp_path, toml, TWO) for toml in (SUITE, named, other))
    plain, same, not_same = ({j.recipe_id for j in make_plan(suite, store).wanted} for suite in suites)
    assert plain == same
    assert plain != not_same


def test_missing_weights_block_their_own_methods_only_and_are_told_with_the_command(
    tmp_path: Path, store: Store
) -> None:
    plan = make_plan(small(tmp_path, MIXED, MISSING, seeds=[0, 1]), store)
    assert {j.use.label for j in plan.cells} == {"plugins.py@grain", "latent"}
    [blocked] = plan.blocked
    assert (blocked.part, blocked.label, blocked.pictures) == ("2to1", "own", 6)
    assert blocked.backbone.endswith("plugins.py@other")
    assert "hf download someone/other" in blocked.reason
    assert make_plan(small(tmp_path, MIXED, TWO), store).blocked == ()


def test_a_run_does_what_it_can_and_is_not_complete(tmp_path: Path, store: Store) -> None:
    plan = make_plan(small(tmp_path, MIXED, MISSING), store)
    result = generate(plan, store)
    assert (result.made, result.failed, result.complete) == (6, 0, False)
    assert result.blocked == plan.blocked
    again = generate(make_plan(small(tmp_path, MIXED, MISSING), store), store)
    assert (again.made, again.done, again.complete) == (0, 6, False)
    whole = generate(make_plan(small(tmp_path / "b", MIXED, TWO), store), store)
    assert (whole.blocked, whole.complete) == ((), True)


def test_a_run_that_can_do_nothing_says_what_to_fetch(tmp_path: Path, store: Store) -> None:
    plan = make_plan(small(tmp_path, MIXED, MISSING, methods=["own"]), store)
    with pytest.raises(PrerequisiteError, match="hf download someone/other"):
        generate(plan, store)
    assert not store.root.exists()


def test_backbones_are_loaded_once_each_one_after_the_other(tmp_path: Path, store: Store) -> None:
    between = '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "slow"\nset = {steps = 9}\n'
    suite = small(tmp_path, MIXED + between, TWO)  # of the suite's backbone, after one of another
    loads = suite.methods[1].method.fn.__globals__["loads"]
    result = generate(make_plan(suite, store), store)
    assert (result.made, loads) == (12, ["cpu", "other", "cpu"])  # a first picture of each, then the others
    assert make_plan(suite, Store(tmp_path / "new")).jobs[-1].use.label == "slow"
