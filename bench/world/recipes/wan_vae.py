"""world-wan's autoencoder: a real ``AutoencoderKLWan``, f=4 in space and time, 16 channels, causal in time.

Three batches of four are single pictures. There only the last tap of every causal kernel meets data, so these run as
two-dimensional convolutions: equal to rounding, at half the time. The fourth is clips of a slow camera over a panorama,
which teach the taps in time. They begin as copies (earlier taps zero, one frame out as the next), so that at every step
a clip is decoded no worse than its pictures one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor

from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.vae import draw_crops, draw_squares, held_out, psnr_each, to_tensor
from bench.world.render import HEIGHT

CONFIG: dict[str, Any] = dict(
    base_dim=16, z_dim=16, dim_mult=[1, 1, 2], num_res_blocks=1, temperal_downsample=[True, True],
    latents_mean=[0.0] * 16, latents_std=[1.0] * 16, scale_factor_spatial=4, scale_factor_temporal=4,
)  # fmt: skip
FRAMES = (5, 9, 13)  # of a clip: two to four latent frames


class WanVaeRecipe:
    """Reconstruction (L1 + MSE) with a light KL term, of squares, of 64 px wide crops, and of clips."""

    name = "world-wan-vae"
    card = "vae/card.json"
    data = DATA
    steps = 6000
    batch = 32
    lr = 3e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.module = AutoencoderKLWan(**CONFIG)
        start_as_copies(self.module)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        kind = rng.random()
        if kind < 0.25:
            x0 = drift(self.bank, rng, self.batch // 8, int(rng.choice(FRAMES)))
        elif kind < 0.375:
            x0 = draw_crops(self.bank, rng, self.batch // 2)[:, :, None]
        else:
            x0 = draw_squares(self.bank, rng, self.batch)[:, :, None]
        mean, logvar = encode(self.module, x0).chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        out = decode(self.module, mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise))
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return F.l1_loss(out, x0) + 4 * F.mse_loss(out, x0) + 1e-4 * kl

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        squares, wide = held_out()
        clips = torch.stack(
            [wide[: len(wide) // 2, :, :, x : x + HEIGHT] for x in range(100, 109)], 2
        )  # nine frames, 1 px a frame
        shown = {"squares": squares[:, :, None], "256_wide": wide[:, :, None], "clips": clips}
        return {f"psnr_{name}_db": self.psnr(x) for name, x in shown.items()}

    def psnr(self, x: Tensor) -> float:
        """Mean over pictures or clips of the PSNR of 8-bit pixels, dB, through the library's own code."""
        values = []
        for part in x.split(25):
            out = self.module.decode(self.module.encode(part).latent_dist.mode()).sample
            values.append(psnr_each(out, part))
        return float(torch.cat(values).mean())

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        x = to_tensor(self.bank.squares[:2000])[:, :, None]
        z = torch.cat([encode(self.module, p).chunk(2, dim=1)[0] for p in x.split(100)])
        self.module.register_to_config(
            latents_mean=[round(float(m), 4) for m in z.mean((0, 2, 3, 4))],
            latents_std=[round(float(s), 4) for s in z.std((0, 2, 3, 4))],
        )
        self.module.half().save_pretrained(folder / "vae")
        self.module.float()


def drift(bank: Bank, rng: np.random.Generator, n: int, frames: int) -> Tensor:
    """Clips (n, 3, frames, 32, 32) of a camera over panoramas; it stands or moves by up to 3 px a frame, either way."""
    clips = []
    for pick in np.sort(rng.integers(0, len(bank.wide), n)):
        step = int(rng.integers(-3, 4))
        room = bank.wide.shape[2] - HEIGHT - abs(step) * (frames - 1)
        left = int(rng.integers(0, room + 1)) - min(0, step) * (frames - 1)
        clips.append(np.stack([bank.wide[pick][:, x : x + HEIGHT] for x in left + step * np.arange(frames)]))
    return to_tensor(np.concatenate(clips)).unflatten(0, (n, frames)).transpose(1, 2)


@torch.no_grad()
def start_as_copies(vae: AutoencoderKLWan) -> None:
    """Earlier taps zero; a kernel between frame rates hands its newest frame on, in the decoder twice."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d):
            module.weight[:, :, :-1] = 0
        if isinstance(module, WanResample) and module.mode.endswith("3d"):
            kernel, dim = module.time_conv.weight, module.dim
            kernel[:, :, -1, 0, 0] = torch.eye(dim).repeat(kernel.shape[0] // dim, 1)
            module.time_conv.bias.zero_()


@contextmanager
def flat(vae: AutoencoderKLWan) -> Iterator[None]:
    """While it lasts, causal kernels see single frames and run as two-dimensional ones."""
    original = WanCausalConv3d.forward

    def forward(conv: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        sides = conv._padding[2], conv._padding[0]
        return F.conv2d(x.squeeze(2), conv.weight[:, :, -1], conv.bias, conv.stride[1:], sides).unsqueeze(2)

    WanCausalConv3d.forward = forward
    try:
        yield
    finally:
        WanCausalConv3d.forward = original


def encode(vae: AutoencoderKLWan, x: Tensor) -> Tensor:
    """Mean and log-variance (n, 2 z, frames, h, w) of pictures or clips (n, 3, T, H, W) in [-1, 1]."""
    if x.shape[2] > 1:
        return vae._encode(x)
    with flat(vae):
        return vae.quant_conv(vae.encoder(x))


def decode(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    """As the library's, without its clamp to [-1, 1], which has no gradient outside."""
    if z.shape[2] == 1:
        with flat(vae):
            return vae.decoder(vae.post_quant_conv(z))
    vae.clear_cache()
    z, frames = vae.post_quant_conv(z), []
    for i in range(z.shape[2]):
        vae._conv_idx = [0]
        frames.append(
            vae.decoder(z[:, :, i : i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0)
        )
    vae.clear_cache()
    return torch.cat(frames, 2)
