"""LlamaGen's transformer against the tokens of PanoLlama's released code, and what its walk promises."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from methods.backbones import Conditioning
from methods.backbones.llamagen.gpt import GPT, GPTConfig, Walk, rotary_table
from methods.backbones.meter import Meter
from methods.direct_tokens import raster
from tests.support.close import rounding
from tests.support.panollama_golden import CASES, SIDE, golden, network

BOUND = 2e-5  # of logits: the released code rounds to float32 on the way


def panorama(blocks: torch.Tensor, kept: int) -> torch.Tensor:
    """(32, columns): the first block and what each later one adds on its right."""
    first, *later = blocks.view(-1, SIDE, SIDE)
    return torch.cat([first, *(block[:, kept:] for block in later)], 1)


class Replay:
    """A golden case on our walk, as released: token by token, retained tokens of the first row not fed again."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float64, kind: type[Walk] = Walk) -> None:
        entry, self.arrays = golden(name)
        self.settings, self.controls = entry["settings"], entry["negative_controls"]
        gpt = network(dtype)
        self.walk = kind(gpt, (SIDE, SIDE), self.settings["cfg_scale"], Meter())
        embeds = torch.stack([gpt.cls_embedding.uncond_embedding, self.arrays["cond"][0].to(dtype)])
        mask = self.arrays["emb_mask"].bool().expand(2, -1)
        self.told = Conditioning(embeds, {"mask": mask})
        self.decisions: list[torch.Tensor] = []
        self.kept = SIDE - self.settings["addit_cols"]  # columns that an extension retains

    def choose(self, logits: torch.Tensor, _: int = 0) -> torch.Tensor:
        self.decisions.append(logits[0])
        return logits.argmax(-1)

    def first(self, count: int = SIDE * SIDE) -> list[int]:
        return raster(self.walk, self.told, count, self.choose)[0].tolist()

    def retained(self, block: torch.Tensor) -> torch.Tensor:
        """The next block: what it keeps of the last one, -1 elsewhere."""
        fresh = torch.full((SIDE, SIDE), -1)
        fresh[:, : self.kept] = block.view(SIDE, SIDE)[:, SIDE - self.kept :]
        return fresh.flatten()

    def extend(self, block: torch.Tensor) -> torch.Tensor:
        fresh = self.retained(block)
        for i in range(self.kept, SIDE * SIDE):
            token = self.choose(self.walk.feed(fresh[i - 1 : i], [i - 1]))
            if fresh[i] < 0:
                fresh[i] = token[0]
        return fresh

    def run(self) -> torch.Tensor:
        """All blocks, (times + 1, 1024)."""
        with torch.no_grad():
            blocks = [torch.tensor(self.first())]
            for _ in range(self.settings["times"]):
                blocks.append(self.extend(blocks[-1]))
        return torch.stack(blocks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_tokens_and_logits_are_those_of_the_released_code(name: str, dtype: torch.dtype) -> None:
    replay = Replay(name, dtype)
    blocks = replay.run()
    assert torch.equal(blocks, replay.arrays["block_tokens"][:, 0].long())
    assert torch.equal(panorama(blocks, replay.kept), replay.arrays["pano_tokens"][0].long())
    ours = torch.stack([replay.decisions[i] for i in replay.arrays["logits_calls"].tolist()])
    assert float((ours - replay.arrays["logits"]).abs().max()) < BOUND


class IdentityText(Walk):
    """The natural mistake: text slots turned by nothing instead of by zero."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rotary[: self.text, :, 0] = 1


class NoDiagonal(Walk):
    """Nobody sees itself."""

    def mask(self, slots: torch.Tensor, end: int) -> torch.Tensor:
        return ((torch.arange(end) < slots[:, None]) & self.shown[:, None, :end])[:, None]


class BlindPadding(Walk):
    """Only padding does not see itself, so that its softmax has nothing to choose from."""

    def mask(self, slots: torch.Tensor, end: int) -> torch.Tensor:
        seen = torch.arange(end) <= slots[:, None]
        return (seen & self.shown[:, None, :end])[:, None]


class ShownPadding(Walk):
    """Padding that everybody sees."""

    def tell(self, conditioning: Conditioning) -> torch.Tensor:
        return super().tell(Conditioning(conditioning.embeds, {"mask": torch.ones(2, self.text)}))


class Swapped(Walk):
    """Guidance away from the prompt."""

    def tell(self, conditioning: Conditioning) -> torch.Tensor:
        return super().tell(Conditioning(conditioning.embeds.flip(0), conditioning.added))


class Transposed(Walk):
    """Rows and columns exchanged in the rotary table."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        half = self.rotary.shape[1] // 2
        self.rotary = self.rotary.roll(half, dims=1)


def test_text_that_is_turned_differs_in_as_many_tokens_as_in_the_released_code() -> None:
    replay = Replay("panollama_h_c8", kind=IdentityText)
    differing = int((panorama(replay.run(), replay.kept) != replay.arrays["pano_tokens"][0]).sum())
    mistake = "identity rotation for the text slots (number of differing tokens)"
    assert differing == pytest.approx(replay.controls[mistake], rel=0.05)  # exact where sums round as they did there


@pytest.mark.parametrize("kind", [NoDiagonal, ShownPadding, Swapped, Transposed])
@pytest.mark.parametrize("name", CASES)
def test_a_natural_mistake_gives_other_tokens(name: str, kind: type[Walk]) -> None:
    count = 3 * SIDE
    right, wrong = Replay(name), Replay(name, kind=kind)
    with torch.no_grad():
        known = right.arrays["block_tokens"][0, 0, :count].tolist()
        assert right.first(count) == known
        assert sum(a != b for a, b in zip(wrong.first(count), known)) > 5


def test_padding_that_sees_itself_is_filled_like_the_released_code_does() -> None:
    # Nobody else looks there, so tokens cannot show it as long as a softmax over nothing gives no NaN.
    right, wrong = Replay(CASES[0]), Replay(CASES[0], kind=BlindPadding)
    with torch.no_grad():
        for replay in (right, wrong):
            replay.walk.tell(replay.told)
    padding = right.walk.cache.values[-1][:, :, :4]
    assert bool(padding.isfinite().all())
    assert not torch.equal(padding, wrong.walk.cache.values[-1][:, :, :4])


@cache
def small() -> GPT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPTConfig(dim=16, n_layer=2, n_head=2, vocab_size=24, block_size=16, cls_token_num=5, caption_dim=6,
                           multiple_of=16)  # fmt: skip
        return GPT(config).double().eval().requires_grad_(False)


def told(seed: int = 0, padding: int = 2) -> Conditioning:
    rows = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Conditioning(rows, {"mask": (torch.arange(5) >= padding).expand(2, -1)})


def walk(grid: tuple[int, int] = (3, 5), guidance: float = 3.0) -> Walk:
    return Walk(small(), grid, guidance, Meter())


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether logits agree that are computed in float64 and handed over in float32."""
    return bool(torch.allclose(a, b, atol=rounding(float(b.abs().max()), 1), rtol=0))


def test_one_call_equals_a_forward_pass_written_out_by_hand() -> None:
    """No cache, no walk: attention over the whole sequence with an additive mask, complex rotations, plain matrices."""
    gpt, tokens, text = small(), torch.arange(7), 5
    said, c = told(), small().config
    w = {k: v.double() for k, v in gpt.state_dict().items()}
    freqs = 10000.0 ** -(torch.arange(0, c.head_dim // 2, 2).double() / (c.head_dim // 2))
    turns = torch.stack([
        torch.polar(torch.ones(4).double(), torch.cat([(i // 5) * freqs, (i % 5) * freqs])) for i in range(7)
    ])  # fmt: skip
    turns = torch.cat([torch.zeros(text, c.head_dim // 2, dtype=turns.dtype), turns])
    n = text + 7
    order = torch.arange(n)
    hidden = (order[None] > order[:, None]) | ((order[None] < 2) & (order[None] != order[:, None]))
    penalty = torch.zeros(n, n).double().masked_fill(hidden, -torch.inf)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[name]

    out = []
    for row in said.embeds:
        h = torch.nn.functional.gelu(row @ w["cls_embedding.cap_proj.fc1.weight"].T, approximate="tanh")
        x = torch.cat([h @ w["cls_embedding.cap_proj.fc2.weight"].T, w["tok_embeddings.weight"][tokens]])
        for i in range(c.n_layer):
            p = f"layers.{i}."
            q, k, v = (norm(x, p + "attention_norm.weight") @ w[p + "attention.wqkv.weight"].T).split(c.dim, dim=-1)
            mixed = []
            for head in range(c.n_head):
                part = slice(head * c.head_dim, (head + 1) * c.head_dim)
                tq, tk = (
                    torch.view_as_real(torch.view_as_complex(z[:, part].reshape(n, -1, 2)) * turns).flatten(1)
                    for z in (q, k)
                )
                mixed.append((tq @ tk.T / c.head_dim**0.5 + penalty).softmax(-1) @ v[:, part])
            x = x + torch.cat(mixed, -1) @ w[p + "attention.wo.weight"].T
            y = norm(x, p + "ffn_norm.weight")
            w1, w2, w3 = (w[f"{p}feed_forward.w{j}.weight"].T for j in (1, 2, 3))
            x = x + ((y @ w1) * (y @ w1).sigmoid() * (y @ w3)) @ w2
        out.append(norm(x, "norm.weight")[-1] @ w["output.weight"].T)
    expected = out[0] + 3.0 * (out[1] - out[0])
    ours = walk()
    ours.tell(said)
    assert close(ours.feed(tokens, range(7)).double(), expected)
    assert not close(ours.feed(tokens.flip(0), range(7)).double(), expected)


def test_guidance_is_u_plus_g_times_c_minus_u_and_one_costs_half() -> None:
    said = told()
    both = Conditioning(said.embeds[[0, 0]], said.added)
    runs = {}
    for name, g, text in (("u", 1.0, both), ("c", 1.0, said), ("guided", 4.0, said)):
        runs[name] = walk(guidance=g)
        runs[name + "-logits"] = (runs[name].tell(text), runs[name].feed([3, 4], [0, 1]))[1]
    u, c = runs["u-logits"], runs["c-logits"]
    assert close(runs["guided-logits"], u + 4.0 * (c - u))
    assert not close(runs["guided-logits"], c + 4.0 * (u - c))
    assert (runs["c"].meter.nfe, runs["guided"].meter.nfe) == (2, 4)


def test_writing_an_entry_again_is_seen_later_and_never_earlier() -> None:
    a, b = walk(), walk()
    a.tell(told())
    b.tell(told())
    a.feed([1, 2, 3, 4, 5, 6], range(6))
    b.feed([1, 2, 9], range(3))
    again = a.feed([9], [2])  # entries 3..5 of a are stale and lie behind
    assert close(again, b.feed([9], [2]))
    assert close(a.feed([7], [3]), b.feed([7], [3]))
    assert not close(a.feed([8], [3]), b.feed([7], [3]))


def test_another_prompt_keeps_the_tokens_and_a_reset_forgets_them() -> None:
    a = walk()
    a.tell(told())
    before = a.feed([1, 2, 3], range(3))
    entries = torch.stack(a.cache.values)[:, :, :, a.text : a.text + 3]
    a.tell(told(seed=1))
    assert torch.equal(torch.stack(a.cache.values)[:, :, :, a.text : a.text + 3], entries)
    after = a.feed([3], [2])
    assert not close(after, before)
    a.reset()
    assert not any(layer.any() for layer in a.cache.keys)
    a.tell(told())
    assert close(a.feed([1, 2, 3], range(3)), before)


def test_a_step_over_a_gap_is_refused() -> None:
    a = walk()
    with pytest.raises(UsageError, match="was never told the prompt"):
        a.feed([1], [0])
    a = walk()
    a.tell(told())
    a.feed([1, 2], range(2))
    with pytest.raises(UsageError, match="stands at position 4 and was never told position 2"):
        a.feed([1], [4])
    with pytest.raises(UsageError, match="positions must be 0 to 14, got up to 15"):
        a.feed([1], [15])
    with pytest.raises(UsageError, match="a position for each token, got 2 and 1"):
        a.feed([1, 2], [2])


def test_the_rotary_table_turns_half_of_a_head_by_row_and_half_by_column() -> None:
    c = small().config
    table = rotary_table(c, (3, 7))
    assert table.shape == (5 + 21, 4, 2)
    assert float(table[:5].abs().max()) == 0
    row, column = 2, 6
    at = table[5 + row * 7 + column]
    angles = torch.tensor([row, row / 100, column, column / 100], dtype=torch.float32)
    torch.testing.assert_close(at, torch.stack([angles.cos(), angles.sin()], -1))


def test_a_larger_grid_keeps_the_angles_of_the_native_square() -> None:
    c = GPTConfig()
    square, wide = (rotary_table(c, grid)[c.cls_token_num :] for grid in ((32, 32), (32, 80)))
    assert torch.equal(square.view(32, 32, -1), wide.view(32, 80, -1)[:, :32])
