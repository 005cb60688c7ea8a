"""A tiny random Stable Diffusion folder: the real layout and loaders at a third of a megabyte, for checks and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from methods.backbones.identity import quiet

SIDE = 4  # native square in cells: 16 px


def write_tiny_sd(folder: Path, seed: int = 0) -> Path:
    """Write a random pipeline (factor 4, 4 channels, 16 px squares, 77 tokens) that asks nothing of its pictures.

    The same seed writes the same weights; the global generator is left as it was. Returns ``folder``.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=SIDE, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4,
        )  # fmt: skip
        tokenizer, text = tiny_clip()
    # The noise schedule of Stable Diffusion 1 and 2.
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    with quiet():
        pipeline.save_pretrained(folder)
    return folder


def tiny_clip(cls: str = "CLIPTextModel", hidden: int = 16) -> tuple[Any, Any]:
    """A byte-level CLIP tokenizer of 77 tokens, and a random text encoder of two layers that reads it."""
    import transformers
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77)
    start, end = len(pieces) - 2, len(pieces) - 1
    config = transformers.CLIPTextConfig(
        vocab_size=len(pieces), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=start, eos_token_id=end, pad_token_id=end,
        projection_dim=hidden,
    )  # fmt: skip
    return tokenizer, getattr(transformers, cls)(config)
