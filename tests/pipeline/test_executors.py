"""Who does the work is provenance: the pictures are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.pipeline.executors import crew as crews
from bench.pipeline.executors.choose import chosen
from bench.pipeline.executors.crew import Crew, threads
from bench.pipeline.executors.patience import LEAST, TIMES, patience
from bench.pipeline.generate import generate
from bench.store import Store
from tests.support.small import PLUGINS, picture_ids, planned, write_suite


def test_two_workers_draw_the_pictures_of_this_process(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    generate(planned(tmp_path, here), here)
    result = generate(planned(tmp_path, there), there, crew=Crew("processes", workers=2))
    assert result.complete
    assert picture_ids(there) == picture_ids(here)
    (run, _) = [r for r in there.records() if r["kind"] == "run"]
    assert run["environment"]["executor"] == "processes"
    assert generate(planned(tmp_path, there), there, crew=Crew("processes")).made == 0


def test_a_plug_in_edited_between_plan_and_picture_is_not_drawn_under_the_old_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = planned(tmp_path, store, limit=1, methods=["plugins.py@grain"])
    write_suite(tmp_path, plugins=PLUGINS.replace("return scale *", "return 0.5 * scale *"))
    result = generate(plan, store, crew=Crew("processes"))
    assert (result.made, [f.reason for f in result.failures]) == (0, ["prerequisite"])
    assert "has changed since the plan was made" in result.failures[0].message
    assert generate(planned(tmp_path, store, limit=1, methods=["plugins.py@grain"]), store).made == 1


@pytest.mark.parametrize(
    ("crew", "refs", "executor"),
    [
        (Crew(), ["direct", None], "local"),
        (Crew(), ["direct", "mine.py@halves"], "processes"),
        (Crew(), ["my.py", "py@x"], "local"),
        (Crew("local"), ["mine.py@halves"], "local"),
        (Crew("processes"), ["direct"], "processes"),
        (Crew(workers=2), ["direct"], "processes"),
        (Crew(timeout=2), ["direct"], "processes"),
    ],
)
def test_plug_in_files_are_not_let_into_this_process(crew: Crew, refs: list[str | None], executor: str) -> None:
    assert chosen(crew, refs) == executor


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"workers": 0}, "--workers takes a number of processes from 1, got 0"),
        ({"timeout": -1.0}, "--timeout takes a number above 0, got -1"),
        ({"memory": float("nan")}, "--memory takes a number above 0, got nan"),
        ({"executor": "proceses"}, "did you mean 'processes'"),
        ({"executor": "local", "workers": 2}, "are for --executor processes"),
    ],
)
def test_a_crew_that_cannot_be_says_what_was_expected(numbers: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(Crew(**numbers), [])  # type: ignore[arg-type]


def test_cores_are_shared_out_unless_the_threads_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(crews.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [threads(n) for n in (1, 2, 4, 9)] == [6, 3, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(1) == 2


def test_devices_take_turns_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert Crew().places("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert Crew(workers=4).places("cuda") == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert Crew(workers=2).places("cuda:1") == ["cuda:1"] * 2
    assert Crew().places("cpu") == ["cpu"]


def test_patience_comes_from_pictures_of_the_kind_else_from_the_canvas(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plan = planned(tmp_path, store)
    slow, fast = plan.jobs[0], next(j for j in plan.jobs if j.sampler != plan.jobs[0].sampler)
    wide = replace(slow, recipe=replace(slow.recipe, canvas=replace(slow.recipe.canvas, width=2**20)))
    cost = {"nfe": 1, "seconds": {"denoise": 50.0, "decode": 50.0}, "peak_bytes": None}
    images = [{**slow.work(), **slow.cell(), "cost": c} for c in (cost, {**cost, "seconds": {"denoise": 1.0}}, None)]
    images = [{**r, "recipe": {**r["recipe"], "canvas": {"width": 16, "height": 8, "loop": False}}} for r in images]
    limit = patience(None, images)
    assert limit(slow) == TIMES * 100
    assert LEAST < limit(fast) < LEAST + 10
    assert limit(wide) > 8 * 3600
    assert patience(7.0, images)(slow) == 7.0
