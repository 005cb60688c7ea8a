"""Counted operations of the full-size transformers against closed forms written out from their configurations.

T image tokens and L text tokens of width D. A layer from a to b costs 2 * tokens * a * b, attention between q and k
tokens 4 * q * k * D; what is computed once a picture (timesteps, pooled text, modulation) is a layer of one token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.pipeline.meta import counting
from methods.backbones.flux import flux_dev
from methods.backbones.pixart import pixart_sigma
from methods.backbones.sd3 import sd35_large, sd35_medium
from methods.backbones.wan import wan_large, wan_small
from tests.support.shallow import shallow


def layer(tokens: int, a: int, b: int) -> int:
    return 2 * tokens * a * b


def two_layers(tokens: int, a: int, middle: int, b: int) -> int:
    return layer(tokens, a, middle) + layer(tokens, middle, b)


def flux(c: Any, height: int, width: int) -> tuple[int, int]:
    """(layers, attention): 19 blocks with weights of their own for text and image, 38 with one set for both."""
    T, L, D = height * width // 4, 512, c.num_attention_heads * c.attention_head_dim
    once = 2 * two_layers(1, 256, D, D) + two_layers(1, c.pooled_projection_dim, D, D)  # time, guidance, pooled text
    ends = layer(T, c.in_channels, D) + layer(L, c.joint_attention_dim, D) + layer(1, D, 2 * D) + layer(T, D, 64)
    double = layer(T + L, D, 4 * D) + two_layers(T + L, D, 4 * D, D) + 2 * layer(1, D, 6 * D)
    single = layer(T + L, D, 3 * D) + layer(T + L, D, 4 * D) + layer(T + L, 5 * D, D) + layer(1, D, 3 * D)
    blocks = c.num_layers + c.num_single_layers
    return once + ends + c.num_layers * double + c.num_single_layers * single, blocks * 4 * (T + L) ** 2 * D


def sd3(c: Any, height: int, width: int) -> tuple[int, int]:
    """Text and image have weights of their own; some blocks attend to the image a second time; text ends early."""
    T, L, D = height * width // 4, 77 + 256, c.num_attention_heads * c.attention_head_dim
    twice = len(c.dual_attention_layers)
    once = two_layers(1, 256, D, D) + two_layers(1, c.pooled_projection_dim, D, D)
    ends = layer(T, 4 * c.in_channels, D) + layer(L, c.joint_attention_dim, D) + layer(1, D, 2 * D) + layer(T, D, 64)
    block = layer(T + L, D, 4 * D) + two_layers(T + L, D, 4 * D, D) + 2 * layer(1, D, 6 * D)
    second = layer(T, D, 4 * D) + layer(1, D, 3 * D)
    spared = layer(L, D, D) + two_layers(L, D, 4 * D, D) + layer(1, D, 4 * D)  # the last block lets the text go
    attention = c.num_layers * 4 * (T + L) ** 2 * D + twice * 4 * T**2 * D
    return once + ends + c.num_layers * block + twice * second - spared, attention


def pixart(c: Any, height: int, width: int) -> tuple[int, int]:
    """Self-attention, then attention to the text; one modulation for all blocks."""
    T, L, D = height * width // 4, 300, c.num_attention_heads * c.attention_head_dim
    ends = layer(T, 4 * c.in_channels, D) + two_layers(L, c.caption_channels, D, D) + layer(T, D, 4 * c.out_channels)
    once = two_layers(1, 256, D, D) + layer(1, D, 6 * D)
    block = layer(T, D, 4 * D) + layer(T, D, 2 * D) + layer(L, D, 2 * D) + two_layers(T, D, 4 * D, D)
    return once + ends + c.num_layers * block, c.num_layers * 4 * T * (T + L) * D


def wan(c: Any, height: int, width: int) -> tuple[int, int]:
    """As PixArt, with feed-forward layers of a width of their own. One latent frame."""
    T, L, D = height * width // 4, 512, c.num_attention_heads * c.attention_head_dim
    ends = layer(T, 4 * c.in_channels, D) + two_layers(L, c.text_dim, D, D) + layer(T, D, 4 * c.out_channels)
    once = two_layers(1, c.freq_dim, D, D) + layer(1, D, 6 * D)
    block = layer(T, D, 4 * D) + layer(T, D, 2 * D) + layer(L, D, 2 * D) + two_layers(T, D, c.ffn_dim, D)
    return once + ends + c.num_layers * block, c.num_layers * 4 * T * (T + L) * D


CASES = [
    (flux_dev, flux, 1024, 4096), (sd35_medium, sd3, 1024, 3072), (sd35_large, sd3, 512, 2048),
    (pixart_sigma, pixart, 1024, 4096), (wan_small, wan, 832, 6656), (wan_large, wan, 512, 4096),
]  # fmt: skip


@pytest.mark.parametrize(("factory", "formula", "height", "width"), CASES, ids=[c[0].name for c in CASES])
def test_one_evaluation_costs_what_its_configuration_says(factory: Any, formula: Any, height: int, width: int) -> None:
    backbone = factory.skeleton(precision="bf16")
    h, w = height // 8, width // 8
    layers, attention = formula(backbone.transformer.config, h, w)
    frames = (1,) if backbone.family == "video" else ()
    shallow(*(part for name, part in backbone.parts.items() if name.startswith("text_encoder")))  # not counted
    told = backbone.condition("a boat")
    latents = torch.empty(1, backbone.channels, *frames, h, w, device="meta")
    with counting() as tally, torch.no_grad():
        backbone.predict(latents, torch.tensor(500.0), told.embeds[1:], {k: v[1:] for k, v in told.added.items()})
    assert (tally.other, tally.attention) == (pytest.approx(layers, rel=1e-3), pytest.approx(attention, rel=1e-3))
    assert attention > 0.2 * layers  # so a formula without it would be far off
    assert tally.attention + tally.other != pytest.approx(layers, rel=0.02)
