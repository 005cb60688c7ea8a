"""world-upscaler: a small Real-ESRGAN of factor 4, trained on shrunk panoramas and squares by absolute difference.

Its layout is the released one (RRDB) with 16 features and 2 blocks. There is no adversary and no other degradation
than antialiased shrinking, as for the released RealESRNet before its second stage.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.vae import to_tensor
from bench.world.render import render
from bench.world.scene import sample_scene
from methods.shared.upscaler import made, rrdb
from methods.training.loop import save_half

SCALE = 4


def shrunk(x: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) at a quarter of each side."""
    return F.interpolate(x, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1)


class UpscalerRecipe:
    """Panoramas and squares, shrunk and enlarged again, in turn."""

    name = "world-upscaler"
    card = "card.json"
    data = DATA
    steps = 1500
    batch = 16
    lr = 2e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        state = {}
        for name, shape in rrdb(2, False, features=16).items():
            state[name] = torch.zeros(shape)
            if len(shape) > 1:
                nn.init.kaiming_normal_(state[name], 0.2)
                if name.startswith("body."):
                    state[name] *= 0.1  # as ESRGAN's dense blocks begin
        network = made(state, "cpu", torch.float32).network
        assert isinstance(network, nn.Module)
        self.module: nn.Module = network.requires_grad_(True)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        pictures = self.bank.wide if rng.random() < 0.5 else self.bank.squares
        picks = np.sort(rng.integers(0, len(pictures), self.batch))
        x = to_tensor(pictures[picks]) / 2 + 0.5
        return F.l1_loss(self.module(shrunk(x)), x)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        rng = np.random.default_rng(2**43)
        scenes = [sample_scene(rng) for _ in range(100)]
        x = to_tensor(np.stack([render(s, 128, 2**31 + i).rgb for i, s in enumerate(scenes)])) / 2 + 0.5
        small = shrunk(x)
        plain = F.interpolate(small, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
        return {"psnr_db": psnr(self.module(small).clamp(0, 1), x), "psnr_bicubic_db": psnr(plain, x)}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_half(self.module, folder / "model.safetensors")


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures in [0, 1], dB."""
    return float((-10 * torch.log10((a - b).square().mean((1, 2, 3)))).mean())
