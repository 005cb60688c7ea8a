"""FlashVSR's transformer: Wan2.1 1.3B in one step, over a clip that goes past, with a window of keys kept behind it.

Zhuang et al., arXiv:2510.12747, over Wan2.1 (arXiv:2503.20314); tensor names are the released ones. Written from the
architecture's facts and checked against numbers of the released code on small random weights (its kernel replaced by
its definition); the released weights were not at hand.

Tokens of the clip are added to the latents' tokens before the first blocks. The time is 1000 in every call, so its
vectors, and keys and values of the text, are made once for a clip. Keys are kept after they were turned by their
positions. Positions are computed, not looked up: the released table ends at 1024 tokens (16,384 px).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.scrollsr.blocks import SIDE, from_blocks, to_blocks
from methods.shared.positions import grid, plain, rotary

TIME = 1000
SLOTS = 3  # kept of the past: the released kv_ratio
HEAD = 128  # channels of a head, in all released sizes

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Table = tuple[Tensor, Tensor]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Of the transformer, by Wan's names; the defaults are the released ones (1,418,996,800 parameters)."""

    dim: int = 1536
    in_dim: int = 16
    ffn_dim: int = 8960
    text_dim: int = 4096
    freq_dim: int = 256
    num_heads: int = 12
    num_layers: int = 30

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Sizes:
        """Those of a state. Raises ``KeyError`` on a missing tensor, ``ValueError`` on a width without whole heads."""
        dim, in_dim = state["patch_embedding.weight"].shape[:2]
        if dim % HEAD:
            raise ValueError(f"a width of {dim} is no whole number of heads of {HEAD}")
        return cls(
            dim, in_dim, state["blocks.0.ffn.0.weight"].shape[0], state["text_embedding.0.weight"].shape[1],
            state["time_embedding.0.weight"].shape[1], dim // HEAD, sum(name.endswith(".ffn.0.bias") for name in state),
        )  # fmt: skip


class Told(NamedTuple):
    """What every call of a clip is told: the time (dim), its six modulations (6, dim), text keys and values."""

    time: Tensor
    modulation: Tensor
    text: list[Pair]


class Norm(nn.Module):
    """x / rms(x) over all heads at once, in float32 whatever the type of x, times a weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype) * self.weight


class Heads(nn.Module):
    """The layers around an attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = Norm(dim), Norm(dim)

    def queries(self, x: Tensor) -> Tensor:
        """(tokens, heads, d)."""
        return self._split(self.norm_q(self.q(x)))

    def keys(self, x: Tensor) -> Pair:
        """Keys and values, (tokens, heads, d) each."""
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def out(self, seen: Tensor) -> Tensor:
        """(tokens, heads, d) to (tokens, dim)."""
        mixed: Tensor = self.o(seen.flatten(1))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call,no-any-return]


