"""Large maps of tokens are decoded in pieces that fade into each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.types import Parts
from methods.shared.tokens import decoded
from tests.support.close import rounding


class Blurred:
    """Squares of 4 x 4 tokens of 11 codes, a pixel each, averaged over 5 x 5 neighbours as by a decoder of that reach.

    ``tone`` adds so much of each map's mean.
    """

    side, factor, device, dtype = 4, 1, torch.device("cpu"), torch.float64

    def __init__(self, tone: float = 0.0) -> None:
        self.tone = tone
        self.sizes: list[int] = []

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tokens.numel())
        plain = tokens.double()[None] / 11
        padded = torch.nn.functional.pad(plain[None], (2, 2, 2, 2), mode="replicate")
        smooth = torch.nn.functional.avg_pool2d(padded, 5, 1)[0]
        return (smooth + self.tone * plain.mean()).expand(3, -1, -1)


@pytest.mark.parametrize("size", [(4, 90), (90, 4), (40, 40), (5, 200)])
def test_pieces_give_the_picture_of_one_pass_in_bounded_memory(size: tuple[int, int]) -> None:
    backbone: Any = Blurred()
    tokens = torch.randint(0, 11, size, generator=torch.Generator().manual_seed(0))
    whole = decoded(backbone, tokens, 0)
    assert backbone.sizes == [size[0] * size[1]]
    backbone.sizes.clear()
    pieces = decoded(backbone, tokens, 10)
    assert len(backbone.sizes) > 1
    assert max(backbone.sizes) <= 10 * 4 * 4
    torch.testing.assert_close(pieces, whole, rtol=0, atol=rounding(1, 4 * 25, "float64"))
    backbone.sizes.clear()
    assert torch.equal(decoded(backbone, tokens[:4, :40], 10), decoded(backbone, tokens[:4, :40], 0))
    assert len(backbone.sizes) == 2  # what fits is one pass


def test_pieces_of_a_large_picture_are_handed_on_and_add_up_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone: Any = Blurred()
    tokens = torch.randint(0, 11, (4, 90), generator=torch.Generator().manual_seed(0))
    whole = decoded(backbone, tokens, 10)
    monkeypatch.setattr("bench.types.WHOLE", 4 * 90 - 1)
    backbone.sizes.clear()
    parts = decoded(backbone, tokens, 10)
    assert (type(parts), backbone.sizes) == (Parts, [])
    y, x, first = next(iter(parts))
    assert (y, x, len(backbone.sizes)) == (0, 0, 1)
    assert torch.equal(decoded(backbone, tokens, 10).whole(), whole)
    assert torch.equal(first[:, :, :20], whole[:, :, :20])


def test_pieces_of_other_tones_fade_into_each_other() -> None:
    backbone: Any = Blurred(tone=1.0)
    plain: Any = Blurred()
    tokens = torch.zeros(4, 90, dtype=torch.long)
    tokens[:, 45:] = 10
    steps = decoded(backbone, tokens, 10).diff(dim=-1).abs()
    tones = decoded(plain, tokens, 10).diff(dim=-1).abs()
    assert float(tones[0, 0].max()) > 0.15  # the picture's own edge, a fifth of 10 / 11
    elsewhere = steps[0, 0][tones[0, 0] < 1e-9]
    assert float(elsewhere.max()) == pytest.approx(10 / 22 / 4)  # means of 0, 5 / 11 and 10 / 11, each step over a side
