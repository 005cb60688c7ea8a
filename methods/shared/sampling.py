"""What samplers share beyond windows: schedules and what they allow, noise put back, the size that a view is told."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

from bench.errors import UsageError
from bench.noise import Noise
from methods.backbones import Conditioning, LatentBackbone, Scheduler, Tensor
from methods.backbones.schedules import make_scheduler

# Schedulers whose step is a function of sample, prediction and timestep alone, the same for every cell.
MEMORYLESS = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
NOISABLE = ("DDIMScheduler", "EulerDiscreteScheduler")


def memoryless(scheduler: Scheduler, method: str) -> None:
    """Refuse a scheduler that remembers earlier steps: where windows move, its memories are of other cells."""
    name = type(scheduler).__name__
    if name not in MEMORYLESS:
        raise UsageError(
            f"{method} moves its windows between steps, and {name} remembers earlier steps of each window: use a "
            f"backbone that samples by DDIM or Euler (Stable Diffusion and SDXL: sampler=ddim)"
        )


def keyed(scheduler: Any, noise: Noise) -> Any:
    """The scheduler; what its steps draw comes from the streams ``step-0``, ``step-1``, ... of the picture.

    For samplers that step the whole canvas at once. Windows would get numbers of their own, which averaging takes away.
    """
    count = itertools.count()
    if hasattr(scheduler, "numbers"):
        scheduler.numbers = lambda shape: noise.normal(f"step-{next(count)}", shape)
    return scheduler


def undrawn(scheduler: Scheduler, method: str) -> None:
    """Refuse a scheduler that draws, before any work: a copy of it takes its first steps on one number."""
    import torch

    from methods.backbones.drawing import DrawsError  # imports torch, and plans need identities only

    if not hasattr(scheduler, "numbers"):  # a caller's own
        return
    trial, one = copy.deepcopy(scheduler), torch.ones(1, 1, 1, 1)
    try:
        for t in trial.timesteps[:3]:  # solvers of second order may draw in the second only
            trial.step(trial.scale_model_input(one, t), t, one)
    except DrawsError as refusal:
        raise UsageError(
            f"{method} averages windows, and noise that each draws for itself would average away: {refusal}"
        ) from None


def noisable(scheduler: Scheduler, method: str) -> None:
    """Refuse a scheduler that :func:`noised` does not know."""
    name = type(scheduler).__name__
    if name not in NOISABLE:
        raise UsageError(
            f"{method} noises pictures again and steps several times from one timestep: it needs Euler or DDIM on a "
            f"schedule of betas, this backbone's scheduler is {name}: use Stable Diffusion or SDXL"
        )


def noised(scheduler: Any, x: Tensor, noise: Tensor, i: int) -> Tensor:
    """Clean latents at the noise level of step i, as ``scheduler.add_noise``, which the meta device cannot do."""
    if hasattr(scheduler, "sigmas"):
        return x + noise * float(scheduler.sigmas[i])
    kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[i])])
    mixed: Tensor = x * kept**0.5 + noise * (1 - kept) ** 0.5
    return mixed


def reschedule(backbone: LatentBackbone, method: str, cls: str, steps: int, **changes: Any) -> Any:
    """A fresh diffusers scheduler of class ``cls`` on the noise schedule the backbone was trained with.

    Args:
        backbone, method: whose schedule, and who asks (for errors).
        cls: ``DDIMScheduler``, ``LCMScheduler``, ...
        steps: number of timesteps.
        changes: entries of the scheduler's config to replace.

    Raises:
        UsageError: a flow-matching network, which has no such schedule, or a number of steps out of range.
    """
    config = dict(getattr(backbone.scheduler(1), "config", {}))
    if "beta_schedule" not in config:
        raise UsageError(
            f"{method} samples by {cls}, which needs a network trained on a schedule of betas; {backbone.name} is "
            f"trained otherwise (flow matching): use a Stable Diffusion or SDXL backbone"
        )
    return make_scheduler({**config, **changes, "_class_name": cls}, steps, double=backbone.precision == "fp64")


def sized(
    conditioning: Conditioning, corners: Sequence[tuple[int, int]], size: tuple[int, int], f: int
) -> Conditioning:
    """The conditioning with SDXL's size entries: (H, W, top, left, H, W) in px for every view; others have none."""
    import torch

    if "text_embeds" not in conditioning.added:
        return conditioning
    high, wide = size[0] * f, size[1] * f
    rows = [[high, wide, y * f, x * f, high, wide] for y, x in corners]
    ids = torch.tensor(rows, dtype=conditioning.embeds.dtype, device=conditioning.embeds.device)
    return Conditioning(conditioning.embeds, {**conditioning.added, "time_ids": torch.cat([ids, ids])})
