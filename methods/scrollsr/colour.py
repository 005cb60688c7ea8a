"""Colours of the enlarged frames put back onto what a network made of them, as FlashVSR's released code does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 5


def adain(made: Tensor, clip: Tensor) -> Tensor:
    """Mean and deviation of each frame and channel; frames (3, n, h, w) in [-1, 1], both."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(-2, -1), correction=0, keepdim=True)
        return mean, (variance + 1e-5).sqrt()

    (mean, std), (target, spread) = moments(made), moments(clip)
    return ((made - mean) / std * spread + target).clamp(-1, 1)


def wavelet(made: Tensor, clip: Tensor) -> Tensor:
    """All but what ``LEVELS`` blurs after each other leave, which is the clip's; in the released code, unused."""
    return (made - blurred(made) + blurred(clip)).clamp(-1, 1)


def blurred(frames: Tensor) -> Tensor:
    """Binomial 3 x 3 blurs, 1, 2, 4, ... pixels apart."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=frames.dtype, device=frames.device) / 4
    x = frames.flatten(0, 1)[:, None]
    for level in range(LEVELS):
        step = 2**level
        x = F.conv2d(F.pad(x, (step,) * 4, mode="replicate"), torch.outer(line, line)[None, None], dilation=step)
    return x[:, 0].view(frames.shape)


def none(made: Tensor, clip: Tensor) -> Tensor:
    """As they were made, within [-1, 1]."""
    return made.clamp(-1, 1)


FIXES = {"adain": adain, "wavelet": wavelet, "none": none}
