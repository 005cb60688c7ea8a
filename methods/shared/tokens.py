"""What token samplers share: a canvas as a grid of tokens, a token drawn by a keyed number, large maps decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import isqrt

import numpy as np

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Parts
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
    Temperature 0 takes the likeliest token. On the meta device, where there are no numbers, the token is 0.

    Raises:
        UsageError: values out of range. The function raises ``FloatingPointError`` on logits that are not finite.
    """
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise UsageError(
            f"sampling takes temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k}, {top_p}"
        )

    def pick(logits: Tensor, u: float) -> int:
        import torch

        if logits.device.type == "meta":  # shapes without numbers: whatever token comes, it costs the same
            return 0
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


LEAST = 9  # squares a piece: three sides each way, one of them beyond the piece's borders at each end


def check_pieces(squares: int) -> None:
    """Refuse pieces that hold nothing but their surroundings."""
    if squares and squares < LEAST:
        raise UsageError(
            f"decode takes 0 (the whole map in one pass) or at least {LEAST} native squares, got {squares}"
        )


def decoded(backbone: TokensBackbone, tokens: Tensor, squares: int) -> Tensor | Parts:
    """Picture (3, h * factor, w * factor) in [0, 1] of tokens (h, w), in bounded memory: a large one as parts.

    One pass where the map is at most ``squares`` native squares, or ``squares`` is 0. Else the decoder sees pieces of
    no more than that, each with a side of the native square beyond its borders: half of it is only looked at, over the
    rest pieces fade into each other. PROPOSAL: a decoder with normalisation and attention over the whole map, as VQ-16,
    gives each piece slightly other tones, which a hard border would show.
    """
    import torch

    check_pieces(squares)
    (h, w), side, f = tokens.shape, backbone.side, backbone.factor
    most = squares * side**2
    if not squares or h * w <= most:
        return backbone.decode(tokens)
    wide = min(w, max(most // h, isqrt(most)))
    tall = min(h, most // wide)
    rows, columns = _cuts(h, tall, side), _cuts(w, wide, side)
    like = torch.zeros((), dtype=backbone.dtype, device=backbone.device)

    @torch.no_grad()
    def pieces() -> Iterator[tuple[int, int, Tensor]]:
        for y, down in zip(rows, _shares(rows, side, f, like)):
            for x, along in zip(columns, _shares(columns, side, f, like)):
                high, across = (slice(max(0, a - side), b + side) for a, b in (y, x))
                there = (slice(high.start * f, high.stop * f), slice(across.start * f, across.stop * f))
                share = down[there[0], None] * along[there[1]]
                yield there[0].start, there[1].start, backbone.decode(tokens[high, across]) * share

    picture: Tensor | Parts = Parts(h * f, w * f, pieces()).settled()
    return picture


def _cuts(length: int, most: int, side: int) -> list[tuple[int, int]]:
    """(first, past the last) of even pieces, of at most ``most`` with a side more at each end; one where all fits."""
    count = 1 if length <= most else -(-length // (most - 2 * side))
    borders = [i * length // count for i in range(count + 1)]
    return list(pairwise(borders))


def _shares(cuts: Sequence[tuple[int, int]], side: int, f: int, like: Tensor) -> list[Tensor]:
    """How much each piece counts at every pixel of an axis: 1 inside, a ramp over a side around borders; 1 in all."""
    import torch

    length = cuts[-1][1] * f
    at = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    begun = [((at - start * f) / (side * f) + 0.5).clamp(0, 1) for start, _ in cuts[1:]]
    ramps = [torch.ones_like(at), *begun, torch.zeros_like(at)]
    return [now - later for now, later in pairwise(ramps)]
