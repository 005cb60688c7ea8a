"""Tiny random diffusers pipelines, saved by their own save_pretrained: the layouts of the real checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from bench.extractors.weights.manifest import Model
from methods.backbones.identity import quiet
from methods.backbones.tiny.stable_diffusion import tiny_clip


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


def tiny_t5(cls: str = "T5EncoderModel", hidden: int = 48) -> tuple[Any, Any]:
    """A T5 tokenizer of single letters and a random encoder of two layers that reads it."""
    import string

    import transformers

    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_letters, *string.digits, *string.punctuation]
    tokenizer = transformers.T5TokenizerFast(
        vocab=[(piece, 0.0 if i < 3 else -2.0) for i, piece in enumerate(pieces)], extra_ids=0, model_max_length=512
    )
    model = getattr(transformers, cls)
    config = model.config_class(
        vocab_size=len(pieces), d_model=hidden, d_kv=8, d_ff=64, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=1, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return tokenizer, model(config)


def write_sd3(folder: Path) -> Path:
    """SD 3.5: squares of 8 cells, three text encoders, a second attention in the first block, 24 positions a side."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer, text = tiny_clip("CLIPTextModelWithProjection", hidden=16)
    tokenizer_2, text_2 = tiny_clip("CLIPTextModelWithProjection", hidden=24)
    tokenizer_3, text_3 = tiny_t5(hidden=48)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=16 + 24,
        pos_embed_max_size=24, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    vae = tiny_vae(16, scaling_factor=1.53, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, text_encoder=text,
        tokenizer=tokenizer, text_encoder_2=text_2, tokenizer_2=tokenizer_2, text_encoder_3=text_3,
        tokenizer_3=tokenizer_3,
    )  # fmt: skip
    return save(pipeline, folder)


def write_flux(folder: Path, guidance_embeds: bool = True) -> Path:
    """FLUX.1-dev: CLIP's pooled text and T5, a guidance input, packed latents of 16 channels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(0)
    tokenizer, text = tiny_clip(hidden=16)
    tokenizer_2, text_2 = tiny_t5(hidden=32)
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
        max_image_seq_len=4096,
    )  # fmt: skip
    vae = tiny_vae(16, scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False)
    pipeline = FluxPipeline(
        transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=text, tokenizer=tokenizer,
        text_encoder_2=text_2, tokenizer_2=tokenizer_2,
    )  # fmt: skip
    return save(pipeline, folder)


def write_pixart(folder: Path, sample_size: int = 8, micro_conditions: bool = False) -> Path:
    """PixArt-Sigma: T5 under a mask, learned variance, DPM-Solver."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    tokenizer, text = tiny_t5(hidden=32)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=sample_size, caption_channels=32,
        use_additional_conditions=micro_conditions,
    )  # fmt: skip
    pipeline = PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=text, vae=tiny_vae(scaling_factor=0.13), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    )  # fmt: skip
    return save(pipeline, folder)


def write_wan(folder: Path, layers: int = 2) -> Path:
    """Wan2.1: umT5, UniPC with flow shift 3, the causal video decoder of factor 8 and stride 4.

    Without ``layers`` its transformer looks at each token by itself: shapes and memory, for canvases of any size.
    """
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    torch.manual_seed(0)
    tokenizer, text = tiny_t5("UMT5EncoderModel", hidden=32)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=32,
        ffn_dim=32, num_layers=layers, rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipeline = WanPipeline(
        tokenizer=tokenizer, text_encoder=text, vae=vae, scheduler=scheduler, transformer=transformer
    )
    return save(pipeline, folder)


def as_released(folder: Path, model: Model) -> Path:
    """A pipeline's files as its repository holds them: large parts in shards, and things beside that nobody loads.

    A part is in shards where the manifest does not name its one file.
    """
    parts = sorted(folder.rglob("*.safetensors"))
    for weights in parts:
        if weights.relative_to(folder).as_posix() not in model.files:
            shard(weights)
        shutil.copy(next(weights.parent.glob("*.safetensors")), weights.with_name(f"{weights.stem}.fp16.safetensors"))
    for name in ("README.md", ".gitattributes", "LICENSE", "preview.png", "all-in-one.safetensors", "vae/old.bin"):
        (folder / name).write_bytes(b"not loaded")
    return folder


def shard(weights: Path) -> None:
    """One safetensors file as two, with their index."""
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    weights.unlink()
    shards = [f"{weights.stem}-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    keys = sorted(state)
    for i, name in enumerate(shards):
        save_file({k: state[k] for k in keys[i::2]}, weights.with_name(name), metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": {k: shards[i % 2] for i, k in enumerate(keys)}}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))


def changed(folder: Path, target: Path) -> Path:
    """A copy with other numbers in every part: the same network, trained further."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    for weights in (p for p in sorted(target.rglob("*.safetensors")) if p.parent != target):
        state = {k: v + 1 if v.is_floating_point() else v for k, v in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
    return target


def numbers(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a part's folder under their names, of all its shards."""
    from safetensors.torch import load_file

    files = [p for p in sorted(folder.glob("*.safetensors")) if ".fp16" not in p.name]
    return {k: v for file in files for k, v in load_file(file).items()}
