"""LlamaGen's image tokenizer: convolutional encoder and decoder around a codebook of unit vectors (VQGAN, VQ-16).

Sun et al., 2024, arXiv:2406.06525, section 3.1, after Esser et al., CVPR 2021, arXiv:2012.09841; parameter names are
those of the released checkpoints. Written from the architecture's facts (code MIT). Not verified against numbers of
the released tokenizer, whose weights were not at hand: tests check it against the same arithmetic written out by hand
on a small configuration, and the full-size names and shapes against the published ones (72M parameters).

The decoder sees the whole map at once: its attention is global and its normalisation averages over the map, so memory
grows with the square of the token count, and tiles would show at their borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

USED = 65536  # length of a training statistic that the released files carry along


@dataclass(frozen=True)
class VQConfig:
    """Sizes, under the names of the released code; the defaults are VQ-16."""

    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256

    @property
    def factor(self) -> int:
        """Pixels a side of one token."""
        return 1 << (len(self.ch_mult) - 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = _norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)
        return out


class AttnBlock(nn.Module):
    """Global single-head attention over all cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).view_as(x)
        out: Tensor = x + self.proj_out(mixed)
        return out


class Downsample(nn.Module):
    """Half the size; the padding is at the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the size, nearest neighbours smoothed by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The blocks of one resolution, attention after each at the lowest, then a change of resolution."""

    def __init__(self, before: int, after: int, blocks: int, attention: bool, resample: str | None) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResnetBlock(before if i == 0 else after, after) for i in range(blocks))
        self.attn = nn.ModuleList(AttnBlock(after) for _ in range(blocks if attention else 0))
        if resample == "down":
            self.downsample = Downsample(after)
        elif resample == "up":
            self.upsample = Upsample(after)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        if self.resample is not None:
            x = self.downsample(x) if self.resample == "down" else self.upsample(x)
        return x


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList([ResnetBlock(channels, channels), AttnBlock(channels), ResnetBlock(channels, channels)])


class Encoder(nn.Module):
    """Pictures (n, 3, H, W) in [-1, 1] to features (n, z_channels, H / factor, W / factor)."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(before, after, config.num_res_blocks, i == last, None if i == last else "down")
            for i, (before, after) in enumerate(zip([config.ch, *widths], widths))
        )
        self.mid = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.conv_blocks, *self.mid):
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Decoder(nn.Module):
    """Features (n, z_channels, h, w) to pictures (n, 3, h * factor, w * factor), roughly in [-1, 1]."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.ch * m for m in reversed(config.ch_mult)]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(before, after, config.num_res_blocks + 1, i == 0, None if i == last else "up")
            for i, (before, after) in enumerate(zip([widths[0], *widths], widths))
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.mid, *self.conv_blocks):
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class Quantizer(nn.Module):
    """The codebook: directions in ``codebook_embed_dim`` dimensions."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_embed_dim)
        self.register_buffer("codebook_used", torch.zeros(USED))

    def codes(self) -> Tensor:
        """(codebook_size, dim), each of length 1."""
        return F.normalize(self.embedding.weight, dim=-1)

    def nearest(self, z: Tensor) -> Tensor:
        """Indices (h, w) of the codes nearest in direction to z (dim, h, w)."""
        z, codes = F.normalize(z.permute(1, 2, 0), dim=-1), self.codes()
        distance = (z**2).sum(-1, keepdim=True) + (codes**2).sum(-1) - 2 * z @ codes.T
        return distance.argmin(-1)


class VQ(nn.Module):
    """The tokenizer."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Quantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def encode(self, image: Tensor) -> Tensor:
        """Tokens (h, w) of a picture (3, h * factor, w * factor) in [0, 1]."""
        return self.quantize.nearest(self.quant_conv(self.encoder(2 * image[None] - 1))[0])

    def decode(self, tokens: Tensor) -> Tensor:
        """Picture (3, h * factor, w * factor) in [0, 1] of tokens (h, w)."""
        z = self.quantize.codes()[tokens].permute(2, 0, 1)[None]
        pixels: Tensor = self.decoder(self.post_quant_conv(z))[0]
        return (pixels.clamp(-1, 1) + 1) / 2
