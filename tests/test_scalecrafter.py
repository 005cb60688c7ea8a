"""ScaleCrafter: re-dilated convolutions against the authors' numbers, FreeU, and the identities it must obey."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from close import products, rounding
from golden_cases import GOLDENS

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods import scalecrafter as module
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained, sd15
from methods.direct import direct
from methods.scalecrafter import (
    SETTINGS,
    Setting,
    damped_frequencies,
    dilated,
    factor_at,
    factors_of,
    freeu,
    redilated,
    scalecrafter,
    scalecrafter_latents,
)

BOAT = Prompt("boat", "a boat under one moon", "blurry")
ENTRY = json.loads((GOLDENS / "manifest.json").read_text())["cases"]["scalecrafter_redilate_shared"]
HALF = {"sd1.5": {(2, 2): Setting({"up_blocks.0": 2, "mid_block": 2}, 2)}}  # layers that the tiny network has


def convolution(entry: dict[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """The plain convolution of a golden entry, and its arrays in float64."""
    with np.load(GOLDENS / ENTRY["file"]) as stored:
        names = ("input", "weight", "bias", "output", "output_inactive")
        arrays = {k: torch.from_numpy(stored[entry["prefix"] + k]).double() for k in names}
    into, out = arrays["weight"].shape[1], arrays["weight"].shape[0]
    made = torch.nn.Conv2d(into, out, entry["kernel"], entry["stride"], entry["kernel"] // 2).double()
    made.load_state_dict({"weight": arrays["weight"], "bias": arrays["bias"]})
    return made.requires_grad_(False), arrays


@pytest.mark.parametrize("entry", ENTRY["entries"], ids=lambda e: e["prefix"])
def test_a_redilated_convolution_equals_the_released_code_and_is_plain_again_afterwards(entry: dict[str, Any]) -> None:
    conv, arrays = convolution(entry)
    with redilated(conv, entry["dilation_factor"]):
        found = conv(arrays["input"])
    bound = ENTRY["suggested_tolerance"]
    assert bound <= 1e-6
    assert float((found - arrays["output"]).abs().max()) < bound
    plain = conv(arrays["input"])
    assert float((plain - arrays["output_inactive"]).abs().max()) < bound
    assert float((plain - arrays["output"]).abs().max()) == pytest.approx(entry["differs_from_plain_conv_max_abs"])


def test_the_case_names_the_same_mistakes() -> None:
    for entry in ENTRY["entries"]:
        (stated,) = [v for k, v in ENTRY["negative_controls_max_abs"].items() if k.endswith(entry["prefix"])]
        assert stated == entry["differs_from_plain_conv_max_abs"]


def test_rounding_a_dilation_up_without_resizing_is_caught() -> None:
    (entry,) = [e for e in ENTRY["entries"] if e["dilation_factor"] == 1.5]
    conv, arrays = convolution(entry)
    with redilated(conv, 2.0):
        assert float((conv(arrays["input"]) - arrays["output"]).abs().max()) > 0.1


def test_a_factor_of_one_changes_nothing() -> None:
    conv, arrays = convolution(ENTRY["entries"][0])
    with redilated(conv, 1.0):
        one = conv(arrays["input"])
    assert torch.equal(one, conv(arrays["input"]))


def test_a_convolution_is_restored_after_an_error() -> None:
    conv, arrays = convolution(ENTRY["entries"][0])
    with pytest.raises(RuntimeError, match="channels"), redilated(conv, 3.0):
        conv(arrays["input"][:, :1])
    assert (conv.dilation, conv.padding) == ((1, 1), (1, 1))
    assert not conv._forward_hooks
    assert not conv._forward_pre_hooks


def test_progressive_factors_fall_as_published() -> None:
    four = [factor_at(4, i, 35, True) for i in range(35)]
    assert four == [4.0] * 9 + [3.0] * 9 + [2.0] * 17
    assert [factor_at(3, i, 35, True) for i in range(35)] == [3.0] * 12 + [2.0] * 23
    assert factor_at(2.5, 10, 35, False) == 2.5


def test_tables_name_layers_that_the_real_networks_have() -> None:
    small = factors_of(sd15.skeleton().unet, SETTINGS["sd1.5"][(2.5, 2.5)].strong)
    assert len(small) == 35  # lines of the released list that name a layer
    assert small["down_blocks.2.resnets.0.conv1"] == 2
    assert small["down_blocks.2.downsamplers.0.conv"] == small["up_blocks.1.upsamplers.0.conv"] == 2.5
    assert "down_blocks.1.resnets.0.conv1" not in small
    assert not any("shortcut" in name for name in small)


def test_tables_of_sdxl_leave_out_the_stage_it_lacks() -> None:
    unet = sdxl.skeleton(precision="bf16").unet
    strong = factors_of(unet, SETTINGS["sdxl"][(2, 2)].strong)
    assert {n.partition(".resnets")[0].partition(".upsamplers")[0] for n in strong} == {"mid_block", "up_blocks.0"}
    assert len(strong) == 4 + 6 + 1
    assert len(factors_of(unet, SETTINGS["sdxl"][(4, 4)].strong)) == 4 + 4 + 7 + 7 + 6


def test_all_settings_but_the_smaller_ones_are_progressive_and_damped() -> None:
    for sizes in SETTINGS.values():
        for (wide, high), s in sizes.items():
            large = wide > 2.5
            assert (s.progressive, bool(s.damped), bool(s.weak)) == (large,) * 3
            assert wide in (high, 2 * high)


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTINGS", HALF)


@pytest.mark.usefixtures("small_tables")
def test_dilation_of_one_without_freeu_and_noise_is_direct_sampling(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas, noise = Canvas(32, 32), Noise(0, BOAT.id)

    def make(**knobs: Any) -> torch.Tensor:
        return scalecrafter.fn(backbone, BOAT, canvas, noise, steps=4, table="sd1.5", **knobs)

    dilated_picture = make(eta=0.0, freeu_on=False)
    monkeypatch.setattr(module, "SETTINGS", {"sd1.5": {(2, 2): Setting({"up_blocks": 1}, 4)}})
    plain = direct.fn(backbone, BOAT, canvas, noise, steps=4)
    assert torch.equal(make(eta=0.0, freeu_on=False), plain)
    for other in (dilated_picture, make(eta=0.0), make(freeu_on=False), make(eta=0.5, freeu_on=False)):
        assert float((other - plain).abs().max()) > 1e-4


@pytest.mark.usefixtures("small_tables")
def test_the_network_is_as_it_was_afterwards_and_the_picture_repeats(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    noise = Noise(0, BOAT.id)
    x, told = noise.normal("probe", (1, 4, 4, 4)), backbone.condition("a")
    before = backbone.guided(x, torch.tensor(5), told, 2.0)
    first = scalecrafter.fn(backbone, BOAT, Canvas(32, 32), noise, steps=3, table="sd1.5")
    assert torch.equal(before, backbone.guided(x, torch.tensor(5), told, 2.0))
    assert torch.equal(first, scalecrafter.fn(backbone, BOAT, Canvas(32, 32), noise, steps=3, table="sd1.5"))
    other = scalecrafter.fn(backbone, BOAT, Canvas(32, 32), Noise(1, BOAT.id), steps=3, table="sd1.5")
    assert not torch.equal(first, other)


def test_dilation_ends_after_its_steps_and_damping_takes_the_weak_table() -> None:
    calls: list[tuple[str, dict[str, float]]] = []

    def pair(x: torch.Tensor, t: Any, factors: Any) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(("strong", dict(factors)))
        return 0.5 * x, 0.25 * x

    def unconditional(x: torch.Tensor, t: Any, factors: Any) -> torch.Tensor:
        calls.append(("weak", dict(factors)))
        return 2.0 * x

    class Plain:
        timesteps = torch.tensor([4, 3, 2, 1])

        def step(self, prediction: torch.Tensor, t: Any, x: torch.Tensor, **more: Any) -> Any:
            assert more["eta"] == 0.0
            assert more["variance_noise"] is None
            return SimpleNamespace(prev_sample=prediction)

    setting = Setting({"a": 4.0}, 3, True, {"b": 3.0}, 1)

    def run(guidance: float) -> torch.Tensor:
        x = torch.ones(1, 1, 2, 2)
        return scalecrafter_latents(pair, unconditional, Plain(), x, setting, lambda i: x, guidance=guidance, eta=0.0)

    final = run(2.0)
    assert calls == [("strong", {"a": 4.0}), ("weak", {"b": 3.0}), ("strong", {"a": 3.0}), ("strong", {"a": 2.0}),
                     ("strong", {})]  # fmt: skip
    # 2 + 2 (0.25 - 0.5) once, then 0.5 + 2 (0.25 - 0.5) = 0
    assert float(final.abs().max()) == 0.0
    calls.clear()
    assert float(run(1.0).max()) == 0.25**4
    assert all(kind == "strong" for kind, _ in calls)


def test_fresh_noise_of_every_step_is_what_the_sampler_gets() -> None:
    from methods.backbones.schedules import make_scheduler

    config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False}
    x, noises = torch.ones(1, 1, 2, 2), [torch.full((1, 1, 2, 2), 0.1 * i) for i in range(3)]

    def run(eta: float) -> torch.Tensor:
        return scalecrafter_latents(
            lambda x, t, f: (x, x), lambda x, t, f: x, make_scheduler(config, 3), x, Setting({}, 0),
            lambda i: noises[i], eta=eta,
        )  # fmt: skip

    expected, scheduler = x, make_scheduler(config, 3)
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(expected, t, expected, eta=1.0, variance_noise=noises[i]).prev_sample  # type: ignore[call-arg]
    assert torch.equal(run(1.0), expected)
    assert float((run(0.0) - expected).abs().max()) > 1e-3


def test_freeu_of_ones_is_no_freeu_and_others_are_undone(tiny_sd: Path) -> None:
    unet = from_pretrained(model=str(tiny_sd)).unet
    x, text = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 77, 16)

    def ask() -> torch.Tensor:
        with torch.no_grad():
            return unet(x, torch.tensor(10), encoder_hidden_states=text).sample

    plain = ask()
    close = rounding(float(plain.abs().max()), products(unet))
    with freeu(unet, 1.0, 1.0, 1.0, 1.0):
        assert float((ask() - plain).abs().max()) < close
    for strengths in ((1.5, 1, 1, 1), (1, 1.5, 1, 1), (1, 1, 0.5, 1), (1, 1, 1, 0.5)):
        with freeu(unet, *strengths):
            assert float((ask() - plain).abs().max()) > 2 * close, strengths
    assert torch.equal(ask(), plain)


def test_damping_frequencies_scales_the_mean_and_keeps_the_finest() -> None:
    x = torch.randn(1, 2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    soft = damped_frequencies(x, 0.2)
    torch.testing.assert_close(soft.mean((-2, -1)), 0.2 * x.mean((-2, -1)))
    stripes = torch.ones(1, 1, 8, 6, dtype=torch.float64)
    stripes[..., ::2] = -1
    torch.testing.assert_close(damped_frequencies(stripes, 0.2), stripes)
    torch.testing.assert_close(damped_frequencies(x, 1.0), x)


def test_freeu_agrees_with_diffusers_where_blocks_and_channels_say_the_same() -> None:
    """SDXL's first two stages on the way up are its widest and half of that, but for the block between them."""
    from diffusers.utils.torch_utils import fourier_filter

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(damped_frequencies(x, 0.6), fourier_filter(x, threshold=1, scale=0.6))


