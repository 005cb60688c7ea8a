"""Direct sampling of a video network against diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from close import sampled
from tiny_pipelines import write_wan

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.wan import wan_small
from methods.direct_video import direct_video

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CANVAS = Canvas(48, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def close(folder: Path) -> Callable[[float], float]:
    """How far pictures and latents of five steps at a guidance scale may lie apart."""
    backbone = wan_small(model=str(folder))
    return lambda guidance: sampled(backbone, 5, guidance)


def by_diffusers(
    folder: Path, output: str, frames: int = 1, negative: str | None = BOAT.negative, **changes: Any
) -> Any:
    """WanPipeline's video (frames, 3, H, W) or final latents (16, latent frames, h, w), from the same noise."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipe = WanPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if "flow_shift" in changes:
        shift = changes.pop("flow_shift")
        pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=shift)
    given = {"guidance_scale": 5.0, "num_inference_steps": 5, **changes}
    return pipe(
        prompt=BOAT.text, negative_prompt=negative, width=CANVAS.width, height=CANVAS.height, num_frames=frames,
        latents=Noise(0, BOAT.id).normal("canvas", (1, 16, (frames - 1) // 4 + 1, 2, 6)), output_type=output, **given,
    ).frames[0]  # fmt: skip


def ours(
    folder: Path, negative: str = BOAT.negative, guidance: float = 5.0, shift: float | None = None, **knobs: Any
) -> torch.Tensor:
    asked = Prompt(BOAT.id, BOAT.text, negative)
    backbone = wan_small(model=str(folder), shift=shift)
    return direct_video.fn(backbone, asked, CANVAS, Noise(0, BOAT.id), steps=5, guidance=guidance, **knobs)


@pytest.mark.parametrize(
    ("negative", "official", "guidance"), [("blurry", "blurry", 5.0), ("", None, 5.0), ("blurry", "blurry", 1.0)]
)
def test_one_frame_is_the_pipelines(
    folder: Path, negative: str, official: str | None, guidance: float, close: Callable[[float], float]
) -> None:
    expected = by_diffusers(folder, "pt", negative=official, guidance_scale=guidance)
    assert expected.shape == (1, 3, 16, 48)
    torch.testing.assert_close(ours(folder, negative, guidance), expected[0], atol=close(guidance), rtol=0)


@pytest.mark.parametrize(("which", "index"), [("first", 0), ("middle", 4), ("last", 8)])
def test_a_frame_of_a_longer_video_is_the_pipelines(
    folder: Path, which: str, index: int, close: Callable[[float], float]
) -> None:
    expected = by_diffusers(folder, "pt", frames=9)
    assert expected.shape == (9, 3, 16, 48)
    found = ours(folder, frames=9, which=which)
    torch.testing.assert_close(found, expected[index], atol=close(5.0), rtol=0)
    assert float((found - expected[(index + 1) % 9]).abs().max()) > 2 * close(5.0)  # the frames differ


def test_final_latents_are_the_pipelines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, seen = wan_small(model=str(folder)), []
    decode = backbone.decode
    monkeypatch.setattr(backbone, "decode", lambda latents: seen.append(latents) or decode(latents))
    direct_video.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, frames=5)
    expected = by_diffusers(folder, "latent", frames=5)
    close = sampled(backbone, 5, 5.0) * float(expected.abs().max())
    torch.testing.assert_close(seen[0][0], expected, atol=close, rtol=0)
    assert backbone.meter.nfe == 2 * 5


def test_another_shift_is_the_pipelines_with_that_shift(folder: Path, close: Callable[[float], float]) -> None:
    expected = by_diffusers(folder, "pt", flow_shift=5.0)[0]
    torch.testing.assert_close(ours(folder, shift=5.0), expected, atol=close(5.0), rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 3.0}, {"num_inference_steps": 6}, {"negative": None}, {"flow_shift": 2.5},
        {"max_sequence_length": 12},
    ],
)  # fmt: skip
def test_what_decides_the_picture_is_not_lost_in_the_tolerance(
    folder: Path, changes: dict[str, Any], close: Callable[[float], float]
) -> None:
    assert float((ours(folder) - by_diffusers(folder, "pt", **changes)[0]).abs().max()) > 2 * close(5.0)


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(48, 16, loop=True), {}, "direct-video cannot make a loop"),
        (Canvas(40, 16), {}, "width must be a multiple of 16, got 40; nearest: 32 or 48"),
        (CANVAS, {"frames": 7}, r"frames must be 4k \+ 1, got 7; nearest: 5 or 9"),
        (CANVAS, {"frames": 0}, "nearest: 1 or 5"),
        (CANVAS, {"which": "midle"}, "did you mean 'middle'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    folder: Path, canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    backbone = wan_small(model=str(folder))
    with pytest.raises(UsageError, match=message):
        direct_video.fn(backbone, BOAT, canvas, Noise(0, "boat"), **knobs)
    assert (backbone.meter.nfe, backbone.meter.seconds) == (0, {})
