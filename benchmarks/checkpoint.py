"""A random Stable Diffusion in diffusers' layout: windows of 64x64 cells of 8 px, as the real ones. Nothing is fetched.

tiny    a third of a million parameters: whether things work
small   35 million in the U-Net: denoising dominates, and a CPU can do it
full    the architecture of Stable Diffusion 1.5, from the configuration that ships with the project
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES = ("tiny", "small", "full")
SCHEDULE = {  # of Stable Diffusion 1.5
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1,
}  # fmt: skip


def write(folder: Path, size: str) -> Path:
    """Write a checkpoint of a size, the same weights every time. Returns ``folder``."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from methods.backbones.identity import quiet
    from methods.backbones.tiny.stable_diffusion import tiny_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, vae, text = _full() if size == "full" else _reduced(size)
        tokenizer, _ = tiny_clip()  # the same for every size; it draws a text encoder too
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer, scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with quiet():
        pipeline.save_pretrained(folder)
    return folder


def _reduced(size: str) -> tuple[Any, Any, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from methods.backbones.tiny.stable_diffusion import tiny_clip

    text, groups, decoder = (16, 4, (8, 8, 8, 8)) if size == "tiny" else (256, 32, (32, 64, 64, 64))
    blocks: dict[str, Any] = {"block_out_channels": (64, 128, 256, 384)}  # of the kinds of Stable Diffusion 1.5
    if size == "tiny":
        down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
        blocks = {"block_out_channels": (8, 16), "down_block_types": down, "up_block_types": up}
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, layers_per_block=1, cross_attention_dim=text,
        attention_head_dim=4, norm_num_groups=groups, **blocks,
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=decoder, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=groups,
    )  # fmt: skip
    return unet, vae, tiny_clip(hidden=text)[1]


def _full() -> tuple[Any, Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel

    from methods.backbones.loading import CONFIGS, part_class

    parts = json.loads((CONFIGS / "sd15.json").read_text(encoding="utf-8"))["parts"]
    unet, vae = (part_class(parts[p]["_class_name"]).from_config(parts[p]) for p in ("unet", "vae"))
    return unet, vae, CLIPTextModel(CLIPTextConfig(**parts["text_encoder"]))