def test_evaluations_are_two_a_step_and_three_while_guidance_is_damped(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting({"up_blocks": 2}, 2, True, {"mid_block": 2}, 2)
    monkeypatch.setattr(module, "SETTINGS", {"sd1.5": {(2, 2): setting}})
    backbone = from_pretrained(model=str(tiny_sd))
    scalecrafter.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=5, table="sd1.5")
    assert backbone.meter.cost().nfe == 5 * 2 + 2


@pytest.mark.parametrize(
    ("name", "canvas", "knobs", "message"),
    [
        ("sd15", Canvas(48, 8), {}, "alike along both axes.*16x16, 20x20, 32x16 px; got 48x8, which has none"),
        ("sd15", Canvas(16, 32), {}, "which has none"),
        ("sd15[sampler=checkpoint]", Canvas(32, 32), {}, "which has none"),
        ("sdxl", Canvas(20, 20), {}, "with sdxl on sdxl these are 16x16, 32x16, 32x32 px"),
        ("sd20", Canvas(16, 16), {}, "none for sd20; to borrow one, say which: table=sd1.5, sd2.1, sdxl"),
        ("sd20", Canvas(16, 16), {"table": "sd15"}, "did you mean 'sd1.5'"),
        ("sd15", Canvas(16, 16, loop=True), {}, "scalecrafter cannot make a loop"),
        ("sd15", Canvas(16, 16), {"eta": 1.5}, "eta must be 0 to 1"),
        ("sd15", Canvas(16, 16), {}, "works inside.*of a U-Net"),
    ],
)
def test_what_has_no_released_setting_is_refused_before_the_network_is_asked(
    name: str, canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name=name, factor=1, patch=1, window=8)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        scalecrafter.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_network_with_none_of_the_layers_is_refused(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTINGS", {"sd1.5": {(2, 2): Setting({"down_blocks.7": 2}, 2)}})
    backbone = from_pretrained(model=str(tiny_sd))
    with pytest.raises(UsageError, match="none of the layers"):
        scalecrafter.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), table="sd1.5")


def test_dilating_nothing_leaves_the_network_alone(tiny_sd: Path) -> None:
    unet = from_pretrained(model=str(tiny_sd)).unet
    with dilated(unet, {}):
        assert all(not m._forward_hooks for m in unet.modules())


def test_presets_are_the_released_code() -> None:
    assert scalecrafter.resolve({}, "official") == {
        "steps": 50, "guidance": 7.5, "eta": 1.0, "freeu_on": True, "table": None,
    }  # fmt: skip
    assert scalecrafter.resolve({}, "sdxl")["guidance"] == 5.0
    assert scalecrafter.resolve({}, "no-freeu")["freeu_on"] is False
