"""Stand-ins for the networks of the metrics, each in the layout of its real loader.

* ``world-vit`` (for DINOv2): a timm ViT trained without labels, by contrast between two views of a picture.
* ``world-clip`` (for CLIP): an open_clip model trained on pictures and captions.
* ``world-cnn`` (for Inception): a timm ConvNeXt classifying biome x time x style x unique thing.
* ``world-lpips`` (for VGG/AlexNet LPIPS): the lpips package's SqueezeNet trunk, classifying the same, unit heads.

They are named as what they are; no number from them stands for the network it replaces.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import lpips
import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.tokens import CONTEXT, make_tokenizer, save_tokenizer
from bench.world.recipes.vae import to_tensor
from bench.world.render import render
from bench.world.scene import BIOMES, STYLES, TIMES, UNIQUES, Scene, caption, sample_scene
from methods.training.loop import save_half

MEAN = STD = (0.5, 0.5, 0.5)


def scene_class(scene: Scene) -> int:
    """One label a combination of biome, time, style and unique thing: 7 x 4 x 3 x 5 = 420."""
    unique = 0 if scene.unique is None else 1 + UNIQUES.index(scene.unique)
    index = BIOMES.index(scene.biome)
    for value, base in ((TIMES.index(scene.time), 4), (STYLES.index(scene.style), 3), (unique, 5)):
        index = index * base + value
    return index


CLASSES = len(BIOMES) * len(TIMES) * len(STYLES) * (len(UNIQUES) + 1)


def held_out(n: int) -> tuple[Tensor, list[Scene]]:
    """n fresh squares of evaluation seeds, in [-1, 1], with their scenes."""
    rng = np.random.default_rng(2**42)
    scenes = [sample_scene(rng) for _ in range(n)]
    return to_tensor(np.stack([render(s, 32, 2**31 + i).rgb for i, s in enumerate(scenes)])), scenes


class _Squares:
    """Recipes that draw squares from the bank."""

    card = "card.json"
    data = DATA
    bank: Bank
    batch: int

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        picks = np.sort(rng.integers(0, len(self.bank.squares), self.batch))
        return picks, to_tensor(self.bank.squares[picks])


class CnnRecipe(_Squares):
    """world-cnn: cross entropy on 420 classes."""

    name = "world-cnn"
    steps = 2500
    batch = 64
    lr = 2e-3
    model_args: ClassVar[dict[str, Any]] = dict(
        dims=(32, 64, 96, 160), depths=(1, 1, 2, 1), patch_size=2, num_classes=CLASSES
    )

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.module = timm.create_model("convnext_atto", pretrained=False, **self.model_args)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks, x = self.draw(rng)
        labels = torch.tensor([scene_class(self.bank.scenes[i]) for i in picks])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.module(x)
        return F.cross_entropy(logits.float(), labels, label_smoothing=0.02)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        x, scenes = held_out(1000)
        right = self.module(x).argmax(-1) == torch.tensor([scene_class(s) for s in scenes])
        return {"accuracy_420_classes": float(right.float().mean())}

    def save(self, folder: Path) -> None:
        save_timm(self.module, folder, self.model_args)


def save_timm(module: nn.Module, folder: Path, model_args: dict[str, Any]) -> None:
    """A timm ``local-dir:`` folder: config.json and model.safetensors (fp16), 32 px input in [-1, 1]."""
    args = {k: list(v) if isinstance(v, tuple) else v for k, v in model_args.items()}
    described: Any = module
    described.pretrained_cfg.update(
        input_size=(3, 32, 32),
        mean=MEAN,
        std=STD,
        crop_pct=1.0,
        interpolation="bicubic",
        num_classes=module.num_classes,
    )
    save_for_hf(module, folder, model_config={"model_args": args}, safe_serialization=True)
    save_half(module, folder / "model.safetensors")


class LpipsRecipe(_Squares):
    """world-lpips: the SqueezeNet trunk of the lpips package, trained as a classifier; the head is dropped."""

    name = "world-lpips"
    steps = 1500
    batch = 64
    lr = 1e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        self.lpips = lpips.LPIPS(net="squeeze", pnet_rand=True, pnet_tune=True, lpips=False, verbose=False)
        self.module = nn.ModuleDict(
            {"trunk": self.lpips.net, "head": nn.Linear(64 + 128 + 256 + 384 + 384 + 512 + 512, CLASSES)}
        )

    def forward(self, x: Tensor) -> Tensor:
        layers = self.module["trunk"](self.lpips.scaling_layer(x))
        return self.module["head"](torch.cat([layer.float().mean((2, 3)) for layer in layers], 1))

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks, x = self.draw(rng)
        labels = torch.tensor([scene_class(self.bank.scenes[i]) for i in picks])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.forward(x)
        return F.cross_entropy(logits.float(), labels, label_smoothing=0.02)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        x, scenes = held_out(1000)
        right = self.forward(x).argmax(-1) == torch.tensor([scene_class(s) for s in scenes])
        return {"accuracy_420_classes": float(right.float().mean())}

    def save(self, folder: Path) -> None:
        save_half(self.lpips, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"net": "squeeze", "lpips": False}) + "\n")


class VitRecipe(_Squares):
    """world-vit: InfoNCE between two crops of a picture (square, or 32 px of a panorama), temperature 0.2."""

    name = "world-vit"
    steps = 1500
    batch = 96
    lr = 1e-3
    model_args: ClassVar[dict[str, Any]] = dict(
        img_size=32, patch_size=4, embed_dim=128, depth=4, num_heads=4, num_classes=0, dynamic_img_size=True
    )

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank = bank
        vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **self.model_args)
        self.module = nn.ModuleDict(
            {"vit": vit, "head": nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64))}
        )

    def view(self, x: Tensor, noise: torch.Generator) -> Tensor:
        """A random crop (60 to 100 % of the side), mirrored half of the time, with colour shift and noise."""

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(len(x), generator=noise)

        scale, mirror = uniform(0.6, 1.0), torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        theta = torch.zeros(len(x), 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = scale * mirror, scale
        theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - scale), uniform(-1, 1) * (1 - scale)
        out = F.grid_sample(x, F.affine_grid(theta, [len(x), 3, 32, 32], align_corners=False), align_corners=False)
        gain, shift = uniform(0.9, 1.1).view(-1, 1, 1, 1), 0.06 * torch.randn((len(x), 3, 1, 1), generator=noise)
        out = out * gain + shift + uniform(0, 0.08).view(-1, 1, 1, 1) * torch.randn(out.shape, generator=noise)
        return out.clamp(-1, 1)

    def embed(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            z = self.module["head"](self.module["vit"](x))
        return F.normalize(z.float(), dim=-1)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        _, squares = self.draw(rng)
        picks, offset = np.sort(rng.integers(0, len(self.bank.wide), self.batch // 2)), int(rng.integers(0, 97))
        x = torch.cat([squares[: self.batch // 2], to_tensor(self.bank.wide[picks][:, :, offset : offset + 32])])
        a, b = self.embed(torch.cat([self.view(x, noise), self.view(x, noise)])).chunk(2)
        logits = a @ b.T / 0.2
        target = torch.arange(len(a))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        x, scenes = held_out(600)
        z = F.normalize(self.module["vit"](x), dim=-1)
        similarity = z @ z.T - 2 * torch.eye(len(z))
        nearest = similarity.argmax(-1).tolist()
        same = {
            f: np.mean([getattr(scenes[i], f) == getattr(scenes[j], f) for i, j in enumerate(nearest)])
            for f in ("biome", "time", "style")
        }
        return {f"nearest_neighbour_same_{k}": float(v) for k, v in same.items()}

    def save(self, folder: Path) -> None:
        save_timm(self.module["vit"], folder, self.model_args)


class ClipRecipe(_Squares):
    """world-clip: the CLIP loss on squares and their captions; equal scenes are not negatives of each other."""

    name = "world-clip"
    steps = 900
    batch = 128
    lr = 1e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank, self.tokenizer = bank, make_tokenizer()
        self.config: dict[str, Any] = {
            "embed_dim": 96,
            "vision_cfg": {"image_size": 32, "layers": 4, "width": 128, "head_width": 32, "patch_size": 4},
            "text_cfg": {
                "context_length": CONTEXT, "vocab_size": len(self.tokenizer), "width": 96, "heads": 4, "layers": 3,
                "hf_tokenizer_name": "world-clip",
            },
        }  # fmt: skip
        text = {k: v for k, v in self.config["text_cfg"].items() if k != "hf_tokenizer_name"}
        self.module = open_clip.CLIP(96, self.config["vision_cfg"], text)

    def tokens(self, texts: list[str]) -> Tensor:
        ids: Tensor = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return ids

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks, x = self.draw(rng)
        scenes = [self.bank.scenes[i] for i in picks]
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            image, text, scale = self.module(x, self.tokens([caption(s, rng, fillers=0.3) for s in scenes]))[:3]
        logits = scale.clamp(max=100) * image.float() @ text.float().T
        index: dict[Scene, int] = {}
        group = torch.tensor([index.setdefault(s, len(index)) for s in scenes])
        same = (group[:, None] == group[None]) & ~torch.eye(len(group), dtype=torch.bool)
        logits = logits.masked_fill(same, -math.inf)
        target = torch.arange(len(group))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        x, scenes = held_out(500)
        image, text = (
            self.module.encode_image(x, normalize=True),
            self.module.encode_text(self.tokens([caption(s) for s in scenes]), normalize=True),
        )
        ranks = (image @ text.T).argmax(-1).tolist()
        return {"caption_found_among_500": float(np.mean([scenes[i] == scenes[r] for i, r in enumerate(ranks)]))}

    def save(self, folder: Path) -> None:
        config = {
            "model_cfg": self.config,
            "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
        }
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_half(self.module, folder / "open_clip_model.safetensors")
        save_tokenizer(folder)
