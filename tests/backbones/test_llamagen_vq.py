"""LlamaGen's image tokenizer against the same arithmetic written out by hand, and its full-size names and shapes.

No numbers of the released tokenizer exist here: what is shown is that the module computes the architecture that its
parameter names stand for, not that the released weights give the released pictures.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.nn import functional as F

from methods.backbones.llamagen.convert import blank, released
from methods.backbones.llamagen.vq import VQ, VQConfig

SMALL = VQConfig(codebook_size=48, codebook_embed_dim=4, ch=32, ch_mult=(1, 2, 1), num_res_blocks=2, z_channels=6)


@cache
def small() -> VQ:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vq = VQ(SMALL).double().eval().requires_grad_(False)
        for p in vq.parameters():
            p.normal_(std=0.2)
        vq.decoder.conv_out.weight.mul_(0.1)
        return vq


class Hand:
    """The published architecture as plain functions of the weights' names."""

    def __init__(self, vq: VQ) -> None:
        self.w = vq.state_dict()
        self.padding = (0, 1, 0, 1)  # of a halving convolution: left, right, top, bottom

    def conv(self, x: torch.Tensor, name: str, **more: int) -> torch.Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **more)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        groups = x.reshape(1, 32, -1)
        spread = groups.var(-1, unbiased=False, keepdim=True)
        flat = ((groups - groups.mean(-1, keepdim=True)) / (spread + 1e-6).sqrt()).reshape(x.shape)
        return flat * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def swish(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def res(self, x: torch.Tensor, name: str) -> torch.Tensor:
        h = self.conv(self.swish(self.norm(x, f"{name}.norm1")), f"{name}.conv1", padding=1)
        h = self.conv(self.swish(self.norm(h, f"{name}.norm2")), f"{name}.conv2", padding=1)
        return h + (self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.w else x)

    def attn(self, x: torch.Tensor, name: str) -> torch.Tensor:
        h = self.norm(x, f"{name}.norm")
        q, k, v = (self.conv(h, f"{name}.{part}")[0].reshape(x.shape[1], -1) for part in "qkv")
        weights = torch.softmax(q.T @ k * x.shape[1] ** -0.5, dim=-1)
        return x + self.conv((v @ weights.T).reshape(x.shape), f"{name}.proj_out")

    def middle(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.res(self.attn(self.res(x, f"{name}.0"), f"{name}.1"), f"{name}.2")

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        codes = self.w["quantize.embedding.weight"]
        codes = codes / codes.norm(dim=1, keepdim=True)
        x = self.conv(codes[tokens].movedim(-1, 0)[None], "post_quant_conv")
        x = self.middle(self.conv(x, "decoder.conv_in", padding=1), "decoder.mid")
        for level in range(3):  # from the lowest resolution up
            for i in range(3):
                x = self.res(x, f"decoder.conv_blocks.{level}.res.{i}")
                if level == 0:
                    x = self.attn(x, f"decoder.conv_blocks.{level}.attn.{i}")
            if level < 2:
                x = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
                x = self.conv(x, f"decoder.conv_blocks.{level}.upsample.conv", padding=1)
        x = self.conv(self.swish(self.norm(x, "decoder.norm_out")), "decoder.conv_out", padding=1)
        return (x[0] / 2 + 0.5).clamp(0, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv((image[None] - 0.5) * 2, "encoder.conv_in", padding=1)
        for level in range(3):
            for i in range(2):
                x = self.res(x, f"encoder.conv_blocks.{level}.res.{i}")
                if level == 2:
                    x = self.attn(x, f"encoder.conv_blocks.{level}.attn.{i}")
            if level < 2:
                x = self.conv(F.pad(x, self.padding), f"encoder.conv_blocks.{level}.downsample.conv", stride=2)
        x = self.swish(self.norm(self.middle(x, "encoder.mid"), "encoder.norm_out"))
        z = self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv")[0]
        return torch.cosine_similarity(z[None], self.w["quantize.embedding.weight"][:, :, None, None]).argmax(0)


def tokens(height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.randint(0, 48, (height, width), generator=torch.Generator().manual_seed(1))


def image(seed: int = 2) -> torch.Tensor:
    return torch.rand(3, 20, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_decoding_equals_the_arithmetic_by_hand() -> None:
    ours, hand = small().decode(tokens()), Hand(small())
    assert ours.shape == (3, 20, 28)
    assert float(ours.std()) > 0.05
    torch.testing.assert_close(ours, hand.decode(tokens()), atol=1e-10, rtol=0)
    assert float((ours - hand.decode(tokens().flip(0))).abs().max()) > 0.01


@pytest.mark.parametrize(
    "mistake",
    [
        "decoder.mid.1.q.weight",
        "decoder.conv_blocks.0.attn.2.proj_out.bias",
        "decoder.conv_blocks.1.res.0.nin_shortcut.bias",
    ],
)
def test_every_part_of_the_decoder_is_in_use(mistake: str) -> None:
    hand = Hand(small())
    hand.w = {**hand.w, mistake: hand.w[mistake] + 0.5}
    assert float((small().decode(tokens()) - hand.decode(tokens())).abs().max()) > 1e-6


def test_code_lengths_do_not_matter_as_codes_are_directions() -> None:
    longer = VQ(SMALL).double().eval()
    longer.load_state_dict(small().state_dict())
    with torch.no_grad():
        longer.quantize.embedding.weight.mul_(torch.linspace(0.1, 9, 48)[:, None])
        assert torch.equal(longer.encode(image()), small().encode(image()))
        torch.testing.assert_close(longer.decode(tokens()), small().decode(tokens()), atol=1e-10, rtol=0)


def test_encoding_equals_the_arithmetic_by_hand_and_symmetric_padding_does_not() -> None:
    hand = Hand(small())
    ours = torch.stack([small().encode(image(seed)) for seed in range(2, 8)])
    assert ours.shape == (6, 5, 7)
    assert len(ours.unique()) > 3
    assert torch.equal(ours, torch.stack([hand.encode(image(seed)) for seed in range(2, 8)]))
    hand.padding = (1, 0, 1, 0)
    assert not torch.equal(ours, torch.stack([hand.encode(image(seed)) for seed in range(2, 8)]))


def test_a_code_is_nearest_to_itself() -> None:
    codes = 3 * small().quantize.embedding.weight
    z = codes[tokens()].permute(2, 0, 1)
    assert torch.equal(small().quantize.nearest(z), tokens())
    assert not torch.equal(small().quantize.nearest(-z), tokens())


def test_full_size_names_and_shapes_are_the_published_ones() -> None:
    vq = blank("vq", released()["vq"])
    state = {k: tuple(v.shape) for k, v in vq.state_dict().items()}
    expected = {
        "encoder.conv_in.weight": (128, 3, 3, 3),
        "encoder.conv_blocks.0.downsample.conv.weight": (128, 128, 3, 3),
        "encoder.conv_blocks.2.res.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.conv_blocks.4.attn.1.proj_out.weight": (512, 512, 1, 1),
        "encoder.mid.1.norm.weight": (512,),
        "encoder.conv_out.weight": (256, 512, 3, 3),
        "quant_conv.weight": (8, 256, 1, 1),
        "quantize.embedding.weight": (16384, 8),
        "quantize.codebook_used": (65536,),
        "post_quant_conv.weight": (256, 8, 1, 1),
        "decoder.conv_in.weight": (512, 256, 3, 3),
        "decoder.conv_blocks.0.attn.2.k.bias": (512,),
        "decoder.conv_blocks.1.res.0.nin_shortcut.weight": (256, 512, 1, 1),
        "decoder.conv_blocks.3.upsample.conv.weight": (128, 128, 3, 3),
        "decoder.conv_blocks.4.res.2.conv2.weight": (128, 128, 3, 3),
        "decoder.conv_out.weight": (3, 128, 3, 3),
    }
    assert {k: state.get(k) for k in expected} == expected
    absent = ("encoder.conv_blocks.4.downsample.conv.weight", "encoder.conv_blocks.3.attn.0.q.weight",
              "decoder.conv_blocks.4.upsample.conv.weight", "decoder.conv_blocks.1.attn.0.q.weight")  # fmt: skip
    assert not set(absent) & set(state)
    assert sum(p.numel() for p in vq.parameters()) == pytest.approx(72e6, rel=0.01)
    assert vq.config.factor == 16
    assert vq.decode(torch.zeros(32, 48, dtype=torch.long, device="meta")).shape == (3, 512, 768)
    assert vq.encode(torch.zeros(3, 512, 768, device="meta")).shape == (32, 48)
