"""Diffusion-DPO (Wallace et al., CVPR 2024, arXiv:2311.12908) and MultiDiffusion-DPO (DRSPO, section 3.3).

With m the error of the trained network on a picture at noise e and time t, r that of the reference on the same, w the
better picture of a pair and l the worse, noised alike:

    inside = -beta [(m_w - r_w) - (m_l - r_l)],    loss = -log sigmoid(inside)

T and the weight of the time are in beta. ``m`` is the *mean* of squares over the picture (released code; ``squared``),
so beta does not depend on its size, or the plain 2-norm that DRSPO prints (equation 9; ``norm``).

Two conventions of beta are in use: the authors' code multiplies by beta / 2 (``half``: 5000), diffusers' script for
Stable Diffusion by beta (``full``: 2500 is the same).

For the high stage the prediction is the one MultiDiffusion makes of the whole scroll: the mean over windows (equation
4; equation 19 prints the sum, which equation 18's 1/n contradicts). Overlap makes its variance smaller by a constant,
which the difference to the reference does not see (section 3.3.1). With one window it is Diffusion-DPO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from methods.shared.windows import Window, gather, merge

FORMS = ("squared", "norm")
CONVENTIONS = {"half": 0.5, "full": 1.0}

Predict = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""``predict(x, t, rows)``: the network on latents (n, c, h, w) at times (n); ``rows`` says whose text each has."""


def noised(x: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """The forward process on whole pictures (equation 12): latents (n, ...), noise, and alpha-bar (n)."""
    share = kept.view(-1, *[1] * (x.ndim - 1))
    return share.sqrt() * x + (1 - share).sqrt() * noise


def target(x: Tensor, noise: Tensor, kept: Tensor, kind: str) -> Tensor:
    """What a network of this ``prediction_type`` is to answer: the noise, the velocity or the picture."""
    if kind == "sample":
        return x
    if kind == "epsilon":
        return noise
    share = kept.view(-1, *[1] * (x.ndim - 1))
    return share.sqrt() * noise - (1 - share).sqrt() * x


def errors(predicted: Tensor, wanted: Tensor, form: str = "squared") -> Tensor:
    """Each sample's error (n), in float32 at least: times beta, half precision would be noise."""
    off = (predicted.to(torch.promote_types(predicted.dtype, torch.float32)) - wanted).flatten(1)
    return off.square().mean(1) if form == "squared" else off.norm(dim=1)


def inside(policy: Tensor, reference: Tensor, beta: float, convention: str = "half") -> Tensor:
    """The argument of the sigmoid for each pair (n), from errors (2n): n winners, then their losers."""
    winners, losers = (policy - reference).chunk(2)
    return -CONVENTIONS[convention] * beta * (winners - losers)


def preference_loss(margin: Tensor) -> Tensor:
    """The mean over pairs of -log sigmoid; log 2 where the trained network is the reference."""
    return -logsigmoid(margin).mean()


def accuracy(margin: Tensor) -> float:
    """Implicit accuracy: the share of pairs that the network ranks as their score does; a tie is half a pair."""
    margin = margin.detach()
    return float((margin > 0).double().mean() + (margin == 0).double().mean() / 2)


def on_windows(predict: Predict, x: Tensor, t: Tensor, windows: Sequence[Window], batch: int) -> list[Tensor]:
    """The network on the windows of each of n canvases: n tensors (windows, c, side, side)."""
    found = []
    for row in range(len(x)):
        cut = gather(x[row : row + 1], windows)
        parts = [predict(part, t[row].expand(len(part)), [row] * len(part)) for part in torch.split(cut, batch)]
        found.append(torch.cat(parts))
    return found


def aggregated(views: Sequence[Tensor], windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """Predictions on windows as those of whole canvases (n, c, *size): equation 4 with equal weights."""
    return torch.cat([merge(one, windows, size) for one in views])


def window_errors(views: Sequence[Tensor], wanted: Tensor, windows: Sequence[Window], form: str) -> Tensor:
    """The mean over windows of each window's own error (n): L2 of the paper's discussion."""
    return torch.stack([
        errors(one, gather(wanted[row : row + 1], windows), form).mean() for row, one in enumerate(views)
    ])  # fmt: skip
