"""Training of the learned oracle (``bench.world.oracle_net``) on fresh renders, collages and degradations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from bench.world.colour_detector import KINDS
from bench.world.oracle_net import ATTRIBUTES, OracleNet
from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.vae import to_tensor
from bench.world.render import Picture, render
from bench.world.scene import sample_scene
from methods.training.loop import save_half


class OracleRecipe:
    """Heat maps of every kind of thing, attributes a window, horizon a column; 64-px pictures.

    Half of the batch are panoramas with 0 to 3 unique things, half are collages of two squares, so that neither the
    attributes nor the horizon can be read off the neighbour.
    """

    name = "world-oracle"
    card = "card.json"
    data = DATA
    steps = 2500
    batch = 32
    lr = 3e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.module = OracleNet()

    def picture(self, rng: np.random.Generator, low: int, high: int) -> list[tuple[Picture, int]]:
        """Pictures with their x offset that together are 64 px wide."""
        if rng.random() < 0.5:
            return [(render(sample_scene(rng), 64, int(rng.integers(low, high)), copies=int(rng.integers(0, 4))), 0)]
        return [(render(sample_scene(rng), 32, int(rng.integers(low, high))), x) for x in (0, 32)]

    def batch_of(
        self, rng: np.random.Generator, n: int, low: int = 0, high: int = 2**31
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rgb = np.zeros((n, 32, 64, 3), np.uint8)
        heat = np.zeros((n, len(KINDS), 16, 32), np.float32)
        labels = np.zeros((n, 2, len(ATTRIBUTES)), np.int64)
        horizon = np.zeros((n, 32), np.float32)
        ys, xs = np.arange(16)[:, None] * 2 + 0.5, np.arange(32)[None] * 2 + 0.5
        for i in range(n):
            for picture, x0 in self.picture(rng, low, high):
                w = picture.rgb.shape[1]
                rgb[i, :, x0 : x0 + w] = picture.rgb
                horizon[i, x0 // 2 : (x0 + w) // 2] = picture.horizon
                for a, (name, values) in enumerate(ATTRIBUTES.items()):
                    labels[i, x0 // 32 : (x0 + w) // 32, a] = values.index(getattr(picture.scene, name))
                for thing in picture.things:
                    bump = np.exp(-((xs - thing.x - x0) ** 2 + (ys - thing.y) ** 2) / (2 * 1.6**2))
                    k = KINDS.index(thing.kind)
                    heat[i, k] = np.maximum(heat[i, k], bump)
        return to_tensor(rgb), torch.from_numpy(heat), torch.from_numpy(labels), torch.from_numpy(horizon)

    def degrade(self, x: Tensor, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        roll = rng.random()
        if roll < 0.35:
            x = gaussian_blur(x, [7, 7], [float(rng.uniform(0.4, 1.1))])
        if 0.25 < roll < 0.7:
            x = x + float(rng.uniform(0.02, 0.16)) * torch.randn(x.shape, generator=noise)
        shift = torch.randn((len(x), 3, 1, 1), generator=noise) * 0.03
        return (x + shift).clamp(-1, 1)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        x, heat, labels, horizon = self.batch_of(rng, self.batch)
        p, logits, rows = self.module(self.degrade(x, rng, noise))
        # Pixels near a thing are rare: they weigh more.
        found = (F.binary_cross_entropy_with_logits(p, heat, reduction="none") * (1 + 20 * heat)).mean() * 20
        start, named = 0, torch.zeros(())
        for a, values in enumerate(ATTRIBUTES.values()):
            named = named + F.cross_entropy(
                logits[..., start : start + len(values)].flatten(0, 1), labels[..., a].flatten()
            )
            start += len(values)
        return found + 0.3 * named + 0.3 * F.smooth_l1_loss(rows, horizon)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        rng = np.random.default_rng(2**41)
        x, _, labels, horizon = self.batch_of(rng, 400, 2**31, 2**32)
        _, logits, rows = self.module(x)
        result = {"horizon_mean_error_px": float((rows - horizon).abs().mean())}
        start = 0
        for a, (name, values) in enumerate(ATTRIBUTES.items()):
            result[f"{name}_accuracy"] = float(
                (logits[..., start : start + len(values)].argmax(-1) == labels[..., a]).float().mean()
            )
            start += len(values)
        exact = []
        for _ in range(300):
            scene, copies = sample_scene(rng), int(rng.integers(0, 7))
            picture = render(scene, 256, int(rng.integers(2**31, 2**32)), copies=copies)
            seen = [d.kind for d in self.module.read(picture.rgb).detections]
            exact.append(all(seen.count(k) == picture.count(k) for k in KINDS))
        return result | {"all_counts_exact_256_wide": float(np.mean(exact))}

    def save(self, folder: Path) -> None:
        save_half(self.module, folder / "model.safetensors")
