"""What a sampler does to the process or to its backbone reaches no other picture, and is said."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.analysis.board import sections
from bench.catalogue.conformance import check, passed
from bench.errors import UsageError
from bench.ids import digest
from bench.pipeline import maker
from bench.pipeline.generate import generate
from bench.pipeline.isolation import Traces, isolated
from bench.pipeline.plan import make_plan
from bench.registry import find
from bench.report.wording import notes
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from bench.types import Canvas, FrozenDict, Prompt, Recipe
from tests.pipeline.test_generate import faulty, of_kind
from tests.support.small import picture_ids, planned, small, write_suite


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# -- global generators

DRAWS = {
    "torch": "import torch; return torch.rand(3, 8, 16)",
    "numpy.random": "import numpy; return numpy.random.random((3, 8, 16))",
    "random": "import random, numpy; return numpy.full((3, 8, 16), random.random())",
    "seeded": "import torch; torch.manual_seed(prompt.id == 'reef'); return torch.rand(3, 8, 16)",
}


@pytest.mark.parametrize("which", sorted(DRAWS))
def test_a_picture_drawn_from_a_global_generator_is_refused_with_the_mend(
    which: str, tmp_path: Path, store: Store
) -> None:
    result = generate(make_plan(small(tmp_path, plugins=faulty(DRAWS[which]), limit=1), store), store)
    assert (result.made, result.failed) == (1, 1)
    name = "torch" if which == "seeded" else which
    assert f"global generator of {name}:" in result.failures[0].message
    assert "noise.normal(stream, shape)" in result.failures[0].message


def test_without_the_watch_one_recipe_gives_two_pictures(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def blind() -> Iterator[Traces]:
        yield Traces()

    monkeypatch.setattr(maker, "isolated", blind)
    again = Store(tmp_path / "again")
    for place in (store, again):
        generate(make_plan(small(tmp_path, plugins=faulty(DRAWS["torch"]), limit=1), place), place)
    first, second = picture_ids(store), picture_ids(again)
    assert first.keys() == second.keys()
    assert first != second


def test_drawing_that_puts_the_state_back_is_no_ones_business_but_the_samplers(tmp_path: Path, store: Store) -> None:
    body = "import torch\n    with torch.random.fork_rng():\n        torch.nn.Linear(2, 2)"
    assert generate(make_plan(small(tmp_path, plugins=faulty(body), limit=1), store), store).complete


def test_generators_and_settings_are_afterwards_as_they_were_even_after_an_error(tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), np.geterr(), os.getcwd(),  # noqa: NPY002
            torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark, torch.is_autocast_enabled("cpu"),
            len(torch.nn.modules.module._global_forward_hooks),
        )  # fmt: skip

    def disturb() -> None:
        torch.rand(1)
        random.random()
        np.random.seed(3)  # noqa: NPY002
        np.seterr(all="raise")
        os.chdir(tmp_path)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        torch.backends.cuda.matmul.fp32_precision = "tf32"  # the new way, after which the old one refuses to answer
        torch.backends.cudnn.benchmark = True
        torch.autocast("cpu", torch.bfloat16).__enter__()
        torch.nn.modules.module.register_module_forward_hook(lambda *_: None)

    before = state()
    with isolated() as traces:
        disturb()
    assert state() == before
    assert set(traces.drawn) == {"torch", "random", "numpy.random"}
    assert len(traces.changed) >= 11
    with suppress(KeyError), isolated():
        disturb()
        raise KeyError
    assert state() == before
    with isolated() as traces:
        torch.Generator().manual_seed(1)
    assert traces == Traces()


def test_changed_settings_are_flagged_and_put_back(tmp_path: Path, store: Store) -> None:
    body = "import torch; torch.set_grad_enabled(False)"
    generate(make_plan(small(tmp_path, plugins=faulty(body), limit=1), store), store)
    assert torch.is_grad_enabled()
    by_label = {r["label"]: r for r in of_kind(store, "image")}
    assert by_label["plugins.py@grain"]["flags"] == ["changed-settings"]
    assert by_label["plugins.py@grain"]["changed"] == ["torch grad mode"]
    assert by_label["latent"]["flags"] == []


# -- samplers that end the process


@pytest.mark.parametrize("code", ["0", "3", "'bye'"])
def test_a_sampler_that_exits_is_a_failure_and_the_run_goes_on(code: str, tmp_path: Path, store: Store) -> None:
    plan = make_plan(small(tmp_path, plugins=faulty(f"import sys; sys.exit({code})"), limit=1), store)
    result = generate(plan, store)
    assert (result.made, result.failed, result.failures[0].reason) == (1, 1, "crash")
    assert "SystemExit" in result.failures[0].message


def test_a_run_whose_plug_in_exits_while_it_is_imported_does_not_report_success(tmp_path: Path) -> None:
    file = tmp_path / "exits.py"
    file.write_text("import sys; sys.exit(0)")
    with pytest.raises(UsageError, match=r"exits\.py does not import: SystemExit\(0\)"):
        find("methods", f"{file}@late")
    assert not passed(check(f"{file}@late"))


def test_the_user_can_still_stop_a_run(tmp_path: Path, store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        generate(make_plan(small(tmp_path, plugins=faulty("raise KeyboardInterrupt")), store), store)


# -- what a sampler is given

MEDDLE = """
    for change in (lambda: prompt.attributes["plan"]["things"].append("boat"),
                   lambda: prompt.attributes["plan"].update(sun=2), lambda: prompt.attributes.clear()):
        try:
            change()
        except (AttributeError, TypeError):
            pass
        else:
            raise AssertionError("was changed")
    object.__setattr__(prompt, "text", "another")
    object.__setattr__(canvas, "width", 8)
    dict.__setitem__(prompt.attributes, "theme", "lava")
    value = noise.generator("canvas").random((3, 8, 16))
    return value"""


def test_nothing_that_a_sampler_is_given_can_be_changed_for_others(tmp_path: Path, store: Store) -> None:
    file = write_suite(tmp_path, plugins=faulty(MEDDLE.strip()))
    row = {"id": "a", "text": "a sea", "theme": "sea", "plan": {"things": ["sun"]}}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    plan = make_plan(load_suite(file, {}), store)
    before = [copy.deepcopy((job.recipe, job.prompt)) for job in plan.cells]
    result = generate(plan, store)
    assert result.complete, result.failures
    assert [(job.recipe, job.prompt) for job in plan.cells] == before


def test_prompts_are_frozen_at_every_depth_and_still_copy_pickle_compare_and_go_into_json() -> None:
    told = {"scene": {"counted": ["boat", 2]}, "tags": [{"k": [1]}]}
    prompt = Prompt("a", "a sea", attributes=told)
    told["scene"]["counted"] = None  # type: ignore[index]
    for change in (
        lambda a: a.update(x=1), lambda a: a.pop("tags"), lambda a: a.clear(), lambda a: a.setdefault("x", 1),
        lambda a: a.popitem(), lambda a: a.__setitem__("x", 1), lambda a: a.__delitem__("tags"),
        lambda a: a.__ior__({"x": 1}), lambda a: a["scene"].update(x=1), lambda a: a["tags"][0].clear(),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="frozen"):
            change(prompt.attributes)
    assert prompt.attributes == {"scene": {"counted": ("boat", 2)}, "tags": ({"k": (1,)},)}
    for same in (copy.copy(prompt), copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt)), replace(prompt)):
        assert same == prompt
        assert type(same.attributes["tags"][0]) is FrozenDict
    plain = {"scene": {"counted": ["boat", 2]}, "tags": [{"k": [1]}]}
    assert json.loads(json.dumps(asdict(prompt)))["attributes"] == plain
    assert digest(prompt.attributes) == digest(plain)
    recipe = Recipe("a", "a sea", "", Canvas(8, 8), 0, "m", "1", "s", {"k": [1]})
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    with pytest.raises(TypeError, match="frozen"):
        recipe.params["k"] = 2  # type: ignore[index]


def test_jobs_can_be_pickled(tmp_path: Path, store: Store) -> None:
    for job in planned(tmp_path, store).cells:
        copy_ = pickle.loads(pickle.dumps(job))
        assert (copy_.cell(), copy_.work(), copy_.prompt) == (job.cell(), job.work(), job.prompt)
        assert copy_.use.method is job.use.method  # looked up by its name, where it is used
        assert (dict(copy_.use.params), copy_.use.backbone) == (dict(job.use.params), job.use.backbone)


# -- backbones that are not left as they were

LATE = """
name = "late"
version = "1"
tier = "miniature"
backbone = "diffusers"
backbone_options = {{ model = {model} }}
parts = [{{ name = "wide", width = 32, height = 16, prompts = "prompts.jsonl" }}]
methods = [{{ ref = "plugins.py@late" }}, {{ ref = "direct", set = {{ steps = 2 }} }}]
metrics = [{{ ref = "sharpness" }}]
"""
ZEROES = '''
import numpy as np
from bench.registry import method

@method("late", family="latent")
def late(backbone, prompt, canvas, noise):
    """Zeroes every weight when its own picture is done."""
    for part in (backbone.unet, backbone.vae, backbone.text_encoder):
        for p in part.parameters():
            p.data.zero_()
    return np.full((3, canvas.height, canvas.width), 0.5)
'''


def late(folder: Path, model: Path, store: Store, **overrides: Any) -> dict[str, dict[str, Any]]:
    """Make the pictures of a sampler that zeroes weights, then of ``direct``; the records by label."""
    suite = small(folder, LATE.format(model=json.dumps(str(model))), ZEROES, limit=1, **overrides)
    generate(make_plan(suite, store), store)
    return {r["label"]: r for r in of_kind(store, "image")}


def test_a_sampler_that_zeroes_the_weights_changes_no_picture_of_others_and_is_named(
    tmp_path: Path, tiny_sd: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = late(tmp_path / "a", tiny_sd, Store(tmp_path / "alone"), methods=["direct"])["direct"]
    both = late(tmp_path / "b", tiny_sd, store)
    assert both["direct"]["recipe_id"] == alone["recipe_id"]
    assert both["direct"]["image_id"] == alone["image_id"]
    assert both["direct"]["flags"] == alone["flags"] == []
    assert both["plugins.py@late"]["flags"] == ["flat", "changed-backbone"]
    assert any(name.startswith("parts.unet.conv_in") for name in both["plugins.py@late"]["changed"]) or any(
        name.startswith("parts.text_encoder") for name in both["plugins.py@late"]["changed"]
    )
    assert both["plugins.py@late"]["changed"][-1].startswith("and ")
    monkeypatch.setattr(maker.Probe, "changes", lambda self: [])
    unseen = late(tmp_path / "c", tiny_sd, Store(tmp_path / "unseen"))
    assert unseen["direct"]["recipe_id"] == alone["recipe_id"]
    assert unseen["direct"]["image_id"] != alone["image_id"]


def test_a_sampler_that_fails_half_way_leaves_no_changed_backbone_behind(
    tmp_path: Path, tiny_sd: Path, store: Store
) -> None:
    alone = late(tmp_path / "a", tiny_sd, Store(tmp_path / "alone"), methods=["direct"])["direct"]
    fails = ZEROES.replace("return np.full((3, canvas.height, canvas.width), 0.5)", "raise RuntimeError('half way')")
    suite = small(tmp_path / "b", LATE.format(model=json.dumps(str(tiny_sd))), fails, limit=1)
    generate(make_plan(suite, store), store)
    assert [r["image_id"] for r in of_kind(store, "image")] == [alone["image_id"]]


def test_a_loader_that_gives_back_the_changed_backbone_is_refused(tmp_path: Path, tiny_sd: Path, store: Store) -> None:
    keeps = ZEROES + (
        "from bench.registry import find\nkept = []\n"
        "def keeper(model):\n    kept or kept.append(find('backbones', 'diffusers')(model=model))\n    return kept[0]\n"
        "keeper.describe = find('backbones', 'diffusers').describe\n"
    )
    text = LATE.format(model=json.dumps(str(tiny_sd))).replace('"diffusers"', '"plugins.py@keeper"')
    suite = small(tmp_path, text, keeps, limit=1)
    result = generate(make_plan(suite, store), store)
    assert (result.made, result.failed) == (1, 1)
    assert "does not come back as it was" in result.failures[0].message


def test_the_board_marks_methods_whose_samplers_left_something_changed(
    tmp_path: Path, tiny_sd: Path, store: Store
) -> None:
    from bench.pipeline.score import score

    suite = small(tmp_path, LATE.format(model=json.dumps(str(tiny_sd))), ZEROES, limit=1)
    generate(make_plan(suite, store), store)
    score(suite, store)
    build(store)
    found = sections(store, suite)
    marks = {row.line.method: row.marks for s in found for row in s.rows}
    assert marks == {"plugins.py@late": "¶", "direct": ""}
    assert any(line.startswith("¶ ") for line in notes(suite, found))
