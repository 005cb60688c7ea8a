"""DRSPO on the miniature's network: identities with plain MultiDiffusion, its blueprint, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from bench.world.recipes.control import untrained
from methods import drspo as module
from methods.backbones.sd3 import sd35_medium
from methods.control.canny import canny
from methods.direct import direct
from methods.drspo import ADAPTED, Late, control_rows, drspo, edges, kept_steps
from methods.multidiffusion import multidiffusion
from methods.shared import lora
from methods.shared.windows import grid
from tests.support.close import sampled

SEA, SCROLL, NOISE = Prompt("sea", "a photo of the sea by day, one sun"), Canvas(96, 32), Noise(0, "sea")
PLAIN: dict[str, Any] = {"low": "none", "high": "none", "control": "none"}
KNOBS: dict[str, Any] = {**PLAIN, "steps": 4, "guidance": 2.5, "stride": 4, "scale": 1.0}


@pytest.fixture(scope="module")
def base() -> Any:
    return find("backbones", "world-sd")()


@pytest.fixture(scope="module")
def net(base: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ControlNet that answers with something, untrained."""
    folder, made = tmp_path_factory.mktemp("net"), untrained(base.unet)
    generator = torch.Generator().manual_seed(0)
    for name, p in made.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
    made.save_pretrained(folder)
    return str(folder)


def ours(base: Any, canvas: Canvas = SCROLL, **knobs: Any) -> torch.Tensor:
    return drspo.fn(base, SEA, canvas, NOISE, **{**KNOBS, **knobs})


def test_from_noise_without_control_it_is_multidiffusion(base: Any) -> None:
    plain = multidiffusion.fn(base, SEA, SCROLL, NOISE, steps=4, guidance=2.5, stride=4)
    assert torch.equal(ours(base, strength=None), plain)
    assert not torch.equal(ours(base), plain)  # the control: from the blueprint


def test_one_window_from_noise_is_direct(base: Any) -> None:
    square = Canvas(32, 32)
    close = sampled(base, 4, 2.5)
    found, plain = ours(base, square, strength=None), direct.fn(base, SEA, square, NOISE, steps=4, guidance=2.5)
    torch.testing.assert_close(found, plain, atol=close, rtol=0)
    assert float((ours(base, square) - plain).abs().max()) > 10 * close


def test_edges_steer_the_canvas_and_at_scale_zero_or_after_their_end_they_do_not(base: Any, net: str) -> None:
    free = ours(base)
    steered = ours(base, control=net)
    assert not torch.equal(steered, free)
    assert torch.equal(ours(base, control=net, control_scale=0.0), free)
    early = ours(base, control=net, control_end=0.5)
    assert not torch.equal(early, free)
    assert not torch.equal(early, steered)
    assert not base.unet._forward_pre_hooks


def test_a_window_gets_the_edges_of_its_own_place() -> None:
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.random((3, 32, 96))).float()
    lines = edges(picture, 100, 200)
    rgb = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(lines[0, 2].numpy() > 0, canny(rgb))
    assert set(lines.unique().tolist()) == {0.0, 1.0}
    windows = grid(8, 24, 8, 4)
    rows = control_rows(lines, windows, 4)
    assert rows.shape == (2 * len(windows), 3, 32, 32)
    for i, window in enumerate(windows):
        own = lines[0, :, :, 4 * window.x : 4 * window.x + 32]
        assert torch.equal(rows[i], own)
        assert torch.equal(rows[len(windows) + i], own)
    assert not torch.equal(rows[0], rows[1])


def test_the_canvas_begins_at_the_blueprint_noised_to_the_first_kept_step(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, Any] = {}

    def look(guided: Any, scheduler: Any, x: torch.Tensor, windows: Any, at_step: Any) -> torch.Tensor:
        begun.update(x=x, first=int(scheduler.timesteps[0]), steps=len(scheduler.timesteps))
        return x

    monkeypatch.setattr(module, "refined", look)
    ours(base, strength=0.5, scale=2.0)
    assert (begun["steps"], begun["first"]) == (2, int(base.scheduler(4).timesteps[2]))
    ours(base, strength=0.5, scale=2.0, level="clean")
    z, drawn = begun["x"], NOISE.normal("canvas", (1, 16, 8, 24))
    ours(base, strength=0.5, scale=2.0)
    kept = float(base.scheduler(4).alphas_cumprod[begun["first"]])
    torch.testing.assert_close(begun["x"], z * kept**0.5 + drawn * (1 - kept) ** 0.5, atol=1e-6, rtol=0)
    assert float((begun["x"] - z).abs().max()) > 0.1


