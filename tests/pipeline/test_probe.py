"""The probe sees what a sampler leaves changed in a backbone, and nothing where it leaves all as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.isolation import isolated
from bench.pipeline.probe import Probe
from bench.registry import find, names
from bench.types import Canvas, Prompt
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from tests.support import tiny_pipelines

BOAT = Prompt("boat", "a boat on a calm sea")


@pytest.fixture(scope="module")
def shared(tiny_sd: Path) -> Any:
    return find("backbones", "diffusers")(model=str(tiny_sd))


@pytest.fixture
def backbone(tiny_sd: Path) -> Any:
    return find("backbones", "diffusers")(model=str(tiny_sd))


def flip(tensor: torch.Tensor) -> None:
    tensor.data.copy_(tensor.data.flip(0))


def one(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[3] += 1


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "numbers": (lambda b: b.unet.conv_out.weight.data.mul_(1.001), "parts.unet.conv_out.weight"),
    "one number": (lambda b: one(b.unet.conv_out.weight), "parts.unet.conv_out.weight"),
    "order of numbers": (lambda b: flip(b.unet.conv_in.weight), "parts.unet.conv_in.weight"),
    "other memory": (lambda b: setattr(b.vae.decoder.conv_in.weight, "data", b.vae.decoder.conv_in.weight.data.clone()),
                     "parts.vae.decoder.conv_in.weight"),
    "a buffer": (lambda b: b.unet.register_buffer("mine", torch.zeros(1)), "parts.unet.mine"),
    "requires_grad": (lambda b: b.unet.conv_in.requires_grad_(True), "parts.unet.conv_in.weight"),
    "gradients": (lambda b: setattr(b.unet.conv_in.bias, "grad", torch.zeros_like(b.unet.conv_in.bias)),
                  "parts.unet.conv_in.bias"),
    "training mode": (lambda b: b.vae.train(), "parts.vae.decoder"),
    "hook": (lambda b: b.unet.mid_block.register_forward_hook(lambda *_: None), "parts.unet.mid_block"),
    "processor": (lambda b: b.unet.set_attn_processor(find_processor()), "attn1"),
    "method": (lambda b: setattr(b.unet, "forward", b.unet.forward), "parts.unet"),
    "module": (lambda b: setattr(b.unet, "conv_out", torch.nn.Identity()), "parts.unet.conv_out"),
    "padding": (lambda b: setattr(b.unet.conv_in, "padding_mode", "circular"), "parts.unet.conv_in"),
    "tiling": (lambda b: b.vae.enable_tiling(), "parts.vae"),
    "config": (lambda b: b.vae.register_to_config(scaling_factor=1.0), "parts.vae.config"),
    "scheduler config": (lambda b: b._scheduler_config.update(beta_end=0.1), "_scheduler_config"),
    "attribute": (lambda b: setattr(b, "window", 8), "window"),
    "own method": (lambda b: setattr(b, "guided", None), "guided"),
}  # fmt: skip


def find_processor() -> Any:
    from diffusers.models.attention_processor import AttnProcessor

    return AttnProcessor()


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_a_change_is_seen_and_named(what: str, backbone: Any) -> None:
    change, name = CHANGES[what]
    probe = Probe(backbone)
    assert probe.changes() == []
    change(backbone)
    assert any(name in changed for changed in probe.changes())


def test_the_digest_is_that_of_the_weights_whenever_they_are_loaded(backbone: Any, shared: Any) -> None:
    assert Probe(backbone).digest == Probe(shared).digest
    backbone.unet.conv_in.bias.data[0] += 1
    assert Probe(backbone).digest != Probe(shared).digest


def test_every_dtype_and_layout_of_a_tensor_is_read_to_its_last_number() -> None:
    class Holder(torch.nn.Module):
        pass

    class Backbone:
        def __init__(self, module: Any) -> None:
            self.module = module

    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
        for shape in ((), (1,), (3,), (5, 7), (2, 3, 5, 7)):
            holder = Holder()
            holder.register_buffer("x", torch.ones(shape).to(dtype))
            if len(shape) == 4:
                holder.x = holder.x.to(memory_format=torch.channels_last)
            probe = Probe(Backbone(holder))
            assert probe.changes() == []
            last = holder.x.data[(-1,) * len(shape)] if shape else holder.x.data
            last.zero_()
            assert probe.changes() == ["module.x"], (dtype, shape)


# What the tiny network needs said: its layers want even strides, LPIPS windows of 32 px, released settings a name.
KNOBS: dict[str, dict[str, Any]] = {
    "mad": {"stride": 2}, "scalecrafter": {"table": "sd1.5"},
    "syncdiffusion": {"window": 8, "stride": 4, "loss": "world-lpips"},
    "upscale": {"model": "world-upscaler", "base": "direct steps=2"}, "scale-dit": {"kept": 1, "bridge": "none"},
    "scrollscape": {"alignment": "none", "frame_width": 2},
    "drspo": {"low": "none", "high": "none", "control": "none"},
}  # fmt: skip
LATENT = [n for n in names("methods") if find("methods", n).family == "latent"]


# Methods that the tiny network is not for run on one of their own kind.
OWN = ("dype", "direct-binned", "scale-dit")


@pytest.mark.parametrize("name", [n for n in LATENT if n not in OWN])
def test_built_in_methods_leave_no_trace(name: str, shared: Any) -> None:
    method = find("methods", name)
    knobs = method.resolve({**({"steps": 2} if "steps" in method.params else {}), **KNOBS.get(name, {})})
    probe, side = Probe(shared), shared.window * shared.factor
    for size in ((2 * side, side), (2 * side, 2 * side), (4 * side, 2 * side)):
        try:
            with isolated() as traces:
                method.fn(shared, BOAT, Canvas(*size), Noise(0, BOAT.id), **knobs)
        except UsageError:
            continue
        assert (traces.drawn, traces.changed, probe.changes()) == ([], [], [])
        return
    pytest.fail(f"{name} was never run")


FAMILIES: list[tuple[str, str, Callable[[Path], Path]]] = [
    ("sdxl", "direct", tiny_pipelines.write_sdxl),
    ("sd35-medium", "direct", tiny_pipelines.write_sd3),
    ("flux-dev", "direct", tiny_pipelines.write_flux),
    ("flux-dev", "dype", tiny_pipelines.write_flux),
    ("flux-dev", "scale-dit", tiny_pipelines.write_flux),
    ("pixart-sigma", "direct", tiny_pipelines.write_pixart),
    ("pixart-sigma", "direct-binned", partial(tiny_pipelines.write_pixart, sample_size=32)),
    ("wan-1.3b", "direct-video", tiny_pipelines.write_wan),
    ("wan-1.3b", "scrollscape", tiny_pipelines.write_wan),
    ("llamagen", "direct-tokens", write_tiny_llamagen),
    ("llamagen", "panollama", write_tiny_llamagen),
]


@pytest.mark.parametrize(("name", "method", "write"), FAMILIES, ids=lambda v: v if isinstance(v, str) else "")
def test_plain_sampling_leaves_no_trace_on_any_family(
    name: str, method: str, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    backbone = find("backbones", name)(model=str(write(tmp_path)))
    sampler = find("methods", method)
    square = getattr(backbone, "side", None) or getattr(backbone, "window", 8)
    knobs = sampler.resolve({**({"steps": 2} if "steps" in sampler.params else {}), **KNOBS.get(method, {})})
    probe = Probe(backbone)
    for _ in range(2):  # what is set once, at the first call, counts as well
        with isolated() as traces:
            sampler.fn(backbone, BOAT, Canvas(*[square * backbone.factor] * 2), Noise(0, "boat"), **knobs)
        assert (traces.drawn, traces.changed, probe.changes()) == ([], [], [])
