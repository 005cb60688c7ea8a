"""Runs make what is wanted, say what failed and why, and go on."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import progress
from bench.errors import PrerequisiteError, StoreError, UsageError
from bench.ids import image_id
from bench.noise import Noise
from bench.pipeline.executors import EXECUTORS, Crew, patience
from bench.pipeline.generate import generate
from bench.pipeline.maker import to_rgb
from bench.pipeline.plan import ATTEMPTS, make_plan
from bench.store import Store
from bench.suites.load import load_suite
from bench.types import Canvas
from tests.support.small import PLUGINS, SUITE, picture_ids, planned, small


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def of_kind(store: Store, kind: str) -> list[dict[str, Any]]:
    return [r for r in store.records() if r["kind"] == kind]


def faulty(body: str, name: str = "grain") -> str:
    """The plug-ins with another first line in a method."""
    head, line, rest = PLUGINS.partition(f"def {name.replace('-', '_')}(")
    signature, doc, tail = rest.partition('"""')
    text, end, code = tail.partition('"""\n')
    return head + line + signature + doc + text + end + f"    {body}\n" + code


def test_a_run_makes_every_picture_from_the_noise_of_its_seed_and_prompt(tmp_path: Path, store: Store) -> None:
    result = generate(planned(tmp_path, store, seeds=[5]), store)
    assert (result.made, result.done, result.failed, result.complete) == (6, 0, 0, True)
    record = next(r for r in of_kind(store, "image") if (r["label"], r["prompt_id"]) == ("plugins.py@grain", "reef"))
    expected, _ = to_rgb(Noise(5, "reef").generator("canvas").random((3, 8, 16)), Canvas(16, 8))
    assert record["image_id"] == image_id(expected)
    assert (store.read_image(record["image_id"]) == expected).all()


def test_the_record_of_a_picture_says_where_it_belongs_and_what_it_took(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store, limit=1), store, argv=["scrollbench", "run"])
    drawn, sampled = of_kind(store, "image")
    [started, finished] = of_kind(store, "run")
    assert sampled["cost"] == {"nfe": 3, "seconds": {"denoise": 0.25}, "peak_bytes": 4096}
    assert drawn["cost"]["nfe"] == 0
    assert list(drawn["cost"]["seconds"]) == ["render"]
    assert sampled == {
        **sampled, "suite": "small@1", "part": "2to1", "label": "latent", "prompt_id": "harbour",
        "width": 16, "height": 8, "flags": [], "preset": None, "control": False, "tier": "miniature", "optimises": [],
    }  # fmt: skip
    assert sampled["prompt_set"].startswith("prompts@")
    assert drawn["control"] is True
    assert drawn["run_id"] == sampled["run_id"] == started["run_id"] == finished["run_id"]
    assert (started["status"], finished["status"], started["argv"]) == ("started", "finished", ["scrollbench", "run"])
    assert {"scrollbench", "python", "torch", "diffusers", "platform", "cpu", "threads", "device", "git"} <= started[
        "environment"
    ].keys()


def test_running_again_makes_and_records_nothing(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store), store)
    before = store.records()
    result = generate(planned(tmp_path, store), store)
    assert (result.run_id, result.made, result.done) == (None, 0, 6)
    assert store.records() == before


def test_membership_is_recorded_once_and_again_when_a_cell_changes_hands(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store), store)
    assert len(of_kind(store, "member")) == 6
    edited = PLUGINS.replace("meter.nfe += steps", "meter.nfe += 1 * steps")
    for plugins, expected in ((edited, 9), (PLUGINS, 12), (PLUGINS, 12)):  # edited, edited back, and once more
        generate(make_plan(small(tmp_path, plugins=plugins, methods=["latent"]), store), store)
        assert len(of_kind(store, "member")) == expected
    current = {m["recipe_id"] for m in store.ledger().members.values()}
    assert current == {j.recipe_id for j in planned(tmp_path, store).wanted}


