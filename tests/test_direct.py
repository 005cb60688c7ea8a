"""Direct sampling against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from close import sampled

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.canvas import start
from methods.direct import direct, direct_latents

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CANVAS = Canvas(48, 16)


@pytest.fixture
def pipeline(tiny_sd: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_diffusers(pipe: Any, output: str, guidance: float = 7.5) -> torch.Tensor:
    """The same picture by StableDiffusionPipeline, from the same noise."""
    return pipe(
        prompt=BOAT.text, negative_prompt=BOAT.negative, width=CANVAS.width, height=CANVAS.height,
        guidance_scale=guidance, num_inference_steps=6,
        latents=Noise(0, BOAT.id).normal("canvas", (1, 4, 4, 12)), output_type=output,
    ).images[0]  # fmt: skip


def latents(backbone: Any, guidance: float) -> torch.Tensor:
    with torch.no_grad():
        conditioning, scheduler = backbone.condition(BOAT.text, BOAT.negative), backbone.scheduler(6)
        x = start(backbone, scheduler, Noise(0, BOAT.id), (4, 12))
        return direct_latents(lambda z, t: backbone.guided(z, t, conditioning, guidance), scheduler, x)[0]


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_latents_and_picture_equal_those_of_diffusers(tiny_sd: Path, pipeline: Any, guidance: float) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    made = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=6, guidance=guidance)
    expected, close = by_diffusers(pipeline, "latent", guidance), sampled(backbone, 6, guidance)
    size = float(expected.abs().max())
    torch.testing.assert_close(latents(backbone, guidance), expected, atol=close * size, rtol=0)
    torch.testing.assert_close(made, by_diffusers(pipeline, "pt", guidance), atol=close, rtol=0)


def test_another_guidance_prompt_or_seed_fails_the_same_bound(tiny_sd: Path, pipeline: Any) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    theirs = by_diffusers(pipeline, "pt")
    swapped = Prompt(BOAT.id, BOAT.negative, BOAT.text)
    for prompt, seed, guidance in ((BOAT, 0, 7.0), (swapped, 0, 7.5), (BOAT, 1, 7.5)):
        made = direct.fn(backbone, prompt, CANVAS, Noise(seed, BOAT.id), steps=6, guidance=guidance)
        assert float((made - theirs).abs().max()) > 2 * sampled(backbone, 6, 7.5)


def test_a_loop_canvas_is_refused(tiny_sd: Path) -> None:
    with pytest.raises(UsageError, match="direct cannot make a loop"):
        direct.fn(from_pretrained(model=str(tiny_sd)), BOAT, Canvas(48, 16, loop=True), Noise(0, "a"))


def test_a_canvas_that_does_not_fill_cells_is_refused(tiny_sd: Path) -> None:
    with pytest.raises(UsageError, match="height must be a multiple of 4, got 18; nearest: 16 or 20"):
        direct.fn(from_pretrained(model=str(tiny_sd)), BOAT, Canvas(48, 18), Noise(0, "a"))
