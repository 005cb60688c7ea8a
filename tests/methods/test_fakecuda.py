"""Methods on a GPU that is not there: nothing mixes devices, and no step waits for numbers to come to the host."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.flux import flux_dev
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained
from methods.shared import windows
from tests.support import tiny_pipelines
from tests.support.fakecuda import pretended

PLACE = "cuda:1"
PROMPT = Prompt("boat", "a boat under one moon", "")
LATENT: dict[str, dict[str, Any]] = {
    "direct": {}, "multidiffusion": {"stride": 2}, "mad": {"stride": 2}, "spotdiffusion": {},
    "twindiffusion": {"stride": 2}, "tileddiffusion": {}, "bld": {}, "gvcf": {"stride": 2},
    "elasticdiffusion": {"resamplings": 2}, "streammultidiffusion": {"t_index_list": "0,12"},
}  # fmt: skip


def method(name: str) -> Any:
    return getattr(import_module(f"methods.{name}"), name)


def drawn(mode: Any, backbone: Any, name: str, knobs: dict[str, Any], shape: tuple[int, int]) -> Counter[Any]:
    """What the host did in the stage ``denoise`` of a picture of ``shape`` windows."""
    mode.stage = lambda: (backbone.meter._stack or [""])[-1]
    mode.counts.clear()
    use = method(name)
    canvas = Canvas(*(n * backbone.window * backbone.factor for n in shape))
    few = {"steps": 2} if "steps" in use.params else {}
    picture = use.fn(backbone, PROMPT, canvas, Noise(0, "boat"), **few, **knobs)
    assert (str(picture.device), tuple(picture.shape)) == (PLACE, (3, canvas.height, canvas.width))
    return Counter({what: n for (at, what), n in mode.counts.items() if at == "denoise"})


@pytest.fixture(scope="module")
def latent(tiny_sd: Path) -> dict[str, Any]:
    """What the host did for every latent method, or what went wrong; one network for all."""
    found: dict[str, Any] = {}
    with pretended() as mode:
        backbone = from_pretrained(model=str(tiny_sd), device=PLACE, precision="fp16")
        for name, knobs in LATENT.items():
            try:
                found[name] = drawn(mode, backbone, name, knobs, (2, 1))
            except Exception as error:  # each method's own test tells of it
                found[name] = error
    return found


@pytest.mark.parametrize("name", LATENT)
def test_a_latent_method_stays_on_its_device_and_brings_nothing_home(name: str, latent: dict[str, Any]) -> None:
    counts = latent[name]
    assert isinstance(counts, Counter), repr(counts)
    assert counts["launch"] > 0
    assert counts["to_host"] == 0


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_other_networks_stay_on_their_device(family: str, tmp_path: Path) -> None:
    folder = getattr(tiny_pipelines, f"write_{family}")(tmp_path)
    factory = {"sdxl": sdxl, "flux": flux_dev}[family]
    with pretended() as mode:
        backbone = factory(model=str(folder), device=PLACE, precision="bf16")
        backbone.window = min(backbone.window, 16)  # FLUX's is that of the full-size network
        counts = drawn(mode, backbone, "direct", {}, (2, 1))
    assert (counts["launch"] > 0, counts["to_host"]) == (True, 0)


def test_a_network_that_is_offloaded_computes_on_the_device(tiny_sd: Path) -> None:
    with pretended() as mode:
        backbone = from_pretrained(model=str(tiny_sd), device=PLACE, precision="fp16", offload="model")
        assert drawn(mode, backbone, "mad", {"stride": 2}, (2, 1))["launch"] > 0


def test_a_tensor_left_on_the_cpu_and_a_copy_to_the_host_are_found(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, gather = windows.merge, windows.gather
    with pretended() as mode:
        backbone = from_pretrained(model=str(tiny_sd), device=PLACE, precision="fp16")
        home = lambda views, *at: merge(views + 0 * views.cpu().to(views.device), *at)  # noqa: E731
        monkeypatch.setattr("methods.multidiffusion.merge", home)
        assert drawn(mode, backbone, "multidiffusion", {"stride": 2}, (2, 1))["to_host"] == 2  # one a step
        monkeypatch.setattr("methods.multidiffusion.gather", lambda x, at: gather(x, at) + torch.ones(1))
        with pytest.raises(RuntimeError, match=r"(?s)device.*(cpu|cuda:1)"):
            drawn(mode, backbone, "multidiffusion", {"stride": 2}, (2, 1))


def test_mad_launches_a_tenth_of_what_cutting_and_averaging_window_by_window_takes(tiny_sd: Path) -> None:
    """On one layer of 37 windows, as 5120x512 px have."""
    size, side = (16, 160), 16
    cut = windows.grid(*size, side, 4)
    with pretended() as mode:
        hidden = torch.empty(len(cut), side * side, 8, device=PLACE, dtype=torch.float16)
        places = windows.Places(cut, size, torch.device(PLACE))
        mode.counts.clear()
        places.gather(places.merge(hidden))
        ours, waits = mode.counts["", "launch"], mode.counts["", "to_host"] + mode.counts["", "to_device"]
        mode.counts.clear()
        views = hidden.transpose(1, 2).reshape(len(cut), -1, side, side)
        windows.gather(windows.merge(views, cut, size), cut)
    assert len(cut) == 37
    assert (ours <= 8, waits) == (True, 0)
    assert mode.counts["", "launch"] > 10 * ours