def test_two_labels_of_one_recipe_share_a_picture_and_are_both_members(tmp_path: Path, store: Store) -> None:
    twice = SUITE + '[[methods]]\nref = "plugins.py@latent-grain"\nlabel = "again"\n'
    result = generate(make_plan(small(tmp_path, twice), store), store)
    assert result.made == 6
    assert {m["label"] for m in store.ledger().members.values()} == {"plugins.py@grain", "latent", "again"}


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        ("raise RuntimeError('odd')", "crash", r"RuntimeError: odd \(.*plugins\.py:\d+ in grain\)"),
        ("raise MemoryError()", "oom", "MemoryError"),
        ("raise RuntimeError('CUDA out of memory. Tried')", "oom", "CUDA out of memory"),
        ("raise FloatingPointError('overflow')", "nan", "overflow"),
        ("import no_such_package", "prerequisite", "no_such_package"),
        ("return noise.generator('x').random((3, 8, 8))", "crash", r"shape \(3, 8, 16\) .* got shape \(3, 8, 8\)"),
        ("return noise.generator('x').random((3, 8, 16)) * 2 - 1", "crash", r"values in \[0, 1\], got -"),
    ],
)  # fmt: skip
def test_a_failure_is_classified_and_told_and_other_work_goes_on(
    tmp_path: Path, store: Store, body: str, reason: str, message: str
) -> None:
    result = generate(make_plan(small(tmp_path, plugins=faulty(body)), store), store)
    assert (result.made, result.failed, result.complete) == (3, 3, False)
    assert {(f.label, f.reason) for f in result.failures} == {("plugins.py@grain", reason)}
    assert all(re.search(message, f.message) for f in result.failures)
    assert {f["reason"] for f in of_kind(store, "failure")} == {reason}


def test_a_failing_job_is_tried_three_times_after_all_others_and_then_left_alone(tmp_path: Path, store: Store) -> None:
    suite = small(tmp_path, plugins=faulty("if prompt.id == 'reef': raise RuntimeError('odd')"))
    result = generate(make_plan(suite, store), store)
    assert (result.made, result.failed) == (5, 1)
    assert [f["attempt"] for f in of_kind(store, "failure")] == [1, 2, 3]
    kinds = [r["kind"] for r in store.records() if r["kind"] in ("image", "failure")]
    assert kinds.index("failure") < kinds.index("image", 2)
    assert kinds[-2:] == ["failure", "failure"]
    again = generate(make_plan(suite, store), store)
    assert (again.made, again.failed, again.quarantined, again.complete) == (0, 0, 1, False)
    assert len(of_kind(store, "failure")) == ATTEMPTS


def test_a_job_that_recovers_is_no_failure(tmp_path: Path, store: Store) -> None:
    flag = str(tmp_path / "tried")
    body = f"import pathlib; p = pathlib.Path({flag!r}); first = not p.exists(); p.touch(); 1 / (not first)"
    result = generate(make_plan(small(tmp_path, plugins=faulty(body)), store), store)
    assert (result.made, result.failed, result.complete) == (6, 0, True)
    assert len(of_kind(store, "failure")) == 1


def test_a_missing_prerequisite_is_not_retried_and_never_quarantined(tmp_path: Path, store: Store) -> None:
    suite = small(tmp_path, plugins=faulty("import no_such_package"))
    for runs in range(1, ATTEMPTS + 2):
        assert generate(make_plan(suite, store), store).failed == 3
        assert len(of_kind(store, "failure")) == 3 * runs


def test_a_backbone_that_does_not_load_fails_its_methods_only_and_is_tried_once(tmp_path: Path, store: Store) -> None:
    broken = PLUGINS.replace("loads.append(device)", "loads.append(device); raise OSError('no such file')")
    suite = small(tmp_path, plugins=broken)
    result = generate(make_plan(suite, store), store)
    assert (result.made, result.failed) == (3, 3)
    assert {f.reason for f in result.failures} == {"prerequisite"}
    assert all("backbone" in f.message and "no such file" in f.message for f in result.failures)
    assert len(suite.methods[1].method.fn.__globals__["loads"]) == 1


