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

Several pictures walk together as (pictures, rows, ...), rows being those of guidance. Each has matrix products of its
own (:class:`Linear`), as a product over all of them rounds otherwise by their number, and a token may hang on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

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


class Linear(nn.Linear):
    """A matrix product; where x is (pictures, rows, n, in), one for each picture, rounded as if it were alone."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 4 or len(x) == 1:
            return super().forward(x)
        made = torch.bmm(x.flatten(1, 2), self.weight.t().expand(len(x), -1, -1))
        return made.view(*x.shape[:-1], -1)


class CaptionEmbedder(nn.Module):
    """Text features (..., slots, caption_dim) to the transformer's width; holds the learned empty prompt."""

    uncond_embedding: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.cap_proj = nn.ModuleDict({
            "fc1": Linear(config.caption_dim, config.dim),
            "fc2": Linear(config.dim, config.dim),
        })  # fmt: skip
        self.register_buffer("uncond_embedding", torch.zeros(config.cls_token_num, config.caption_dim))

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.cap_proj["fc2"](F.gelu(self.cap_proj["fc1"](features), approximate="tanh"))
        return out


class Attention(nn.Module):
    """Self-attention over the cache."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.n_head, config.head_dim
        self.wqkv = Linear(config.dim, 3 * config.dim)
        self.wo = Linear(config.dim, config.dim)

    def forward(self, x: Tensor, rotary: Tensor, slots: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (..., n, dim) at ``slots`` (n); mask (rows, 1, n, end); keys and values (rows, heads, slots, head_dim).

        ``rows`` here are all that stands before n.
        """
        q, k, v = self.wqkv(x).flatten(0, -3).view(len(mask), -1, 3, self.heads, self.head_dim).unbind(2)
        keys[:, :, slots] = rotate(k, rotary).transpose(1, 2)
        values[:, :, slots] = v.transpose(1, 2)
        end = mask.shape[-1]  # what lies beyond is not seen by anyone here
        out = F.scaled_dot_product_attention(
            rotate(q, rotary).transpose(1, 2), keys[:, :, :end], values[:, :, :end], attn_mask=mask
        )
        mixed: Tensor = self.wo(out.transpose(1, 2).reshape(x.shape))
        return mixed


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.hidden)
        self.w3 = Linear(config.dim, config.hidden)
        self.w2 = Linear(config.hidden, config.dim)

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
        self.output = Linear(config.dim, config.vocab_size)

    def forward(
        self, x: Tensor, rotary: Tensor, slots: Tensor, mask: Tensor, cache: KVCache,
        through: Callable[..., Tensor] = _call,
    ) -> Tensor:  # fmt: skip
        """Logits (..., n, vocab_size), float32, of embeddings (..., n, dim) put into the cache at ``slots`` (n).

        Args:
            rotary: the slots' rows of :func:`rotary_table`, (n, head_dim / 2, 2).
            mask: (rows, 1, n, end), true where a query may look; ``end`` is past the last slot in use. ``rows`` are
                all that stands before n: rows of guidance, or those of several pictures.
            through: what calls a layer, ``through(layer, *inputs)``.
        """
        for layer, keys, values in zip(self.layers, cache.keys, cache.values):
            x = through(layer, x, rotary, slots, mask, keys, values)
        logits: Tensor = self.output(self.norm(x))
        return logits.float()


class KVCache:
    """Keys and values of all slots, (rows, heads, slots, head_dim) for every layer."""

    def __init__(self, gpt: GPT, rows: int, slots: int) -> None:
        c, like = gpt.config, gpt.output.weight
        self.keys, self.values = (
            [like.new_zeros(rows, c.n_head, slots, c.head_dim) for _ in range(c.n_layer)] for _ in range(2)
        )

    def reset(self) -> None:
        """Forget everything."""
        for layer in (*self.keys, *self.values):
            layer.zero_()


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


def visible(slots: Tensor, keys: Tensor, shown: Tensor) -> Tensor:
    """(rows, 1, n, end): every slot of ``slots`` (n) sees itself and, of ``keys`` (end), what is shown before it."""
    here = slots[:, None]
    return ((keys < here) & shown[:, None, : len(keys)] | (keys == here))[:, None]


