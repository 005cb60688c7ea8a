"""What token samplers share: a canvas as a grid of tokens, tokens drawn by keyed numbers, large maps decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Parts
from methods.backbones import Conditioning, Tensor, TokensBackbone

if TYPE_CHECKING:
    import torch


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


def numbers(noises: Sequence[Noise], grid: tuple[int, int], device: torch.device) -> Tensor:
    """:func:`draws` of several pictures, (pictures, height, width) float64, where tokens are drawn."""
    import torch

    made = np.stack([draws(noise, grid) for noise in noises])
    return torch.from_numpy(made).to("cpu" if device.type == "mps" else device)


def conditions(backbone: TokensBackbone, picture: int, negative: str, texts: Sequence[str]) -> list[Conditioning]:
    """The texts of one of the pictures in the making, encoded one by one; the same object for the same text."""
    with backbone.meter.picture(picture):
        made = {text: backbone.condition(text, negative) for text in dict.fromkeys(texts)}
    return [made[text] for text in texts]


def joined(several: Sequence[Conditioning]) -> Conditioning:
    """A prompt for each picture as one conditioning, [uncond m | cond m]."""
    import torch

    def join(each: Sequence[Tensor]) -> Tensor:
        return torch.cat([half for side in (0, 1) for half in (t.chunk(2)[side] for t in each)])

    added = {k: join([c.added[k] for c in several]) for k in several[0].added}
    return Conditioning(join([c.embeds for c in several]), added)


SCALE = 2.0**48  # of probabilities as integers: sums of integers are the same in whatever order they are added


class Sampler:
    """Draws tokens: ``sampler(logits (..., codes), u (...) in [0, 1))`` -> tokens (...), on the device of the logits.

    Temperature, then the ``top_k`` most likely tokens (ties with the last stay; 0 is all), then the fewest of those
    whose probabilities reach ``top_p``, as in the released LlamaGen; from what is left the inverse of the cumulative
    distribution in order of token number, so that one number decides and no generator is used. Probabilities are
    float64 and add up as integers. Temperature 0 takes the likeliest token. Nothing waits for the device; on the meta
    device, where there are no numbers, tokens are 0.

    Raises:
        UsageError: values out of range.
    """

    def __init__(self, temperature: float, top_k: int, top_p: float) -> None:
        if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
            raise UsageError(
                f"sampling takes temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {temperature}, {top_k}, {top_p}"
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._finite: Tensor | None = None

    def __call__(self, logits: Tensor, u: Tensor | float) -> Tensor:
        import torch

        if logits.device.type == "meta":  # shapes without numbers: whatever token comes, it costs the same
            return torch.zeros(logits.shape[:-1], dtype=torch.long, device="meta")
        return self.draw(logits, u)

    def draw(self, logits: Tensor, u: Tensor | float) -> Tensor:
        """The tokens, on any device."""
        import torch

        place = logits.device
        scores = (logits.cpu() if place.type == "mps" else logits).double()  # mps has no float64
        fine = scores.isfinite().all()
        self._finite = fine if self._finite is None else self._finite & fine
        if self.temperature == 0:
            return scores.argmax(-1).to(place)
        scores = scores / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            scores = scores.masked_fill(scores < scores.topk(self.top_k).values[..., -1:], -torch.inf)
        if self.top_p < 1:
            ordered, order = scores.sort(descending=True, stable=True)
            chances = ordered.softmax(-1)
            beyond = chances.cumsum(-1) - chances > self.top_p  # what comes before is enough already
            scores = scores.masked_fill(beyond.gather(-1, order.argsort(-1)), -torch.inf)
        heights = (scores.softmax(-1) * SCALE).round().long().cumsum(-1)
        at = (torch.as_tensor(u, dtype=torch.float64, device=scores.device)[..., None] * heights[..., -1:]).long()
        found = torch.searchsorted(heights, at, right=True)[..., 0]
        return found.clamp(max=scores.shape[-1] - 1).to(place)

    def check(self) -> None:
        """Raise ``FloatingPointError`` if any logits were not finite: to ask is to wait, so ask when all is drawn."""
        if self._finite is not None and self._finite.device.type != "meta" and not self._finite:
            raise FloatingPointError("the network's logits are not finite: try another precision")


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
