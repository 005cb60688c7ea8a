"""What token samplers share: the canvas as a grid of tokens, and one token drawn from logits by a keyed number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas
from methods.backbones import Tensor, TokensBackbone


def token_grid(backbone: TokensBackbone, canvas: Canvas) -> tuple[int, int]:
    """(height, width) of a canvas in tokens. Raises ``UsageError`` where pixels do not fill whole tokens."""
    f = backbone.factor
    if canvas.height % f or canvas.width % f:
        raise UsageError(
            f"{backbone.name} works in tokens of {f} px: the canvas sides must be multiples of {f}, got {canvas}"
        )
    return canvas.height // f, canvas.width // f


def draws(noise: Noise, grid: tuple[int, int]) -> np.ndarray:
    """One uniform number in [0, 1) for every cell, (height, width) float64: stream ``tokens`` of the noise.

    Drawn column after column, so a wider canvas of the same height starts with the same numbers.
    """
    height, width = grid
    return noise.generator("tokens").random((width, height)).T


def sampler(temperature: float, top_k: int, top_p: float) -> Callable[[Tensor, float], int]:
    """A function (logits (codes), u in [0, 1)) -> token.

    Temperature, then the ``top_k`` most likely tokens (ties with the last stay; 0 is all), then the fewest of those
    whose probabilities reach ``top_p``, as in the released LlamaGen; from what is left the inverse of the cumulative
    distribution in order of token number, in float64 on the CPU, so that one number decides and no generator is used.
    Temperature 0 takes the likeliest token.

    Raises:
        UsageError: values out of range. The function raises ``FloatingPointError`` on logits that are not finite.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise UsageError(
            f"sampling takes temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k}, {top_p}"
        )

    def pick(logits: Tensor, u: float) -> int:
        import torch

        scores = logits.detach().cpu().double()
        if not scores.isfinite().all():
            raise FloatingPointError("the network's logits are not finite: try another precision")
        if temperature == 0:
            return int(scores.argmax())
        scores = scores / temperature
        if 0 < top_k < len(scores):
            scores = scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)
        if top_p < 1:
            ordered, order = scores.sort(descending=True, stable=True)
            chances = ordered.softmax(0)
            beyond = chances.cumsum(0) - chances > top_p  # what comes before is enough already
            scores[order[beyond]] = -torch.inf
        heights = scores.softmax(0).cumsum(0)
        return int(torch.searchsorted(heights, u * heights[-1], right=True))

    return pick