class Block(nn.Module):
    """Self-attention and a feed-forward network, modulated by the time; between them attention to the text."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.self_attn, self.cross_attn = (Heads(dim, sizes.num_heads) for _ in range(2))
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = nn.Sequential(nn.Linear(dim, sizes.ffn_dim), nn.GELU("tanh"), nn.Linear(sizes.ffn_dim, dim))
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(
        self, x: Tensor, told: Tensor, text: Pair, see: Callable[[Tensor, Pair], Tensor]
    ) -> Tensor:  # fmt: skip
        """x (tokens, dim); ``see`` is attention of turned queries to keys and values."""
        shift, scale, gate, shift2, scale2, gate2 = (self.modulation[0] + told).unbind()
        h = modulated(x, shift, scale)
        x = x + gate * self.self_attn.out(see(self.self_attn.queries(h), self.self_attn.keys(h)))
        q, k, v = (t.transpose(0, 1) for t in (self.cross_attn.queries(self.norm3(x)), *text))
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + self.cross_attn.out(seen.transpose(0, 1))
        out: Tensor = x + gate2 * self.ffn(modulated(x, shift2, scale2))
        return out


class Head(nn.Module):
    """The last layer, modulated by the time."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation[0] + time).unbind()
        out: Tensor = self.head(modulated(x, shift, scale))
        return out


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A plain layer norm, scaled and shifted."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Transformer(nn.Module):
    """The network: latents and tokens of the clip to a velocity."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, dim, patch = sizes, sizes.dim, (1, 2, 2)
        self.patch_embedding = nn.Conv3d(sizes.in_dim, dim, patch, stride=patch)
        self.text_embedding = nn.Sequential(nn.Linear(sizes.text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(sizes.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_layers))
        self.head = Head(dim, sizes.in_dim * 4)

    def tell(self, text: Tensor) -> Told:
        """What the calls of a clip share, from the prompt's embedding (tokens, text_dim)."""
        half = self.sizes.freq_dim // 2
        turns = TIME * torch.pow(10_000.0, -torch.arange(half, dtype=torch.float64, device=text.device) / half)
        time = self.time_embedding(torch.cat([turns.cos(), turns.sin()]).to(text.dtype))
        words = self.text_embedding(text)
        pairs = [block.cross_attn.keys(words) for block in self.blocks]  # type: ignore[union-attr,operator]
        return Told(time, self.time_projection(time).view(6, -1), pairs)

    def forward(
        self, latents: Tensor, tokens: Sequence[Tensor], first: int, told: Told, kept: list[Pair], attention: Attention,
        last: bool = False,
    ) -> Tensor:  # fmt: skip
        """The velocity, (c, frames, h, w) as the latents.

        Args:
            latents: h and w multiples of 16, frames even.
            tokens: (frames * h/2 * w/2, dim) of the clip, added before block 0, 1, ...
            first: position in time of the first latent frame.
            told: of the clip.
            kept: keys and values of each block in the slots before, none at the start; moved on.
            attention: over blocks of tokens, such as :class:`methods.scrollsr.blocks.Sparse`.
            last: nothing comes after this, so nothing is kept.
        """
        x = self.patch_embedding(latents[None])[0]
        size = tuple(x.shape[1:])
        x, table = x.flatten(1).T, positions(size, first, self.sizes.dim // self.sizes.num_heads, x.device)
        window = SLOTS * size[1] * size[2] // SIDE**2
        past, kept[:] = list(kept), []
        for i, block in enumerate(self.blocks):

            def see(q: Tensor, pair: Pair, i: int = i) -> Tensor:
                k, v = to_blocks(turned(pair[0], table), size), to_blocks(pair[1], size)
                if past:
                    k, v = torch.cat([past[i][0], k]), torch.cat([past[i][1], v])
                if not last:
                    kept.append((k[-window:].clone(), v[-window:].clone()))
                return from_blocks(attention(to_blocks(turned(q, table), size), k, v), size)

            x = x + tokens[i] if i < len(tokens) else x
            x = block(x, told.modulation, told.text[i], see)
        out = self.head(x, told.time).view(*size, 2, 2, -1)
        return out.permute(5, 0, 1, 3, 2, 4).reshape(latents.shape)  # type: ignore[no-any-return]


def positions(size: tuple[int, int, int], first: int, dim: int, device: torch.device) -> Table:
    """Wan's table for a grid of tokens whose first frame stands at ``first``: cosines and sines, (tokens, 1, dim)."""
    third = dim // 6 * 2
    axes = (dim - 2 * third, third, third)
    cos, sin = rotary(grid(size, (first, 0, 0), device=device), axes, [plain()] * 3)
    return cos[:, None], sin[:, None]


def turned(x: Tensor, table: Table) -> Tensor:
    """Queries or keys (tokens, heads, d), each pair of neighbouring channels turned by its angle."""
    cos, sin = table
    wide = x.to(torch.promote_types(x.dtype, cos.dtype))
    across = torch.stack([-wide[..., 1::2], wide[..., ::2]], dim=-1).flatten(-2)
    return (wide * cos + across * sin).to(x.dtype)