@pytest.mark.parametrize(("steps", "strength", "kept"), [(50, 0.8, 40), (20, 1.0, 20), (7, 0.5, 3), (20, None, 20)])
def test_strength_is_a_share_of_the_steps_rounded_down(steps: int, strength: float | None, kept: int) -> None:
    assert kept_steps(steps, strength) == kept


def test_late_steps_are_those_of_the_whole_schedule(base: Any) -> None:
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, late = base.scheduler(5), Late(base.scheduler(5), 3)
    for t in late.timesteps:
        assert torch.equal(late.step(x, t, x).prev_sample, whole.step(x, t, x).prev_sample)
    assert [int(t) for t in late.timesteps] == [int(t) for t in whole.timesteps[3:]]


def pairs(base: Any, path: Path, size: float) -> str:
    generator = torch.Generator().manual_seed(0)
    made = lora.fresh(lora.layers(base.unet, ADAPTED), 2, lambda s: torch.randn(s, generator=generator))
    full = {n: p._replace(b=size * torch.randn(p.b.shape, generator=generator)) for n, p in made.items()}
    lora.save(full, path, "unet")
    return str(path)


def test_each_stage_wears_its_own_weights(base: Any, tmp_path: Path) -> None:
    file, idle = pairs(base, tmp_path / "a.safetensors", 0.3), pairs(base, tmp_path / "b.safetensors", 0.0)
    plain = ours(base)
    assert torch.equal(ours(base, low=idle, high=idle), plain)
    low, high = ours(base, low=file), ours(base, high=file)
    assert not torch.equal(low, plain)
    assert not torch.equal(high, plain)
    assert not torch.equal(low, high)
    assert torch.equal(ours(base), plain)  # taken off again


def test_recipes_name_control_and_stages_by_content(base: Any, net: str, tmp_path: Path) -> None:
    file = pairs(base, tmp_path / "a.safetensors", 0.3)
    named = drspo.requires(lambda: base, SCROLL, drspo.resolve({**KNOBS, "control": net, "high": file}))
    assert set(named) == {"control", "high"}
    shutil.copytree(net, tmp_path / "copy")
    again = drspo.requires(lambda: base, SCROLL, drspo.resolve({**KNOBS, "control": str(tmp_path / "copy")}))
    assert again == {"control": named["control"]}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"strength": 0.0}, "strength is above 0, at most 1, and leaves a step of 4"),
        ({"strength": 0.2}, "leaves a step of 4"),
        ({"level": "noisy"}, "unknown level 'noisy'"),
        ({"scale": 0.5}, "scale must be at least 1"),
        ({"scale": 3.0}, r"3 times smaller than 96x32 px is not whole cells of 4 px; nearest canvas: 96x36"),
        ({"canny_low": 300}, "0 <= low <= high"),
        ({"control_begin": 0.5, "control_end": 0.5}, "control_begin < control_end"),
        ({"stride": 5}, "leave .* over"),
        ({"adapter_view": "middle"}, "unknown adapter_view"),
    ],
)
def test_what_cannot_work_is_refused_when_a_plan_is_made(knobs: dict[str, Any], message: str) -> None:
    outline = find("backbones", "world-sd").outline
    with pytest.raises(UsageError, match=message):
        drspo.requires(outline, SCROLL, drspo.resolve({**KNOBS, **knobs}))


def test_other_networks_loops_and_weights_of_another_network_are_refused(base: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot make a loop"):
        ours(base, Canvas(96, 32, loop=True))
    with pytest.raises(UsageError, match="drspo works beside a U-Net: use sdxl"):
        drspo.requires(sd35_medium.outline, SCROLL, drspo.resolve(KNOBS))
    with pytest.raises(UsageError, match="drspo works beside a U-Net; backbone world-flux has none"):
        drspo.requires(find("backbones", "world-flux").outline, SCROLL, drspo.resolve(KNOBS))
    drawn = torch.zeros(2, 8)
    lora.save({"down_blocks.0.attentions.0.proj": lora.Lora(drawn, drawn.T)}, tmp_path / "a.safetensors", "unet")
    with pytest.raises(UsageError, match="is no adapter for world-sd: layers 1 unknown"):
        ours(base, low=str(tmp_path / "a.safetensors"))


def test_missing_weights_of_a_stage_say_how_to_train_them(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORLD", Path("/nowhere/world-sd"))
    with pytest.raises(PrerequisiteError, match=r"scrollbench train drspo --set stage=low --backbone world-sd"):
        ours(base, low="")
