"""world-control: a Canny ControlNet for world-sd in diffusers' layout, of the small kind that does not read the text.

It begins as the U-Net's own way down (Zhang et al., section 3), without cross-attention, as SDXL's small ControlNet has
none; the U-Net stays as it is. Half of the pictures are whole squares, half are cut out of panoramas, whose caption
asks for a thing that the cut may not show: where text and edges disagree, edges decide. Half of the texts are left
out (section 3.3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor

from bench.registry import find
from bench.world.obedience import count, squares
from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.vae import to_tensor
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene, caption, sample_scene
from methods.control.canny import canny
from methods.control.controlnet import ROWS, watched

HELD_OUT = 100  # scenes


class ControlRecipe:
    """The ControlNet alone is trained, on world-sd's own loss."""

    name = "world-control"
    card = "card.json"
    data = DATA
    steps = 1200
    batch = 32
    lr = 1e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank, self.backbone = bank, find("backbones", "world-sd")()
        self.module = untrained(self.backbone.unet)
        self.abar = torch.as_tensor(self.backbone.scheduler(1).alphas_cumprod).float()

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rgb, texts = self.draw(rng)
        with torch.no_grad():
            x0 = self.backbone.encode(to_tensor(rgb) / 2 + 0.5)
            ids = self.backbone.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            hidden = self.backbone.text_encoder(ids).last_hidden_state
        t = torch.randint(0, 1000, (len(x0),), generator=noise)
        abar = self.abar[t].view(-1, 1, 1, 1)
        xt = abar.sqrt() * x0 + (1 - abar).sqrt() * torch.randn(x0.shape, generator=noise)
        with self.asked():
            told: dict[str, Any] = {"encoder_hidden_states": hidden, "added_cond_kwargs": {ROWS: edges(rgb)}}
            predicted = self.backbone.unet(xt, t, **told).sample
        weight = (1 / (1 - abar)).clamp(max=6)
        return (weight * (predicted - x0).square()).mean()

    def asked(self) -> Any:
        """The U-Net with the ControlNet."""
        return watched(self.backbone.unet, self.module)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Pictures (n, 32, 32, 3), the first half squares, and their texts."""
        half = self.batch // 2
        picks = np.sort(rng.integers(0, len(self.bank.squares), half))
        whole = self.bank.squares[picks]
        wide = np.sort(rng.integers(0, len(self.bank.wide), self.batch - half))
        x = rng.integers(0, self.bank.wide.shape[2] - HEIGHT + 1, len(wide))
        cut = [self.bank.wide[i, :, a : a + HEIGHT] for i, a in zip(wide, x)]
        scenes = [*(self.bank.scenes[i] for i in picks), *(self.bank.wide_scenes[i] for i in wide)]
        texts = ["" if rng.random() < 0.5 else caption(scene, rng, fillers=0.3) for scene in scenes]
        return np.concatenate([whole, np.stack(cut)]), texts

    def evaluate(self) -> dict[str, float]:
        """On fresh scenes, with the ControlNet and without, from the same noise.

        * ``edges_f1``: how well edges of a square agree with those of the scene it was asked to follow;
        * ``exactly_one``: of squares whose text and edges ask for one thing, how many show one;
        * ``unseen_any``: text asks for a thing, edges are of the scene without it: how many show one all the same.
        """
        rng = np.random.default_rng(2**43 + 2)
        scenes = [s for s in (sample_scene(rng) for _ in range(2 * HELD_OUT)) if s.unique][:HELD_OUT]
        pictures = np.stack([render(s, HEIGHT, 2**31 + i).rgb for i, s in enumerate(scenes)])
        bare = np.stack([render(s, HEIGHT, 2**31 + i, copies=0).rgb for i, s in enumerate(scenes)])
        texts = [caption(s) for s in scenes]
        with self.asked():
            followed = list(squares(self.backbone, texts, control=edges(pictures)))
            unseen = list(squares(self.backbone, texts, control=edges(bare)))
        free = list(squares(self.backbone, texts))
        found = {f"edges_f1{mark}": edges_f1(made, pictures) for mark, made in (("", followed), ("_without", free))}
        for detector in ("colour", "net"):
            for mark, made in (("", followed), ("_without", free)):
                found[f"exactly_one{mark}_{detector}"] = shares(made, scenes, detector)[0]
            found[f"unseen_any_{detector}"] = shares(unseen, scenes, detector)[1]
        return found

    def save(self, folder: Path) -> None:
        self.module.half().save_pretrained(folder)
        self.module.float()


def untrained(unet: Any) -> ControlNetModel:
    """A small ControlNet for world-sd's U-Net: its own way down, answers that are zero."""
    config = unet.config
    made = ControlNetModel(
        in_channels=config.in_channels, block_out_channels=config.block_out_channels,
        down_block_types=("DownBlock2D",) * len(config.block_out_channels), mid_block_type="UNetMidBlock2D",
        layers_per_block=config.layers_per_block, norm_num_groups=config.norm_num_groups,
        attention_head_dim=config.attention_head_dim, cross_attention_dim=config.cross_attention_dim,
        conditioning_embedding_out_channels=(16, 32, 96),  # two of its steps halve the size: 4 px a cell
    )  # fmt: skip
    there = unet.state_dict()
    made.load_state_dict({name: there.get(name, value) for name, value in made.state_dict().items()})
    return made


def edges(rgb: np.ndarray) -> Tensor:
    """Canny's edges of pictures (n, h, w, 3) as a ControlNet takes them, float32 (n, 3, h, w) of 0 and 1."""
    found = torch.from_numpy(np.stack([canny(picture) for picture in rgb])).float()
    return found[:, None].expand(-1, 3, -1, -1)


def edges_f1(made: list[np.ndarray], asked: np.ndarray) -> float:
    """F1 of the edges of pictures against those of others, pixel by pixel, over all pictures together."""
    x, y = (np.stack([canny(picture) for picture in pictures]) for pictures in (made, asked))
    return float(2 * (x & y).sum() / max(1, x.sum() + y.sum()))


def shares(made: list[np.ndarray], scenes: list[Scene], detector: str) -> tuple[float, float]:
    """Of squares, the shares that show exactly one of the thing their scene asks for, and any."""
    counts = np.array([count(rgb, scene, detector) for rgb, scene in zip(made, scenes, strict=True)])
    return float((counts == 1).mean()), float((counts > 0).mean())
