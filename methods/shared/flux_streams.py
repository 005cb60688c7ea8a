"""FLUX's transformer on three groups of tokens: text, a picture, and a small clean picture beside it.

Scale-DiT (Zhang and Tai, arXiv:2510.16325). The small picture's tokens go through the image layers of every block as
the picture's do, with a modulation of their own (time 0, as they are clean, with the picture's guidance) and a low-rank
adapter on every layer that has one. The picture's tokens use the adapter in the projections to queries, keys and values
alone; the text, where it shares those (single blocks), there too. Without a small picture nothing is adapted, and this
is FluxTransformer2DModel: same layers, same order.

Usable with gradients, towards the adapter above all: nothing here switches them off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from methods.backbones import Tensor
from methods.shared.lora import Adapter, linear

# The layers of the released adapter: 343 of FLUX.1-dev.
ADAPTED = (
    r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|proj_mlp|attn\.to_[qkv]|proj_out)"
)
NORMS = r".*\.norm1?\.linear"  # a file may lack these
PROJECTIONS = ("attn.to_q", "attn.to_k", "attn.to_v")

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Inputs(NamedTuple):
    """What one call is told.

    Attributes:
        high: (n, tokens, channels), the picture's tokens, noisy.
        low: the small picture's, clean; None: there is none.
        text: (n, tokens, width) of T5.
        pooled: (n, width) of CLIP.
        time: (n) in [0, 1], of the noisy tokens.
        guidance: (n), the network's input.
    """

    high: Tensor
    low: Tensor | None
    text: Tensor
    pooled: Tensor
    time: Tensor
    guidance: Tensor


class _Stream(NamedTuple):
    """A group of tokens: its numbers (n, tokens, width), its modulation's input, and what of the adapter it uses."""

    x: Tensor
    emb: Tensor
    adapter: Adapter
    all_layers: bool

    def lora(self, name: str) -> Any:
        """The pair of a layer for this group, or None."""
        used = self.all_layers or name.endswith(PROJECTIONS)
        return self.adapter.get(name) if used else None


def predict(
    transformer: Any,
    inputs: Inputs,
    adapter: Adapter,
    table: tuple[Tensor, Tensor],
    attend: Attend,
    checkpoint: bool = False,
) -> Tensor:
    """The network's answer for the picture's tokens, (n, tokens, channels).

    Args:
        transformer: a FluxTransformer2DModel with a guidance input.
        adapter: pairs by layer; unused where there is no small picture.
        table: cosines and sines of all tokens, [text | high | low].
        attend: ``(q, k, v) -> out``, each (n, heads, tokens, d), over [text | high | low].
        checkpoint: compute blocks anew in the backward pass instead of keeping what is inside them.
    """
    from torch.nn.functional import silu
    from torch.utils.checkpoint import checkpoint as anew

    dtype, used = transformer.dtype, adapter if inputs.low is not None else {}
    when = inputs.time.to(dtype) * 1000
    guidance, pooled = inputs.guidance.to(dtype) * 1000, inputs.pooled.to(dtype)
    temb = transformer.time_text_embed(when, guidance, pooled)
    emb = silu(temb)
    streams = [
        _Stream(transformer.context_embedder(inputs.text.to(dtype)), emb, used, False),
        _Stream(transformer.x_embedder(inputs.high.to(dtype)), emb, used, False),
    ]
    if inputs.low is not None:
        clean = silu(transformer.time_text_embed(0 * when, guidance, pooled))
        embedded = linear(transformer.x_embedder, inputs.low.to(dtype), used.get("x_embedder"))
        streams.append(_Stream(embedded, clean, used, True))
    xs = tuple(s.x for s in streams)
    for kind, of in (("transformer_blocks", _double), ("single_transformer_blocks", _single)):
        for i, block in enumerate(getattr(transformer, kind)):

            def run(*now: Tensor, block: Any = block, name: str = f"{kind}.{i}.", of: Any = of) -> tuple[Tensor, ...]:
                states = [s._replace(x=x) for s, x in zip(streams, now, strict=True)]
                done: tuple[Tensor, ...] = of(block, name, states, table, attend)
                return done

            xs = anew(run, *xs, use_reentrant=False) if checkpoint else run(*xs)
    out: Tensor = transformer.proj_out(transformer.norm_out(xs[1], temb))
    return out


