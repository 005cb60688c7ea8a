"""LlamaGen's text-conditional transformer, and the walk that puts tokens into its key-value cache.

Sun et al., "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation", 2024, arXiv:2406.06525,
section 3.2; parameter names are those of the released checkpoints. Written from the architecture's facts (code MIT) and
checked token for token, on small random weights, against the copy that PanoLlama's released code runs; the released
weights were not at hand, and nothing here has run on a GPU.

A sequence is ``cls_token_num`` text slots, then one slot per grid cell in raster order. What must not be tidied up:

* the rotary table is zero, cosine included, for the text slots: their queries and keys vanish, so every image token
  gives all visible text the same score and reads it through the values only. The weights were trained that way, and
  an identity rotation there gives other tokens;
* padding slots of the prompt are hidden from everybody but themselves;
* normalisation, rotation and logits are computed in float32 whatever the weights' type (also at float64).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import UsageError

if TYPE_CHECKING:
    from methods.backbones.meter import Meter
    from methods.backbones.protocols import Conditioning


@dataclass(frozen=True)
class GPTConfig:
    """Sizes, under the names of the released code; the defaults are the 512 px text-to-image model, GPT-XL (775M)."""

    dim: int = 1280
    n_layer: int = 36
    n_head: int = 20
    vocab_size: int = 16384
    block_size: int = 1024  # tokens of the native square
    cls_token_num: int = 120  # text slots
    caption_dim: int = 2048  # width of the text features
    multiple_of: int = 256
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_head

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward layers: two thirds of 4 dim, rounded up to ``multiple_of``."""
        return -(-(8 * self.dim // 3) // self.multiple_of) * self.multiple_of


class RMSNorm(nn.Module):
    """x / rms(x), scaled; the quotient in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.weight


class CaptionEmbedder(nn.Module):
    """Text features (rows, slots, caption_dim) to the transformer's width; holds the learned empty prompt."""

    uncond_embedding: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.cap_proj = nn.ModuleDict({
            "fc1": nn.Linear(config.caption_dim, config.dim, bias=False),
            "fc2": nn.Linear(config.dim, config.dim, bias=False),
        })  # fmt: skip
        self.register_buffer("uncond_embedding", torch.zeros(config.cls_token_num, config.caption_dim))

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](features), approximate="tanh"))
        return out


class Attention(nn.Module):
    """Self-attention over the cache."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, rotary: Tensor, slots: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (rows, n, dim) at ``slots`` (n); mask (rows, 1, n, end); keys and values (rows, heads, slots, head_dim)."""
        q, k, v = self.wqkv(x).view(*x.shape[:2], 3, self.heads, -1).unbind(2)
        keys[:, :, slots] = rotate(k, rotary).transpose(1, 2)
        values[:, :, slots] = v.transpose(1, 2)
        end = mask.shape[-1]  # what lies beyond is not seen by anyone here
        out = F.scaled_dot_product_attention(
            rotate(q, rotary).transpose(1, 2), keys[:, :, :end], values[:, :, :end], attn_mask=mask
        )
        mixed: Tensor = self.wo(out.transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w3 = nn.Linear(config.dim, config.hidden, bias=False)
        self.w2 = nn.Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """One pre-normalised layer."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, rotary: Tensor, slots: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, slots, mask, keys, values)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


def _call(layer: nn.Module, *inputs: Tensor) -> Tensor:
    out: Tensor = layer(*inputs)
    return out


class GPT(nn.Module):
    """The transformer. Embed with ``cls_embedding`` or ``tok_embeddings``, then call with slots and a cache."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = CaptionEmbedder(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(
        self, x: Tensor, rotary: Tensor, slots: Tensor, mask: Tensor, cache: KVCache,
        through: Callable[..., Tensor] = _call,
    ) -> Tensor:  # fmt: skip
        """Logits (rows, n, vocab_size), float32, of embeddings (rows, n, dim) put into the cache at ``slots`` (n).

        Args:
            rotary: the slots' rows of :func:`rotary_table`, (n, head_dim / 2, 2).
            mask: (rows, 1, n, end), true where a query may look; ``end`` is past the last slot in use.
            through: what calls a layer, ``through(layer, *inputs)``.
        """
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            x = through(layer, x, rotary, slots, mask, keys, values)
        logits: Tensor = self.output(self.norm(x))
        return logits.float()


