"""world-sd's autoencoder: a real ``AutoencoderKL``, f=4, 16 channels, no attention (so that it runs on any width)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from bench.world.recipes.bank import DATA, Bank, kept
from bench.world.render import HEIGHT, render
from bench.world.scene import sample_scene

CONFIG = dict(
    in_channels=3, out_channels=3, latent_channels=16, sample_size=HEIGHT,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(32, 64, 96), layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
)  # fmt: skip
HELD_OUT = 500  # squares; a fifth as many panoramas


def to_tensor(rgb: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) to float32 (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def cached_latents(vae: AutoencoderKL, bank: Bank, work: Path) -> np.ndarray:
    """The mode of every square's latents times the scaling factor, float16 (n, 16, 8, 8), kept beside the bank."""

    def latents(rgb: np.ndarray) -> np.ndarray:
        return (vae.encode(to_tensor(rgb)).latent_dist.mode() * vae.config.scaling_factor).half().numpy()

    n = len(bank.squares)
    made = (latents(bank.squares[i : i + 250]) for i in range(0, n, 250))
    return kept(work / "bank" / "latents.npy", lambda: np.concatenate(list(made)))


def draw_squares(bank: Bank, rng: np.random.Generator, n: int) -> Tensor:
    """Squares of the bank, (n, 3, 32, 32)."""
    return to_tensor(bank.squares[np.sort(rng.integers(0, len(bank.squares), n))])


def draw_crops(bank: Bank, rng: np.random.Generator, n: int) -> Tensor:
    """Crops of the bank's panoramas, all at one place, (n, 3, 32, 64)."""
    picks, x = rng.integers(0, len(bank.wide), n), int(rng.integers(0, 64))
    return to_tensor(bank.wide[np.sort(picks)][:, :, x : x + 64])


def held_out() -> tuple[Tensor, Tensor]:
    """Fresh squares, and panoramas 256 px wide of the first of their scenes."""
    rng = np.random.default_rng(2**40)
    scenes = [sample_scene(rng) for _ in range(HELD_OUT)]
    squares = np.stack([render(s, HEIGHT, 2**31 + i).rgb for i, s in enumerate(scenes)])
    wide = np.stack([render(s, 256, 2**31 + i).rgb for i, s in enumerate(scenes[: HELD_OUT // 5])])
    return to_tensor(squares), to_tensor(wide)


def psnr_each(out: Tensor, x: Tensor) -> Tensor:
    """The PSNR of each picture or clip in [-1, 1] as of 8-bit pixels, dB, (n,)."""
    return -10 * torch.log10(((out - x) / 2).square().flatten(1).mean(1))


class VaeRecipe:
    """Reconstruction (L1 + MSE) with a light KL term; every eighth batch is 64 px wide crops of panoramas."""

    name = "world-vae"
    card = "vae/card.json"
    data = DATA
    steps = 5000
    batch = 32
    lr = 2e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.module = AutoencoderKL(**CONFIG)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        wide = rng.random() < 0.125
        x0 = draw_crops(self.bank, rng, self.batch // 2) if wide else draw_squares(self.bank, rng, self.batch)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = self.module.encode(x0).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise)
            out = self.module.decode(z).sample.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return F.l1_loss(out, x0) + 4 * F.mse_loss(out, x0) + 1e-4 * kl

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        squares, wide = held_out()
        return {"psnr_squares_db": self.psnr(squares), "psnr_256_wide_db": self.psnr(wide)}

    def psnr(self, x: Tensor) -> float:
        """Mean over pictures of the PSNR of 8-bit pixels, dB."""
        values = []
        for part in x.split(50):
            out = self.module.decode(self.module.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
            values.append(psnr_each(out, part))
        return float(torch.cat(values).mean())

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        x = to_tensor(self.bank.squares[:2000])
        latents = torch.cat([self.module.encode(p).latent_dist.mode() for p in x.split(100)])
        self.module.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        self.module.half().save_pretrained(folder / "vae")
        self.module.float()
