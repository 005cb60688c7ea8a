"""world-llamagen's image tokenizer: LlamaGen's VQ at f=4, 64 tokens a square, 2048 codes of 8 numbers.

The losses on the codes are LlamaGen's (arXiv:2406.06525, section 3.1): codes go to what the encoder says, and that to
its code at a quarter of the weight. Pictures are compared by absolute and squared difference; there is no adversary
and no perceptual loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.vae import draw_crops, draw_squares, held_out, psnr_each
from methods.backbones.llamagen.vq import VQ, VQConfig
from methods.training.loop import save_half

CONFIG: dict[str, Any] = dict(
    codebook_size=2048, codebook_embed_dim=8, ch=32, ch_mult=[1, 1, 2], num_res_blocks=1, z_channels=64
)
COMMIT = 0.25
REVIVE = 1 / 32  # share of the steps that look for codes without use


class VqRecipe:
    """Reconstruction of squares; every eighth batch is 64 px wide crops of panoramas.

    ``codebook_used``, which the released files carry, holds the latest 65,536 tokens. A code that is not among them
    is moved to where the encoder answers.
    """

    name = "world-llamagen-vq"
    card = "vq/card.json"
    data = DATA
    steps = 4000
    batch = 16
    lr = 3e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.module = blank_vq()
        with torch.no_grad():
            self.module.quantize.embedding.weight.normal_()
            self.used.fill_(-1)

    @property
    def used(self) -> Tensor:
        """The latest tokens, oldest first; -1 where there were none yet."""
        return self.module.quantize.get_buffer("codebook_used")

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        wide = rng.random() < 0.125
        x0 = draw_crops(self.bank, rng, self.batch // 2) if wide else draw_squares(self.bank, rng, self.batch)
        z, tokens = encode(self.module, x0)
        self.count(z.detach(), tokens, noise, revive=rng.random() < REVIVE)
        q = look_up(self.module, tokens)
        out = self.module.decoder(self.module.post_quant_conv(z + (q - z).detach()))
        codes = F.mse_loss(q, z.detach()) + COMMIT * F.mse_loss(z, q.detach())
        return F.l1_loss(out, x0) + 4 * F.mse_loss(out, x0) + codes

    @torch.no_grad()
    def count(self, z: Tensor, tokens: Tensor, noise: torch.Generator, revive: bool) -> None:
        """Note what is used; move unused codes to random answers (n, dim, h, w) of the encoder."""
        new = tokens.flatten().to(self.used.dtype)
        self.used.copy_(torch.cat([self.used[len(new) :], new]))
        if revive:
            dead = torch.ones(CONFIG["codebook_size"], dtype=torch.bool)
            dead[self.used[self.used >= 0].long()] = False
            answers = z.movedim(1, -1).flatten(0, -2)
            picks = torch.randint(len(answers), (int(dead.sum()),), generator=noise)
            self.module.quantize.embedding.weight[dead] = answers[picks]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        squares, wide = held_out()
        used = torch.cat([encode(self.module, x)[1].flatten() for x in squares.split(50)]).unique()
        return {
            "psnr_squares_db": self.psnr(squares),
            "psnr_256_wide_db": self.psnr(wide),
            "codes_used": len(used) / CONFIG["codebook_size"],
        }

    def psnr(self, x: Tensor) -> float:
        """Mean over pictures of the PSNR of 8-bit pixels, dB."""
        values = []
        for part in x.split(25):
            out = decode(self.module, encode(self.module, part)[1]).clamp(-1, 1)
            values.append(psnr_each(out, part))
        return float(torch.cat(values).mean())

    def save(self, folder: Path) -> None:
        self.used.zero_()  # of the training only
        write(self.module, "LlamaGenVQ", CONFIG, folder / "vq")


def blank_vq() -> VQ:
    """The tokenizer of ``CONFIG``, untrained."""
    return VQ(VQConfig(**CONFIG | {"ch_mult": tuple(CONFIG["ch_mult"])}))


def encode(vq: VQ, x: Tensor) -> tuple[Tensor, Tensor]:
    """Answers of length 1 (n, dim, h, w) and tokens (n, h, w) of pictures (n, 3, H, W) in [-1, 1]."""
    z = F.normalize(vq.quant_conv(vq.encoder(x)), dim=1)
    return z, (z.detach().movedim(1, -1) @ vq.quantize.codes().detach().T).argmax(-1)


def look_up(vq: VQ, tokens: Tensor) -> Tensor:
    """Codes (n, dim, h, w) of tokens (n, h, w)."""
    return F.embedding(tokens, vq.quantize.codes()).movedim(-1, 1)


def decode(vq: VQ, tokens: Tensor) -> Tensor:
    """Pictures (n, 3, H, W), roughly in [-1, 1], of tokens (n, h, w)."""
    out: Tensor = vq.decoder(vq.post_quant_conv(look_up(vq, tokens)))
    return out


def write(module: torch.nn.Module, kind: str, sizes: dict[str, Any], folder: Path) -> None:
    """A part of LlamaGen's folder: fp16 weights beside their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(module, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": kind, **sizes}, indent=1) + "\n", encoding="utf-8")