def step(
    gpt: GPT, tokens: Tensor, slots: Tensor, places: Tensor, shown: Tensor, rotary: Tensor, cache: KVCache
) -> Tensor:
    """Logits (pictures, rows, vocab_size) after one token (pictures, 1) each at ``slots`` (1): all shapes are fixed.

    Attention goes over the whole cache under its mask, so one compiled function serves every position.
    """
    x = gpt.tok_embeddings(tokens)[:, None].expand(-1, len(shown) // len(tokens), -1, -1)
    logits: Tensor = gpt(x, rotary[slots], slots, visible(slots, places, shown), cache)[:, :, -1]
    return logits


class Walk:
    """Pictures in the making: see :class:`methods.backbones.TokenWalk`.

    Args:
        gpt: the transformer.
        grid: (height, width) in tokens.
        guidance: of the logits.
        meter: counts rows that go through the network.
        pictures: how many walk together.
    """

    def __init__(self, gpt: GPT, grid: tuple[int, int], guidance: float, meter: Meter, pictures: int = 1) -> None:
        self.gpt, self.guidance, self.meter, self.pictures = gpt, guidance, meter, pictures
        self.step: Callable[..., Tensor] | None = None  # compiled, for calls of one token
        self.text = gpt.config.cls_token_num
        self.rows = 1 if guidance == 1.0 else 2  # [uncond | cond]
        self.device = gpt.output.weight.device
        slots = self.text + grid[0] * grid[1]
        self.rotary = rotary_table(gpt.config, grid).to(self.device)
        self.cache = KVCache(gpt, pictures * self.rows, slots)
        self.shown = torch.ones(pictures * self.rows, slots, dtype=torch.bool, device=self.device)
        self.places = torch.arange(slots, device=self.device)  # slots as the device knows them: none is copied there
        self.fed = bytearray(slots)
        # A forecast runs one layer once for every shape, and all of them too: there are as many shapes as positions.
        self.network = meter.remember(partial(gpt, through=meter.remember(_call)))

    def compiled(self, **how: Any) -> Walk:
        """Itself, with :func:`step` compiled; ``how`` goes to torch.compile, by default what captures a CUDA graph."""
        for tensor in (*self.cache.keys, *self.cache.values, self.shown, self.places, self.rotary):
            torch._dynamo.mark_static_address(tensor)  # a graph reads and writes them where they are, uncopied
        self.step = torch.compile(step, fullgraph=True, dynamic=False, **(how or {"mode": "reduce-overhead"}))
        return self

    def reset(self) -> None:
        self.cache.reset()
        self.fed = bytearray(len(self.fed))

    def tell(self, conditioning: Conditioning) -> Tensor:
        features, mask = (self._told(t) for t in (conditioning.embeds, conditioning.added["mask"]))
        self.shown[:, : self.text] = mask.flatten(0, 1).to(self.device, torch.bool)
        return self._push(self.gpt.cls_embedding(features), range(self.text))

    def _told(self, rows: Tensor) -> Tensor:
        """[uncond m | cond m] as (pictures, rows, ...); one prompt serves all pictures."""
        m = len(rows) // 2
        if m not in (1, self.pictures):
            raise UsageError(f"a walk of {self.pictures} pictures takes 1 or {self.pictures} prompts, got {m}")
        sides = rows.reshape(2, m, *rows.shape[1:])[-self.rows :]
        return sides.transpose(0, 1).expand(self.pictures, *[-1] * rows.dim())

    def feed(self, tokens: Tensor | Sequence[int], positions: Sequence[int]) -> Tensor:
        given = torch.as_tensor(tokens, device=self.device).expand(self.pictures, -1)
        if not 0 < given.shape[1] == len(positions):
            raise UsageError(f"a walk takes a position for each token, got {given.shape[1]} and {len(positions)}")
        slots = range(positions[0] + self.text, positions[-1] + self.text + 1)
        if len(slots) != len(positions):
            raise UsageError(f"positions of one call must follow each other, got {list(positions)}")
        if self.step is not None and len(slots) == 1:
            self._note(slots)
            at, one = self.places[slots.start : slots.stop], given.clone(memory_format=torch.contiguous_format)
            return self._guided(self.step(self.gpt, one, at, self.places, self.shown, self.rotary, self.cache))
        return self._push(self.gpt.tok_embeddings(given)[:, None].expand(-1, self.rows, -1, -1), slots)

    def _push(self, x: Tensor, slots: range) -> Tensor:
        self._note(slots)
        at = self.places[slots.start : slots.stop]
        rotary = self.rotary[slots.start : slots.stop]
        return self._guided(self.network(x, rotary, at, self.mask(at, slots.stop), self.cache)[:, :, -1])

    def _note(self, slots: range) -> None:
        """Refuse slots that are not there, or that follow one which was never told."""
        if slots.start < 0 or slots.stop > len(self.fed):
            raise UsageError(
                f"positions must be 0 to {len(self.fed) - self.text - 1}, got up to {slots.stop - 1 - self.text}"
            )
        self.fed[slots.start : slots.stop] = b"\1" * len(slots)
        gap = self.fed.find(0, 0, slots.stop)  # an empty slot would be read as a key of zeros
        if gap >= 0:
            what = "the prompt" if gap < self.text else f"position {gap - self.text}"
            raise UsageError(f"the walk stands at position {slots.stop - 1 - self.text} and was never told {what}")

    def _guided(self, logits: Tensor) -> Tensor:
        self.meter.count(self.rows * self.pictures)
        uncond, cond = logits[:, 0], logits[:, -1]
        return cond if self.rows == 1 else uncond + self.guidance * (cond - uncond)

    def mask(self, slots: Tensor, end: int) -> Tensor:
        """(rows, 1, n, end): every slot sees itself and what is shown before it."""
        return visible(slots, self.places[:end], self.shown)
