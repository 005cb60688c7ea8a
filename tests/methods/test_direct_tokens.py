"""Plain token generation: the control of the token methods, its sampling, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import Method
from bench.types import Canvas, Prompt
from methods.backbones.llamagen.backbone import LlamaGen, llamagen
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from methods.direct_tokens import direct_tokens, raster
from methods.shared.tokens import Sampler, draws, token_grid
from tests.support.close import products, rounding

BOAT = Prompt("boat", "a boat")
SQUARE = Canvas(8, 8)  # 4 x 4 tokens of 2 px
WIDE = Canvas(20, 8)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return llamagen(model=str(write_tiny_llamagen(tmp_path_factory.mktemp("llamagen"))))


def made(
    backbone: LlamaGen, canvas: Canvas = SQUARE, prompt: Prompt = BOAT, seed: int = 0, **knobs: Any
) -> torch.Tensor:
    picture: torch.Tensor = direct_tokens.fn(backbone, prompt, canvas, Noise(seed, prompt.id), **knobs)
    return picture


def by_hand(backbone: LlamaGen, size: tuple[int, int], guidance: float = 7.5, top_k: int = 1000) -> torch.Tensor:
    """The same picture without cache: every token from one pass over all tokens before it."""
    numbers, tokens = draws(Noise(0, BOAT.id), size).flatten(), []
    with torch.no_grad():
        told = backbone.condition(BOAT.text)
        for i in range(size[0] * size[1]):
            walk = backbone.walk(size, guidance)
            logits = walk.tell(told)
            if i:
                logits = walk.feed(tokens, range(i))
            chances = logits[0].double().numpy()
            chances[chances < np.sort(chances)[-min(top_k, 64)]] = -np.inf
            chances = np.exp(chances - chances.max())
            tokens.append(int(np.argmax(np.cumsum(chances) > numbers[i] * chances.sum())))
        return backbone.decode(torch.tensor(tokens).view(size))


@pytest.mark.parametrize("canvas", [SQUARE, WIDE])
def test_pictures_equal_a_pass_without_cache(backbone: LlamaGen, canvas: Canvas) -> None:
    size = token_grid(backbone, canvas)
    ours = made(backbone, canvas)
    assert ours.shape == (3, canvas.height, canvas.width)
    assert 0 <= float(ours.min()) <= float(ours.max()) <= 1
    close = rounding(1, products(backbone.vq))  # of the decoder: tokens are the same or others
    torch.testing.assert_close(ours, by_hand(backbone, size), atol=close, rtol=0)
    torch.testing.assert_close(made(backbone, canvas, top_k=3), by_hand(backbone, size, top_k=3), atol=close, rtol=0)
    assert float((ours - by_hand(backbone, size, guidance=1.0)).abs().max()) > 1e-3


def test_prompt_negative_seed_and_knobs_all_matter(backbone: LlamaGen) -> None:
    plain = made(backbone)
    assert torch.equal(plain, made(backbone))
    others = [
        made(backbone, seed=1), made(backbone, prompt=Prompt("ship", BOAT.text)), made(backbone, guidance=3.0),
        made(backbone, prompt=Prompt(BOAT.id, "the sea")), made(backbone, prompt=Prompt(BOAT.id, BOAT.text, "fog")),
        made(backbone, top_k=1), made(backbone, top_p=0.1), made(backbone, temperature=0.0),
    ]  # fmt: skip
    assert all(float((plain - other).abs().max()) > 1e-3 for other in others)


def test_global_generators_are_left_alone_and_decide_nothing(backbone: LlamaGen) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = made(backbone)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(made(backbone), first)


@pytest.mark.parametrize(("guidance", "rows"), [(7.5, 2), (1.0, 1)])
def test_every_token_costs_one_call_on_each_row(backbone: LlamaGen, guidance: float, rows: int) -> None:
    backbone.meter.reset()
    made(backbone, WIDE, guidance=guidance)
    cost = backbone.meter.cost()
    assert cost.nfe == 40 * rows
    assert set(cost.seconds) == {"text", "denoise", "decode"}


def test_greedy_tokens_are_the_likeliest_and_need_no_numbers(backbone: LlamaGen) -> None:
    with torch.no_grad():
        told, walk = backbone.condition(BOAT.text), backbone.walk((4, 4), 7.5)
        tokens = raster(walk, told, 16, lambda logits, i: logits.argmax(-1))
        picture = backbone.decode(tokens.view(4, 4))
    for seed in (0, 1):
        assert torch.equal(made(backbone, seed=seed, temperature=0.0), picture)
    assert torch.equal(made(backbone, top_k=1), picture)
    assert not torch.equal(made(backbone), picture)


def test_a_wider_canvas_starts_with_the_same_numbers() -> None:
    noise = Noise(0, "a")
    assert np.array_equal(draws(noise, (4, 4)), draws(noise, (4, 10))[:, :4])
    assert not np.array_equal(draws(noise, (4, 4)), draws(Noise(1, "a"), (4, 4)))
    assert not np.array_equal(draws(noise, (4, 4)), draws(noise, (5, 4))[:4])


def filtered(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> list[float]:
    """Probabilities after the released filters, token by token."""
    scores = [float(x) / temperature for x in logits]
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    if top_k:
        least = scores[ranked[min(top_k, len(ranked)) - 1]]
        ranked = [i for i in ranked if scores[i] >= least]
    total, kept, sofar = sum(np.exp(scores[i]) for i in ranked), [], 0.0
    for i in ranked:
        if sofar > top_p:
            break
        kept.append(i)
        sofar += np.exp(scores[i]) / total
    mass = sum(np.exp(scores[i]) for i in kept)
    return [np.exp(s) / mass if i in kept else 0.0 for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (1.0, 3, 1.0), (0.7, 0, 0.6), (2.0, 5, 0.5), (1.0, 99, 1.0)]
)
def test_tokens_come_up_as_often_as_their_probabilities_say(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.3, 1.1, -0.5, 0.3, 1.9])
    pick = Sampler(temperature, top_k, top_p)
    n = 4000
    counts = np.bincount(pick(logits.expand(n, -1), (torch.arange(n) + 0.5) / n), minlength=8) / n
    np.testing.assert_allclose(counts, filtered(logits, temperature, top_k, top_p), atol=1 / n)
    assert np.abs(counts - filtered(logits, 3 * temperature, top_k, top_p)).max() > 0.01
    assert Sampler(0.0, top_k, top_p)(logits, 0.99) == 2


def test_logits_that_are_not_finite_are_a_failure_and_no_token() -> None:
    for bad in (torch.nan, torch.inf):
        pick = Sampler(1.0, 0, 1.0)
        pick(torch.tensor([[0.0, 1.0]]), 0.5)
        pick.check()
        assert 0 <= int(pick(torch.tensor([0.0, bad]), 0.5)) <= 1  # whatever follows from it is thrown away
        pick(torch.tensor([[0.0, 1.0]]), 0.5)
        with pytest.raises(FloatingPointError, match="not finite"):
            pick.check()


def test_ties_with_the_last_of_the_top_k_stay() -> None:
    pick = Sampler(1.0, 2, 1.0)
    assert {int(pick(torch.tensor([1.0, 0.0, 1.0, 1.0]), u)) for u in (0.1, 0.5, 0.9)} == {0, 2, 3}


@pytest.mark.parametrize("knobs", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_knobs_out_of_range_are_refused_before_anything_runs(backbone: LlamaGen, knobs: Any) -> None:
    backbone.meter.reset()
    with pytest.raises(UsageError, match="sampling takes temperature >= 0"):
        made(backbone, **knobs)
    assert backbone.meter.nfe == 0


def test_loops_and_canvases_of_partial_tokens_are_refused(backbone: LlamaGen) -> None:
    with pytest.raises(UsageError, match="direct-tokens cannot make a loop"):
        made(backbone, Canvas(8, 8, loop=True))
    with pytest.raises(UsageError, match="multiples of 2, got 9x8"):
        made(backbone, Canvas(9, 8))


def test_the_method_and_the_backbone_are_registered_in_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'direct-tokens = "methods.direct_tokens:direct_tokens"' in text
    assert 'llamagen = "methods.backbones.llamagen.backbone:llamagen"' in text
    assert isinstance(direct_tokens, Method)
    assert (direct_tokens.family, llamagen.family) == ("tokens", "tokens")
    assert direct_tokens.resolve({}) == {"guidance": 7.5, "top_k": 1000, "top_p": 1.0, "temperature": 1.0}
