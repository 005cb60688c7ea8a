"""On a GPU: what a lost device, full memory and a failed load leave behind, and where networks run."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import device
from bench.errors import DeviceLostError, PrerequisiteError, UsageError
from bench.pipeline.generate import generate
from bench.pipeline.maker import Maker, classify
from bench.pipeline.plan import make_plan
from bench.store import Store
from tests.support.small import PLUGINS, SUITE, small

LOST = "raise RuntimeError('CUDA error: an illegal memory access was encountered')"
FULL = "raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`')"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that says it has two CUDA devices; what is appended to the list, ``synchronize`` raises."""
    broken: list[str] = []

    def synchronize(place: Any = None) -> None:
        if broken:
            raise RuntimeError(broken[0])

    for name, fake in (
        ("is_available", lambda: True), ("device_count", lambda: 2), ("synchronize", synchronize),
        ("get_device_name", lambda place: "pretended"), ("max_memory_reserved", lambda place: 12345),
        ("empty_cache", lambda: None),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    return broken


def drawing(body: str, when: str = "True") -> str:
    """The plug-ins with a latent method that first does something, for some prompts."""
    line = "    backbone.meter.nfe += steps\n"
    return PLUGINS.replace(line, f"    if {when}:\n        {body}\n{line}")


def failures(store: Store) -> list[dict[str, Any]]:
    return [r for r in store.records() if r["kind"] == "failure"]


def test_a_lost_device_ends_the_run_with_one_message_and_counts_no_attempt(
    tmp_path: Path, store: Store, cuda: list[str]
) -> None:
    cuda.append("CUDA error: an illegal memory access was encountered")
    plugins = drawing(LOST, "prompt.id == 'reef'")
    with pytest.raises(DeviceLostError, match=r"latent, prompt reef: the GPU no longer answers.*no attempt is counted"):
        generate(make_plan(small(tmp_path, plugins=plugins), store), store)
    kept = make_plan(small(tmp_path, plugins=plugins), store)
    assert (len(kept.done), failures(store)) == (4, [])  # three of the control, one before the loss
    cuda.clear()  # the same error while the device still answers is the picture's own: other work goes on
    result = generate(kept, store)
    assert (result.made, [f.reason for f in result.failures]) == (1, ["crash"])


def test_what_does_not_fit_is_tried_once_and_again_in_the_next_run(tmp_path: Path, store: Store) -> None:
    suite = small(tmp_path, plugins=drawing(FULL))
    for run in (1, 2):
        result = generate(make_plan(suite, store), store)
        assert [f.reason for f in result.failures] == ["oom"] * 3
        assert sum("not tried" in f.message for f in result.failures) == 2
        assert len(failures(store)) == run  # one attempt a run, of three pictures
    assert not result.complete


def test_memory_that_runs_out_after_a_picture_was_made_stops_no_other(tmp_path: Path, store: Store) -> None:
    result = generate(make_plan(small(tmp_path, plugins=drawing(FULL, "prompt.id == 'reef'")), store), store)
    assert (result.made, len(result.failures)) == (5, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "oom"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "oom"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", "crash"),
    ],
)
def test_a_library_that_finds_no_room_is_out_of_memory(text: str, reason: str) -> None:
    assert classify(RuntimeError(text)) == reason


def test_a_backbone_that_fails_to_load_keeps_no_tensor_alive(tmp_path: Path, store: Store) -> None:
    kept: list[weakref.ref[Any]] = []
    plugins = PLUGINS.replace(
        "def fake(", "import torch, weakref\nkept = []\n\ndef fake("
    ).replace(
        "    loads.append(device)\n",
        "    half = torch.zeros(8)\n    kept.append(weakref.ref(half))\n    raise RuntimeError('torn')\n",
    )  # fmt: skip
    plan = make_plan(small(tmp_path, plugins=plugins, methods=["latent"]), store)
    make = Maker(store, {"device": "cpu"})
    assert make(plan.jobs[:1])[0]["reason"] == "prerequisite"
    kept += plan.jobs[0].use.method.fn.__globals__["kept"]
    gc.collect()
    assert (len(kept), kept[0]()) == (1, None)
    assert "torn" in make(plan.jobs[1:2])[0]["message"]


def test_a_gpu_is_warmed_up_before_the_seconds_count_and_its_reserve_is_recorded(
    tmp_path: Path, store: Store, cuda: list[str]
) -> None:
    plugins = drawing("calls.append(steps)").replace("loads = []", "loads, calls = [], []")
    plugins = plugins.replace("        self.meter = Meter()", "        self.meter, self.device = Meter(), 'cuda'")
    suite = small(tmp_path, plugins=plugins, methods=["latent"])
    plan = make_plan(suite, store)
    generate(plan, store)
    space = plan.jobs[0].use.method.fn.__globals__
    assert space["calls"] == [2, 3, 3, 3]
    assert space["loads"] == ["cuda"]
    assert {r["cost"]["reserved_bytes"] for r in store.records() if r["kind"] == "image"} == {12345}
    (started,) = [r for r in store.records() if r.get("status") == "started"]
    assert started["environment"]["device"] == "cuda (pretended)"


def test_without_a_gpu_nothing_is_drawn_twice(tmp_path: Path, store: Store) -> None:
    plugins = drawing("calls.append(steps)").replace("loads = []", "loads, calls = [], []")
    plan = make_plan(small(tmp_path, plugins=plugins, methods=["latent"]), store)
    generate(plan, store, device="cpu")
    assert plan.jobs[0].use.method.fn.__globals__["calls"] == [3, 3, 3]


def test_auto_takes_the_gpu_and_a_device_that_is_not_there_is_refused(cuda: list[str]) -> None:
    assert [device.choose(asked) for asked in (None, "auto", "cpu", "cuda:1")] == ["cuda", "cuda", "cpu", "cuda:1"]
    with pytest.raises(PrerequisiteError, match="2 CUDA devices, cuda:0 to cuda:1"):
        device.choose("cuda:2")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        device.choose("gpu")


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_a_prerequisite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose() == "cpu"
    with pytest.raises(PrerequisiteError, match=r"no CUDA device.*--device auto"):
        device.choose("cuda")


def test_half_precision_on_a_cpu_is_refused_before_anything_is_done(tmp_path: Path, store: Store) -> None:
    half = SUITE.replace("[[parts]]", '[backbone_options]\nprecision = "fp16"\n[[parts]]', 1)
    plan = make_plan(small(tmp_path, half), store)
    with pytest.raises(UsageError, match=r"on device cpu: fp16 needs a GPU: --precision bf16"):
        generate(plan, store, device="cpu")
    assert store.records() == []
    mended = small(tmp_path, half, precision="bf16")
    assert generate(make_plan(mended, store), store, device="cpu").complete
    assert mended.digest != plan.suite.digest


def test_a_suite_may_name_its_device_and_the_command_overrules_it(tmp_path: Path, store: Store) -> None:
    suite = replace(small(tmp_path, methods=["latent"]), backbone_options={"device": "meta"})
    generate(make_plan(suite, store), store)
    (run, _) = [r for r in store.records() if r["kind"] == "run"]
    assert run["environment"]["device"] == "meta"
    generate(make_plan(replace(suite, seeds=(1,)), store), store, device="cpu")
    assert [r["environment"]["device"] for r in store.records() if r.get("status") == "started"] == ["meta", "cpu"]
