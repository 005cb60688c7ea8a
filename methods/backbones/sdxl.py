"""Stable Diffusion XL base 1.0: two text encoders, size conditioning, 1024 px squares.

Podell et al., arXiv:2307.01952, section 2.2 (micro-conditioning). Text to latents as diffusers'
``StableDiffusionXLPipeline``, to which ``direct`` is equal at equal noise: an empty negative prompt is zeros where the
checkpoint says so, and size conditioning is (H, W, 0, 0, H, W) of what the network sees in one call, unless a sampler
puts its own ``time_ids`` into the conditioning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from methods.backbones.factory import Factory
from methods.backbones.identity import Part, locate
from methods.backbones.loading import blank_parts
from methods.backbones.network import LatentNetwork, load_low
from methods.backbones.protocols import Conditioning, Scheduler
from methods.backbones.schedules import make_scheduler

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "unet": Part("UNet2DConditionModel"),
    "vae": Part("AutoencoderKL"),
    "text_encoder": Part("CLIPTextModel"),
    "text_encoder_2": Part("CLIPTextModelWithProjection"),
    "tokenizer": Part("CLIPTokenizer", weights=False),
    "tokenizer_2": Part("CLIPTokenizer", weights=False),
    "scheduler": Part("EulerDiscreteScheduler", weights=False),
}


class SDXL(LatentNetwork):
    """SDXL behind :class:`methods.backbones.LatentBackbone`. The decoder stays in float32: it overflows in float16.

    Args:
        sampler: ``checkpoint`` (Euler, as shipped) or ``ddim``, which some panorama papers use.
        others: see :class:`methods.backbones.network.LatentNetwork`.
    """

    def __init__(
        self, name: str, weights: str, parts: Mapping[str, Any], *, sampler: str = "checkpoint", **options: Any
    ) -> None:
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

        super().__init__(name, weights, parts, **options)
        self.unet = self.parts["unet"]
        self.window = int(self.unet.config.sample_size)
        self.channels = int(self.unet.config.in_channels)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._sampler, self._scheduler_config = sampler, dict(parts["scheduler"])
        self.scheduler(1)  # a sampler that does not exist is refused now
        self._pipeline = StableDiffusionXLPipeline(
            **{**self.parts, "scheduler": EulerDiscreteScheduler()},
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 77, width of both encoders) and pooled ``text_embeds`` (2, width of the second)."""
        import torch

        with self.meter.stage("text"), torch.no_grad():
            for part in ("tokenizer", "tokenizer_2"):
                self.flag_truncation(self.parts[part], [prompt, negative])
            cond, uncond, pooled, pooled_uncond = self._pipeline.encode_prompt(
                prompt,
                device=self.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=negative or None,
            )
        embeds = torch.cat([uncond, cond]).to(self.dtype)
        return Conditioning(embeds, {"text_embeds": torch.cat([pooled_uncond, pooled]).to(self.dtype)})

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler, the same for every size."""
        return make_scheduler(self._scheduler_config, steps, self._sampler, double=self.precision == "fp64")

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The U-Net in one call on (n, channels, h, w); ``added`` holds ``text_embeds``, and ``time_ids`` if given."""
        import torch

        self.meter.count(latents.shape[0])
        dtype = self.unet.dtype
        extra = {k: v.to(dtype) for k, v in (added or {}).items()}
        if "time_ids" not in extra:
            high, wide = (side * self.factor for side in latents.shape[-2:])
            ids = torch.tensor([[high, wide, 0, 0, high, wide]], dtype=dtype, device=self.device)
            extra["time_ids"] = ids.expand(latents.shape[0], -1)
        with self.meter.stage("denoise"):
            out = self.unet(
                latents.to(dtype), t, encoder_hidden_states=embeds.to(dtype), added_cond_kwargs=extra, return_dict=False
            )[0]
        result: Tensor = out.to(self.dtype)
        return result


def _load(
    model: str = "stabilityai/stable-diffusion-xl-base-1.0",
    revision: str | None = None,
    sampler: str = "checkpoint",
    **options: Any,
) -> SDXL:
    """Stable Diffusion XL base 1.0, 1024 px squares (CreativeML Open RAIL++-M)."""
    return SDXL("sdxl", *load_low(model, revision, LAYOUT, options), sampler=sampler, **options)


sdxl = Factory(
    "sdxl",
    "latent",
    _load,
    lambda **o: locate(o["model"], o["revision"], LAYOUT),
    lambda folder=None, **o: SDXL("sdxl", "", blank_parts(folder or "sdxl"), **o),
    changes=("sampler", "vae_tiling"),
)