def test_the_backbone_is_loaded_once_with_the_suites_options_and_only_if_needed(tmp_path: Path, store: Store) -> None:
    suite = small(tmp_path, SUITE.replace('title = "Small"', 'backbone_options = {device = "meta"}'))
    loads = suite.methods[1].method.fn.__globals__["loads"]
    generate(make_plan(suite, store), store)
    assert loads == ["meta"]
    generate(make_plan(suite, store), store)
    assert loads == ["meta"]
    again = Store(tmp_path / "again")
    with pytest.raises(PrerequisiteError, match="torch sees"):  # before anything is recorded
        generate(make_plan(suite, again), again, device="cuda:99")
    assert again.records() == []
    generate(make_plan(suite, again), again, device="cpu")
    assert loads == ["meta", "cpu"]
    assert picture_ids(again) == picture_ids(store)
    assert of_kind(again, "run")[0]["environment"]["device"] == "cpu"


def test_flags_of_the_backbone_and_degenerate_pictures_are_kept_with_the_picture(tmp_path: Path, store: Store) -> None:
    plugins = faulty("return 0 * noise.generator('x').random((3, 8, 16))").replace("0, []", "0, ['prompt-truncated']")
    generate(make_plan(small(tmp_path, plugins=plugins, limit=1), store), store)
    assert [r["flags"] for r in of_kind(store, "image")] == [["black"], ["prompt-truncated"]]


def test_a_store_that_cannot_be_written_ends_the_run_with_an_error(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, rgb: np.ndarray) -> str:
        raise StoreError("no space left")

    plan = planned(tmp_path, store)
    monkeypatch.setattr(Store, "write_image", full)
    with pytest.raises(StoreError, match="no space left"):
        generate(plan, store)
    assert of_kind(store, "failure") == []
    assert [r["status"] for r in store.ledger().runs.values()] == ["started"]


def test_a_repaired_store_gets_back_just_the_picture_it_lost(tmp_path: Path, store: Store) -> None:
    generate(planned(tmp_path, store), store)
    before = picture_ids(store)
    victim = store.image_path(sorted(before.values())[0])
    victim.write_bytes(victim.read_bytes()[:30])
    assert generate(planned(tmp_path, store), store).made == 0
    store.verify(repair=True)
    lost = sum(image_id == victim.stem for image_id in before.values())  # two methods may have drawn the same pixels
    assert generate(planned(tmp_path, store), store).made == lost
    assert picture_ids(store) == before


@pytest.mark.parametrize(("kind", "tries"), [("RuntimeError", 3), ("ValueError", 1), ("UsageError", 1)])
def test_what_would_fail_again_is_not_tried_again_in_the_same_run(
    tmp_path: Path, store: Store, kind: str, tries: int
) -> None:
    body = f"from bench.errors import UsageError\n    if prompt.id == 'reef': raise {kind}('odd')"
    assert generate(make_plan(small(tmp_path, plugins=faulty(body)), store), store).failed == 1
    assert len(of_kind(store, "failure")) == tries


PROMPTS = "".join(f'{{"id": "p{i}", "text": "a photo of {i}", "theme": "sea"}}\n' for i in range(8))


@pytest.mark.parametrize(("said", "tried"), [("'odd'", 3), ("prompt.id", 8)])
def test_a_sampler_whose_first_pictures_fail_alike_is_left(tmp_path: Path, store: Store, said: str, tried: int) -> None:
    small(tmp_path, plugins=faulty(f"raise RuntimeError({said})"))
    (tmp_path / "prompts.jsonl").write_text(PROMPTS)
    result = generate(make_plan(load_suite(tmp_path / "small.toml"), store), store)
    assert (result.made, result.failed) == (8, 8)
    failed = {f["recipe_id"] for f in of_kind(store, "failure")}
    assert len(failed) == tried
    assert sum(f.message.startswith("not tried: prompt") for f in result.failures) == 8 - tried


