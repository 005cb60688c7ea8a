"""world-sd: a text-to-image latent diffusion model in the Stable Diffusion layout, trained on complete squares.

The network predicts x0 (``prediction_type="sample"``), loss weight min(1/(1 - abar), 6), cosine schedule, 10 %
of the captions dropped for guidance. Because a native square is a complete picture with its unique thing, every
window of a joint diffusion asks for one: the repetition under study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel

from bench.world.obedience import obedience, summary
from bench.world.recipes.bank import DATA, Bank
from bench.world.recipes.tokens import CONTEXT, make_tokenizer
from bench.world.recipes.vae import cached_latents
from bench.world.scene import caption
from methods.backbones.stable_diffusion import StableDiffusion

TEXT_WIDTH = 96
UNET: dict[str, Any] = dict(
    sample_size=8, in_channels=16, out_channels=16, layers_per_block=1, block_out_channels=(80, 128),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=TEXT_WIDTH, attention_head_dim=4, norm_num_groups=16,
)  # fmt: skip
SCHEDULE: dict[str, Any] = dict(
    num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False,
    set_alpha_to_one=True, steps_offset=1, timestep_spacing="trailing",
)  # fmt: skip


class DiffusionRecipe:
    """U-Net and text encoder, trained together on cached latents of the trained autoencoder."""

    name = "world-sd"
    card = "card.json"
    data = DATA
    steps = 5500
    batch = 48
    lr = 1e-3

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank, self.tokenizer = bank, make_tokenizer()
        self.vae = AutoencoderKL.from_pretrained(out / "vae").float().eval()
        self.vae.register_to_config(_name_or_path="world-vae")  # not the folder it was trained in
        self.latents = cached_latents(self.vae, bank, work)
        specials = {k: self.tokenizer.convert_tokens_to_ids(v) for k, v in
                    (("bos_token_id", "<|startoftext|>"), ("eos_token_id", "<|endoftext|>"))}  # fmt: skip
        text = CLIPTextConfig(
            vocab_size=len(self.tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=CONTEXT, projection_dim=TEXT_WIDTH,
            pad_token_id=specials["eos_token_id"], **specials,
        )  # fmt: skip
        self.module = nn.ModuleDict({"unet": UNet2DConditionModel(**UNET), "text": CLIPTextModel(text)})
        self.scheduler = DDIMScheduler(**SCHEDULE)
        self.abar = self.scheduler.alphas_cumprod.float()

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks = np.sort(rng.integers(0, len(self.latents), self.batch))
        texts = ["" if rng.random() < 0.1 else caption(self.bank.scenes[i], rng, fillers=0.3) for i in picks]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        x0 = torch.from_numpy(self.latents[picks].astype(np.float32))
        t = torch.randint(0, 1000, (self.batch,), generator=noise)
        abar = self.abar[t].view(-1, 1, 1, 1)
        xt = abar.sqrt() * x0 + (1 - abar).sqrt() * torch.randn(x0.shape, generator=noise)
        # The fused CPU kernel is three times slower than plain matrix products at these sizes.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            hidden = self.module["text"](ids).last_hidden_state
            predicted = self.module["unet"](xt, t, hidden).sample.float()
        weight = (1 / (1 - abar)).clamp(max=6)
        return (weight * (predicted - x0).square()).mean()

    def evaluate(self) -> dict[str, float]:
        """The gates of :mod:`bench.world.obedience`, over all captions that ask for a thing and over empty skies."""
        parts = {
            "unet": self.module["unet"], "vae": self.vae, "text_encoder": self.module["text"],
            "tokenizer": self.tokenizer, "scheduler": self.scheduler.config,
        }  # fmt: skip
        return summary(obedience(StableDiffusion("world-sd", "", parts, batch=32)))

    def save(self, folder: Path) -> None:
        self.module.half()
        StableDiffusionPipeline(
            vae=self.vae.half(), unet=self.module["unet"], text_encoder=self.module["text"], tokenizer=self.tokenizer,
            scheduler=self.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).save_pretrained(folder)  # fmt: skip
        self.module.float()
        self.vae.float()
