"""Prodigy (Mishchenko and Defazio, ICML 2024, arXiv:2306.06101): Adam that finds its own step size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Prodigy(torch.optim.Optimizer):
    """Adam whose rate is multiplied by d, a growing estimate of the distance D from the start to the solution.

    The paper's Algorithm 4 with decoupled weight decay. With x_0 the start, x_k now, g the gradient, gamma the rate:

        r <- sqrt(b2) r + gamma d^2 <g, x_0 - x_k>
        s <- sqrt(b2) s + gamma d^2 g
        d <- max(d, r / |s|_1)
        m <- b1 m + (1 - b1) d g,   v <- b2 v + (1 - b2) d^2 g^2
        x <- x - gamma d (m / (sqrt(v) + d eps) + decay x)

    where m, v and the step take the d from before it is renewed. The factor 1 - sqrt(b2), which the paper has before
    the new terms of r and s, cancels. Two additions of the authors' package (prodigyopt 1.1.2), both on as Scale-DiT
    has them: Adam's correction of the bias multiplies gamma, and s is summed without gamma, so that a rate that warms
    up does not make d too large (``safeguard_warmup``).

    Args:
        parameters: all that one d is estimated from: a second group would have one of its own.
        lr: gamma; 1, and a schedule of it.
        betas: b1, b2.
        weight_decay: decay.
        d: the first estimate; small, it grows.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        d: float = 1e-6,
    ) -> None:
        start = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "d": d, "r": 0.0, "k": 0}
        super().__init__(parameters, start)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            self._step(group)

    def _step(self, group: dict[str, Any]) -> None:
        (b1, b2), d, eps = group["betas"], group["d"], 1e-8
        k = group["k"] + 1
        unbiased = (1 - b2**k) ** 0.5 / (1 - b1**k)
        rate = group["lr"] * unbiased * d
        moving = [p for p in group["params"] if p.grad is not None]
        inner, length = 0.0, 0.0
        for p in moving:
            state = self.state[p]
            if not state:
                state["first"] = p.detach().clone()
                state |= {name: torch.zeros_like(p) for name in ("s", "m", "v")}
            inner += float((p.grad * (state["first"] - p)).sum())
            state["m"].mul_(b1).add_(p.grad, alpha=(1 - b1) * d)
            state["v"].mul_(b2).addcmul_(p.grad, p.grad, value=(1 - b2) * d * d)
            state["s"].mul_(b2**0.5).add_(p.grad, alpha=d * d)
            length += float(state["s"].abs().sum())
        if not length:  # no gradient yet
            return
        group["r"] = b2**0.5 * group["r"] + rate * d * inner
        group["d"], group["k"] = max(d, group["r"] / length), k
        for p in moving:
            state = self.state[p]
            p.mul_(1 - rate * group["weight_decay"])
            p.addcdiv_(state["m"], state["v"].sqrt().add_(group["d"] * eps), value=-rate)
