"""Tiny random diffusers pipelines, saved by their own save_pretrained: the layouts of the real checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from methods.backbones.tiny import tiny_clip
from methods.backbones.weights import quiet


def tiny_vae(channels: int = 4, **config: Any) -> Any:
    """A random AutoencoderKL of factor 4."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=channels, block_out_channels=(8, 8, 8), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4,
        **config,
    )  # fmt: skip


def save(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline; returns the folder."""
    with quiet():
        pipeline.save_pretrained(folder)
    return folder


def write_sdxl(folder: Path) -> Path:
    """SDXL: 16 px squares, two text encoders, Euler."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer, text = tiny_clip(hidden=16)
    tokenizer_2, text_2 = tiny_clip("CLIPTextModelWithProjection", hidden=24)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        cross_attention_dim=16 + 24, norm_num_groups=4,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(scaling_factor=0.13), unet=unet, text_encoder=text, text_encoder_2=text_2, tokenizer=tokenizer,
        tokenizer_2=tokenizer_2, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    return save(pipeline, folder)