def _double(
    block: Any, name: str, streams: list[_Stream], table: tuple[Tensor, Tensor], attend: Attend
) -> tuple[Tensor, ...]:
    """A block with layers of its own for the text: attention to all groups, then a feed-forward network each."""
    attn, text = block.attn, streams[0]
    modulations, queries, keys, values = [], [], [], []
    for s in streams:
        norm = block.norm1_context if s is text else block.norm1
        emb = linear(norm.linear, s.emb, None if s is text else s.lora(name + "norm1.linear"))
        shift, scale, *rest = emb[:, None].chunk(6, dim=-1)
        x = norm.norm(s.x) * (1 + scale) + shift
        modulations.append(rest)
        if s is text:
            made = [attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)]
            norms = (attn.norm_added_q, attn.norm_added_k)
        else:
            made = _projected(attn, name, x, s)
            norms = (attn.norm_q, attn.norm_k)
        q, k, v = (m.unflatten(-1, (-1, attn.head_dim)) for m in made)
        queries.append(norms[0](q))
        keys.append(norms[1](k))
        values.append(v)
    done = []
    for s, seen, (gate, shift, scale, last) in zip(
        streams, _attended(queries, keys, values, table, attend), modulations, strict=True
    ):
        if s is text:
            x = s.x + gate * attn.to_add_out(seen)
            x = x + last * block.ff_context(block.norm2_context(x) * (1 + scale) + shift)
        else:
            x = s.x + gate * attn.to_out[1](linear(attn.to_out[0], seen, s.lora(name + "attn.to_out.0")))
            middle = block.ff.net[1](block.ff.net[0](block.norm2(x) * (1 + scale) + shift))
            x = x + last * linear(block.ff.net[2], middle, s.lora(name + "ff.net.2"))
        done.append(_within(x))
    return tuple(done)


def _single(
    block: Any, name: str, streams: list[_Stream], table: tuple[Tensor, Tensor], attend: Attend
) -> tuple[Tensor, ...]:
    """A block of one set of layers for all groups: attention beside a feed-forward layer, then one projection."""
    import torch

    attn = block.attn
    kept, queries, keys, values = [], [], [], []
    for s in streams:
        emb = linear(block.norm.linear, s.emb, s.lora(name + "norm.linear"))
        shift, scale, gate = emb[:, None].chunk(3, dim=-1)
        x = block.norm.norm(s.x) * (1 + scale) + shift
        kept.append((gate, block.act_mlp(linear(block.proj_mlp, x, s.lora(name + "proj_mlp")))))
        q, k, v = (m.unflatten(-1, (-1, attn.head_dim)) for m in _projected(attn, name, x, s))  # type: ignore[no-untyped-call]
        queries.append(attn.norm_q(q))
        keys.append(attn.norm_k(k))
        values.append(v)
    done = []
    for s, seen, (gate, beside) in zip(streams, _attended(queries, keys, values, table, attend), kept, strict=True):
        out = linear(block.proj_out, torch.cat([seen, beside], dim=-1), s.lora(name + "proj_out"))
        done.append(_within(s.x + gate * out))
    return tuple(done)


def _projected(attn: Any, name: str, x: Tensor, stream: _Stream) -> list[Tensor]:
    """Queries, keys and values of image tokens."""
    return [linear(getattr(attn, p.removeprefix("attn.")), x, stream.lora(name + p)) for p in PROJECTIONS]


def _attended(
    queries: list[Tensor], keys: list[Tensor], values: list[Tensor], table: tuple[Tensor, Tensor], attend: Attend
) -> tuple[Tensor, ...]:
    """What each group sees: (n, tokens, heads, d) in, (n, tokens, width) out."""
    import torch
    from diffusers.models.embeddings import apply_rotary_emb

    q, k = (apply_rotary_emb(torch.cat(of, dim=1), table, sequence_dim=1) for of in (queries, keys))
    seen = attend(*(t.transpose(1, 2) for t in (q, k, torch.cat(values, dim=1))))
    parts: tuple[Tensor, ...] = seen.transpose(1, 2).flatten(2).split([of.shape[1] for of in queries], dim=1)  # type: ignore[no-untyped-call]
    return parts


def _within(x: Tensor) -> Tensor:
    """Half precision ends at 65504, beyond which diffusers cuts text and single blocks off."""
    import torch

    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