def test_the_outlook_weighs_each_sampler_by_the_seconds_of_its_pictures(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 20.0, 20.0])
    monkeypatch.setattr(patience.time, "monotonic", lambda: next(now))
    jobs = planned(tmp_path, store).jobs  # three of grain, three of latent
    outlook = patience.Outlook(jobs, [])
    assert outlook.left is None
    grain, latent = (next(j for j in jobs if j.use.label == label) for label in ("plugins.py@grain", "latent"))
    outlook.note(grain, image(grain, 1.0))
    outlook.note(latent, image(latent, 9.0))
    assert outlook.left == 2 * (2 * 1.0 + 2 * 9.0)  # twice the pictures' own seconds have gone by
    outlook.note(latent, {"kind": "failure"})
    assert outlook.left == 2 * (2 * 1.0 + 1 * 9.0)


def image(job: Any, seconds: float) -> dict[str, Any]:
    recipe = {"canvas": {"width": job.recipe.canvas.width, "height": job.recipe.canvas.height}}
    return {"kind": "image", "recipe": recipe, "sampler": job.sampler, "cost": {"seconds": {"denoise": seconds}}}


# -- to_rgb

CANVAS = Canvas(4, 2)


def test_pixels_are_rounded_to_the_nearest_of_256_levels() -> None:
    x = np.zeros((3, 2, 4))
    x[0, 0] = [0.0, 0.5 / 255 + 1e-9, 1.49 / 255, 1.0]
    rgb, flags = to_rgb(x, CANVAS)
    assert rgb[0, :, 0].tolist() == [0, 1, 1, 255]
    assert (rgb.dtype, rgb.shape, flags) == (np.uint8, (2, 4, 3), [])


def test_levels_survive_the_way_there_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    picture = levels.transpose(2, 0, 1).astype(np.float32) / 255
    assert (to_rgb(picture, Canvas(16, 16))[0] == levels).all()


def test_tensors_and_arrays_give_the_same_pixels() -> None:
    torch = importlib.import_module("torch")
    x = np.random.default_rng(0).random((3, 2, 4)).astype(np.float32)
    for tensor in (torch.from_numpy(x), torch.from_numpy(x).requires_grad_()):
        assert (to_rgb(tensor, CANVAS)[0] == to_rgb(x, CANVAS)[0]).all()
    assert to_rgb(torch.ones(3, 2, 4, dtype=torch.bfloat16), CANVAS)[0].min() == 255


def test_values_that_are_no_numbers_become_black_and_flagged() -> None:
    x = np.ones((3, 2, 4))
    x[:, 0, 0] = np.nan
    x[:, 0, 1] = np.inf
    rgb, flags = to_rgb(x, CANVAS)
    assert flags == ["nan"]
    assert rgb[0, :, 0].tolist() == [0, 0, 255, 255]
    assert to_rgb(np.full((3, 2, 4), np.nan), CANVAS)[1] == ["nan", "black"]


# -- executors and progress


def test_another_executor_is_a_function_in_a_table(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(jobs: Any, do: Any, crew: Any, limit: Any) -> Iterator[Any]:
        for job in reversed(list(jobs)):
            yield job, do([job])[0]

    monkeypatch.setitem(EXECUTORS, "backwards", backwards)
    generate(planned(tmp_path, store), store, crew=Crew("backwards"))
    forward = Store(tmp_path / "forward")
    generate(planned(tmp_path, forward), forward)
    assert picture_ids(store) == picture_ids(forward)
    with pytest.raises(UsageError, match="unknown executor 'loca'; did you mean 'local'"):
        generate(planned(tmp_path, store), store, crew=Crew("loca"))


def test_progress_is_told_of_every_job_once(tmp_path: Path, store: Store) -> None:
    told: list[Any] = []

    class Listener(progress.Silent):
        def start(self, stage: str, total: int) -> None:
            told.append((stage, total))

        def advance(self, stage: str, n: int = 1, note: str = "", left: float | None = None) -> None:
            told.append((stage, n))

        def finish(self, stage: str) -> None:
            told.append(stage)

    suite = small(tmp_path, plugins=faulty("if prompt.id == 'reef': raise RuntimeError('odd')"))
    generate(make_plan(suite, store), store, Listener())
    assert told == [("generate", 6), *[("generate", 1)] * 6, "generate"]
