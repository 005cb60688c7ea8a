"""Schedulers by a checkpoint's own config: as it says, or DDIM whatever it says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near

if TYPE_CHECKING:
    from methods.backbones import Scheduler

SAMPLERS = ("checkpoint", "ddim")


def make_scheduler(
    config: Mapping[str, Any], steps: int, sampler: str = "checkpoint", double: bool = False
) -> Scheduler:
    """A fresh scheduler with ``steps`` timesteps.

    Args:
        config: a scheduler_config.json.
        sampler: ``checkpoint``, the class the config names; ``ddim``, DDIM (eta 0) with the config's noise schedule.
        double: keep the tables in float64. Euler samplers round to float32 in every step all the same.

    Raises:
        UsageError: unknown sampler, or a number of steps outside 1 to ``num_train_timesteps``.
    """
    from methods.backbones.components import part_class

    if sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}; {near(sampler, SAMPLERS)}")
    most = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= most:
        raise UsageError(f"steps must be 1 to {most}, got {steps}")
    cls = part_class("DDIMScheduler" if sampler == "ddim" else config["_class_name"])
    known = inspect.signature(cls.__init__).parameters  # a config written for another class has more, without meaning
    made = cls.from_config({k: v for k, v in config.items() if k in known})
    if double:  # or the arithmetic is float32 at heart
        for name in ("alphas_cumprod", "final_alpha_cumprod"):
            if hasattr(made, name):
                setattr(made, name, getattr(made, name).double())
    made.set_timesteps(steps)
    result: Scheduler = made
    return result
