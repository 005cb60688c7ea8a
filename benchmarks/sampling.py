"""Our MultiDiffusion against diffusers' StableDiffusionPanoramaPipeline: one checkpoint, one noise, one picture.

Both encode the prompt, denoise windows of 64x64 cells at a stride of 8 by DDIM in float32, and decode. Loading is left
out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.noise import Noise
from bench.types import Canvas, Prompt
from benchmarks import checkpoint
from benchmarks.timing import Count, Report, Settings, clocked, counted, ratio, rounds

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 5
TOLERANCE = 1e-3  # between the sides, in latents and in values of the picture; another noise differs by about 1
PROMPT = Prompt("sea", "a calm sea at dawn, oil painting")


@dataclass(frozen=True)
class Task:
    """What both sides draw."""

    canvas: Canvas
    steps: int
    guidance: float = 7.5
    seed: int = 0

    @property
    def noise(self) -> Noise:
        """The streams that the initial canvas is drawn from."""
        return Noise(self.seed, PROMPT.id)


@dataclass(frozen=True)
class Drawn:
    """A picture (3, h, w) in [0, 1], the latents (1, 4, h / 8, w / 8) it was decoded from, and what went through
    the U-Net."""

    picture: Tensor
    latents: Tensor
    count: Count


@dataclass(frozen=True)
class Sampler:
    """One side, its network loaded: ``draw(task)`` makes a picture (3, h, w) in [0, 1]; ``vae`` is its decoder."""

    draw: Callable[[Task], Tensor]
    vae: Any


def ours(folder: Path, device: str = "cpu", **options: Any) -> Sampler:
    """The public method on the public backbone; ``options`` are the backbone's (``batch``)."""
    from methods.backbones.stable_diffusion import from_pretrained
    from methods.multidiffusion import multidiffusion

    backbone = from_pretrained(model=str(folder), device=device, **options)

    def draw(task: Task) -> Tensor:
        knobs = {"steps": task.steps, "guidance": task.guidance}
        made: Tensor = multidiffusion.fn(backbone, PROMPT, task.canvas, task.noise, **knobs)
        return made

    return Sampler(draw, backbone.vae)


def theirs(folder: Path, device: str = "cpu") -> Sampler:
    """diffusers' pipeline, its view_batch_size (windows a call) of 1."""
    from diffusers import StableDiffusionPanoramaPipeline
    from diffusers.utils import logging

    from methods.backbones.identity import quiet

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it is deprecated and says so
    logging.disable_progress_bar()
    with quiet():
        pipe = StableDiffusionPanoramaPipeline.from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False
        )
    logging.set_verbosity(before)
    logging.enable_progress_bar()
    pipe.to(device).set_progress_bar_config(disable=True)

    def draw(task: Task) -> Tensor:
        canvas = task.canvas
        cells = (1, pipe.unet.config.in_channels, canvas.height // 8, canvas.width // 8)
        made: Tensor = pipe(
            PROMPT.text, height=canvas.height, width=canvas.width, num_inference_steps=task.steps,
            guidance_scale=task.guidance, latents=task.noise.normal("canvas", cells).to(device), output_type="pt",
        ).images[0]  # fmt: skip
        return made

    return Sampler(draw, pipe.vae)


def watched(sampler: Sampler, task: Task) -> Drawn:
    """Draw once, not timed: the picture, its latents, and what went through the U-Net."""
    import torch
    from diffusers import UNet2DConditionModel

    seen: list[Tensor] = []
    hook = sampler.vae.post_quant_conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with warnings.catch_warnings(), counted(UNet2DConditionModel) as count:
            warnings.simplefilter("ignore")
            picture = sampler.draw(task)
    finally:
        hook.remove()
    latents = torch.cat(seen) * sampler.vae.config.scaling_factor
    return Drawn(picture.float().cpu(), latents.float().cpu(), count)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ."""
    return float((a - b).abs().max()) if a.shape == b.shape else float("inf")


def faults(name: str, a: Drawn, b: Drawn) -> list[str]:
    """In what two sides differ that should do the same work."""
    found = []
    if a.count.samples != b.count.samples:
        found.append(f"{name}: {a.count.samples} network samples against {b.count.samples}")
    for what, off in (("latents", gap(a.latents, b.latents)), ("picture", gap(a.picture, b.picture))):
        if not off <= TOLERANCE:
            found.append(f"{name}: the {what} differ by {off:.3g}, allowed is {TOLERANCE:g}")
    return found


def sampling(told: Settings) -> Report:
    """Seconds a picture of our method over those of diffusers' pipeline."""
    folder = checkpoint.write(told.work / "sd", told.size)
    task = Task(Canvas(576 if told.quick else 640, 512), steps=2)
    samplers = {
        "ours, 1 window a call": ours(folder, told.device, batch=1),
        "ours, default batch": ours(folder, told.device),
        "diffusers": theirs(folder, told.device),
    }
    drawn = {name: watched(sampler, task) for name, sampler in samplers.items()}
    reference = drawn["diffusers"]
    report = Report()
    report.facts |= {"canvas": str(task.canvas), "steps": task.steps, "checkpoint": told.size}
    for name, d in drawn.items():
        report.facts[f"network calls, samples: {name}"] = f"{d.count.calls}, {d.count.samples}"
        if d is not reference:
            report.faults += faults(name, d, reference)
            report.facts[f"samples / diffusers': {name}"] = d.count.samples / reference.count.samples
            report.facts[f"largest difference of latents, picture: {name}"] = (
                f"{gap(d.latents, reference.latents):.2g}, {gap(d.picture, reference.picture):.2g}"
            )
    other = watched(samplers["ours, default batch"], replace(task, seed=1))
    report.facts["another seed's latents differ by"] = gap(other.latents, reference.latents)
    if not faults("another seed", other, reference):
        report.faults.append("another seed gives the same picture: that the sides agree shows nothing")
    sides = {name: partial(clocked, partial(s.draw, task), told.device) for name, s in samplers.items()}
    times = rounds(sides, told.repeats or ROUNDS)
    report.ratios = [ratio(f"{n} / diffusers", times[n], times["diffusers"]) for n in samplers if n != "diffusers"]
    return report
