"""Low-rank pairs that are trained."""

from __future__ import annotations

import torch
from torch import nn

from methods.shared import lora


class Pairs(nn.Module):
    """The low-rank pairs of some layers, trainable.

    Args:
        shapes: the layers.
        rank, alpha: their factor is alpha / rank.
    """

    def __init__(self, shapes: lora.Shapes, rank: int, alpha: float) -> None:
        super().__init__()
        seeded = torch.Generator().manual_seed(torch.initial_seed())  # whatever loading has drawn
        made = lora.fresh(shapes, rank, lambda shape: torch.randn(shape, generator=seeded))
        self.names, self.factor = list(made), alpha / rank
        self.a = nn.ParameterList([pair.a for pair in made.values()])
        self.b = nn.ParameterList([pair.b for pair in made.values()])

    def adapter(self) -> dict[str, lora.Lora]:
        """By the names of their layers, as the networks of :mod:`methods.shared` take them."""
        return {name: lora.Lora(a, b, self.factor) for name, a, b in zip(self.names, self.a, self.b, strict=True)}

    def wear(self, adapter: lora.Adapter) -> None:
        """Take the pairs of an adapter, of whatever rank, in place of these."""
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            pair = adapter[name]
            a.data, b.data = pair.a.to(a), pair.b.to(b) * (pair.scale / self.factor)
