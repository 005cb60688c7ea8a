"""Schedulers by a checkpoint's own config: as it says, or DDIM whatever it says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from methods.backbones.loading import part_class

if TYPE_CHECKING:
    from methods.backbones.protocols import Scheduler

SAMPLERS = ("checkpoint", "ddim")


def make_scheduler(
    config: Mapping[str, Any], steps: int, sampler: str = "checkpoint", double: bool = False, **timing: Any
) -> Scheduler:
    """A fresh scheduler with ``steps`` timesteps. Its steps refuse to draw (:mod:`methods.backbones.drawing`).

    Args:
        config: a scheduler_config.json.
        sampler: ``checkpoint``, the class the config names; ``ddim``, DDIM (eta 0) with the config's noise schedule.
        double: keep the tables in float64. Euler samplers round to float32 in every step all the same.
        timing: what else ``set_timesteps`` is told: ``sigmas``, ``mu``.

    Raises:
        UsageError: unknown sampler, or a number of steps outside 1 to ``num_train_timesteps``.
    """
    if sampler not in SAMPLERS:
        raise UsageError(f"unknown sampler {sampler!r}; {near(sampler, SAMPLERS)}")
    most = int(config.get("num_train_timesteps", 1000))
    if not 1 <= steps <= most:
        raise UsageError(f"steps must be 1 to {most}, got {steps}")
    cls = part_class("DDIMScheduler" if sampler == "ddim" else config["_class_name"])
    known = inspect.signature(cls.__init__).parameters  # a config written for another class has more, without meaning
    from methods.backbones.drawing import watched  # imports torch, and plans need identities only

    made = watched(cls).from_config({k: v for k, v in config.items() if k in known})
    if double:  # or the arithmetic is float32 at heart
        for name in ("alphas_cumprod", "final_alpha_cumprod"):
            if hasattr(made, name):
                setattr(made, name, getattr(made, name).double())
    made.set_timesteps(steps, **timing)
    if not hasattr(made, "scale_model_input"):  # flow matching: the network sees samples as they are
        made.scale_model_input, made.init_noise_sigma = lambda sample, timestep: sample, 1.0
    if steps > 1 and made.timesteps[0] == made.timesteps[1] and hasattr(made, "set_begin_index"):
        made.set_begin_index(0)  # searched for among equal timesteps, the first step would be taken for the second
    result: Scheduler = made
    return result


def dynamic_mu(config: Mapping[str, Any], tokens: int, max_shift: float) -> float:
    """The timestep shift of diffusers' flow-matching pipelines for so many image tokens: linear, and not clamped.

    Args:
        config: a scheduler_config.json, which may name the line's two points: ``base_shift`` at
            ``base_image_seq_len`` tokens, ``max_shift`` at ``max_image_seq_len``.
        tokens: what the network sees in one call.
        max_shift: the pipeline's own where the config names none.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    return float(base + (most - base) * (tokens - low) / (high - low))