class KVCache:
    """Keys and values of all slots, (layers, rows, heads, slots, head_dim) each."""

    def __init__(self, gpt: GPT, rows: int, slots: int) -> None:
        c, like = gpt.config, gpt.output.weight
        self.keys = like.new_zeros(c.n_layer, rows, c.n_head, slots, c.head_dim)
        self.values = torch.zeros_like(self.keys)

    def reset(self) -> None:
        """Forget everything."""
        self.keys.zero_()
        self.values.zero_()


def rotary_table(config: GPTConfig, grid: tuple[int, int]) -> Tensor:
    """Cosines and sines (text slots + h * w, head_dim / 2, 2), float32, zero for the text slots.

    Half of each head turns with the row, half with the column. PROPOSAL: for a ``grid`` other than the native square
    the same frequencies simply run on; the released model knows its square only.
    """
    height, width = grid
    half = config.head_dim // 2
    speeds = 1.0 / config.rope_base ** (torch.arange(0, half, 2, dtype=torch.float32) / half)
    rows, columns = (torch.outer(torch.arange(n, dtype=torch.float32), speeds) for n in (height, width))
    angles = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    angles = angles.flatten(0, 1)
    image = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([image.new_zeros(config.cls_token_num, *image.shape[1:]), image])


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (rows, n, heads, head_dim) by the table's rows (n, head_dim / 2, 2)."""
    a, b = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = rotary[:, None].unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).type_as(x)


class Walk:
    """One picture in the making: see :class:`methods.backbones.TokenWalk`."""

    def __init__(self, gpt: GPT, grid: tuple[int, int], guidance: float, meter: Meter) -> None:
        self.gpt, self.guidance, self.meter = gpt, guidance, meter
        self.text = gpt.config.cls_token_num
        self.rows = 1 if guidance == 1.0 else 2  # [uncond | cond]
        self.device = gpt.output.weight.device
        slots = self.text + grid[0] * grid[1]
        self.rotary = rotary_table(gpt.config, grid).to(self.device)
        self.cache = KVCache(gpt, self.rows, slots)
        self.shown = torch.ones(self.rows, slots, dtype=torch.bool, device=self.device)
        self.fed = bytearray(slots)
        # A forecast runs one layer once for every shape, and all of them too: there are as many shapes as positions.
        self.network = meter.remember(partial(gpt, through=meter.remember(_call)))

    def reset(self) -> None:
        self.cache.reset()
        self.fed = bytearray(len(self.fed))

    def tell(self, conditioning: Conditioning) -> Tensor:
        features, mask = conditioning.embeds[-self.rows :], conditioning.added["mask"][-self.rows :]
        self.shown[:, : self.text] = mask.to(self.device, torch.bool)
        return self._push(self.gpt.cls_embedding(features), range(self.text))

    def feed(self, tokens: Tensor | Sequence[int], positions: Sequence[int]) -> Tensor:
        if not 0 < len(tokens) == len(positions):
            raise UsageError(f"a walk takes a position for each token, got {len(tokens)} and {len(positions)}")
        embedded = self.gpt.tok_embeddings(torch.as_tensor(tokens, device=self.device))
        return self._push(embedded.expand(self.rows, -1, -1), [self.text + p for p in positions])

    def _push(self, x: Tensor, slots: Sequence[int]) -> Tensor:
        end = max(slots) + 1
        if min(slots) < 0 or end > len(self.fed):
            raise UsageError(f"positions must be 0 to {len(self.fed) - self.text - 1}, got up to {end - 1 - self.text}")
        for slot in slots:
            self.fed[slot] = 1
        gap = self.fed.find(0, 0, end)  # an empty slot would be read as a key of zeros
        if gap >= 0:
            what = "the prompt" if gap < self.text else f"position {gap - self.text}"
            raise UsageError(f"the walk stands at position {end - 1 - self.text} and was never told {what}")
        where = torch.tensor(slots, device=self.device)
        logits: Tensor = self.network(x, self.rotary[where], where, self.mask(where, end), self.cache)[:, -1]
        self.meter.count(self.rows)
        uncond, cond = logits[0], logits[-1]
        return cond if self.rows == 1 else uncond + self.guidance * (cond - uncond)

    def mask(self, slots: Tensor, end: int) -> Tensor:
        """(rows, 1, n, end): every slot sees itself and what is shown before it."""
        keys = torch.arange(end, device=self.device)
        here = slots[:, None]
        return ((keys < here) & self.shown[:, None, :end] | (keys == here))[:, None]
