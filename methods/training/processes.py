"""Several processes that train one network, as ``accelerate launch`` starts them, one a GPU.

Each draws examples of its own; gradients are averaged, so that all take the same step from the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Processes:
    """This process among those of a training; one by itself needs nothing of accelerate.

    Attributes:
        number: how many there are.
        index: which of them this is; the first writes files and reports.
    """

    def __init__(self) -> None:
        self.number, self.index = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState(cpu=not torch.cuda.is_available())
            self.number, self.index = self.state.num_processes, self.state.process_index

    def average(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Put the mean of all processes' gradients in the place of each one's own; returns the mean of their losses.

        A parameter that had no gradient in any process has none afterwards.
        """
        if self.number == 1:
            return loss
        from accelerate.utils import reduce

        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = [0.0 if p.grad is None else 1.0 for p in parameters]
        flat = torch.cat([*(g.flatten().float() for g in own), own[0].new_tensor([*there, loss]).float()])
        mean: Tensor = reduce(flat, "mean")
        gradients, some, losses = torch.split(mean, [mean.numel() - len(own) - 1, len(own), 1])
        parts = torch.split(gradients, [p.numel() for p in parameters])
        for p, part, anywhere in zip(parameters, parts, some.tolist(), strict=True):
            p.grad = part.view_as(p).to(p.dtype) if anywhere else None
        return float(losses)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.number > 1:
            self.state.wait_for_everyone()


def own_device(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a backbone, with ``device=cuda`` as this process's own GPU where there are several."""
    local = os.environ.get("LOCAL_RANK")
    return {**options, "device": f"cuda:{local}"} if local and options.get("device") == "cuda" else options
