"""What samplers share that weigh their windows, or sample by a schedule that is not the backbone's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.errors import UsageError
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.backbones.schedules import make_scheduler
from methods.windows import Window

# Schedulers whose step is a function of sample, prediction and timestep alone, the same for every cell.
MEMORYLESS = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")


def add_up(views: Sequence[Tensor], windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """Sum of windows over every cell: views[i] is (c, height, width) of windows[i] -> (1, c, *size); 0 where none is.

    Windows may differ in size; they do not wrap.
    """
    total = views[0].new_zeros((1, views[0].shape[0], *size))
    for view, v in zip(views, windows, strict=True):
        total[0, :, v.y : v.y + v.height, v.x : v.x + v.width] += view
    return total


def memoryless(scheduler: Scheduler, method: str) -> None:
    """Refuse a scheduler that remembers earlier steps: where windows move, its memories are of other cells."""
    name = type(scheduler).__name__
    if name not in MEMORYLESS:
        raise UsageError(
            f"{method} moves its windows between steps, and {name} remembers earlier steps of each window: use a "
            f"backbone that samples by DDIM or Euler (Stable Diffusion and SDXL: sampler=ddim)"
        )


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
