"""Stable Diffusion 3.5 medium and large: a diffusion transformer with three text encoders, 1024 px squares.

Esser et al., arXiv:2403.03206 (SD3); the 3.5 checkpoints add normalised queries and keys and, in the medium one, a
second attention in 13 blocks. Text to latents as diffusers' ``StableDiffusion3Pipeline``, to which ``direct`` is equal
at equal noise: both CLIPs read 77 tokens, T5 reads 256, and prompts without a negative are set against "". The
schedule has a fixed shift of 3 and so does not change with the canvas; a checkpoint whose scheduler asks for dynamic
shifting gets the pipeline's.

Positions come from a table whose middle is cut out: 192 patches a side (3072 px) in the large network, 384 (6144 px)
in the medium one. Larger canvases are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from methods.backbones import Conditioning, Factory, Scheduler
from methods.backbones.components import blank_parts
from methods.backbones.latent import LatentNetwork, load_low
from methods.backbones.schedules import dynamic_mu, make_scheduler
from methods.backbones.weights import Part, Weights, locate

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "transformer": Part("SD3Transformer2DModel"),
    "vae": Part("AutoencoderKL"),
    "text_encoder": Part("CLIPTextModelWithProjection"),
    "text_encoder_2": Part("CLIPTextModelWithProjection"),
    "text_encoder_3": Part("T5EncoderModel"),
    "tokenizer": Part("CLIPTokenizer", weights=False),
    "tokenizer_2": Part("CLIPTokenizer", weights=False),
    "tokenizer_3": Part("T5TokenizerFast", weights=False),
    "scheduler": Part("FlowMatchEulerDiscreteScheduler", weights=False),
}

T5_TOKENS = 256
MAX_SHIFT = 1.16  # the pipeline's, for checkpoints with dynamic shifting


class SD3(LatentNetwork):
    """SD 3.5 behind :class:`methods.backbones.LatentBackbone`. See :class:`methods.backbones.latent.LatentNetwork`."""

    def __init__(self, name: str, weights: str, parts: Mapping[str, Any], **options: Any) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

        super().__init__(name, weights, parts, **options)
        self.transformer = self.parts["transformer"]
        config = self.transformer.config
        self.window, self.channels, self.patch = config.sample_size, config.in_channels, config.patch_size
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._scheduler_config = dict(parts["scheduler"])
        self._pipeline = StableDiffusion3Pipeline(**{**self.parts, "scheduler": FlowMatchEulerDiscreteScheduler()})

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 77 + 256, width of T5) and ``pooled_projections`` (2, width of both CLIPs)."""
        import torch

        with self.meter.stage("text"), torch.no_grad():
            for part, limit in (("tokenizer", None), ("tokenizer_2", None), ("tokenizer_3", T5_TOKENS)):
                self.flag_truncation(self.parts[part], [prompt, negative], limit)
            cond, uncond, pooled, pooled_uncond = self._pipeline.encode_prompt(
                prompt, None, None, device=self.device, negative_prompt=negative, max_sequence_length=T5_TOKENS
            )
        pools = torch.cat([pooled_uncond, pooled]).to(self.dtype)
        return Conditioning(torch.cat([uncond, cond]).to(self.dtype), {"pooled_projections": pools})

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler. Raises ``UsageError`` where ``size`` is larger than the table of positions."""
        height, width = size or (self.window, self.window)
        self._check_table(height, width)
        tokens = (height // self.patch) * (width // self.patch)
        dynamic = self._scheduler_config.get("use_dynamic_shifting")
        timing: dict[str, Any] = {"mu": dynamic_mu(self._scheduler_config, tokens, MAX_SHIFT)} if dynamic else {}
        return make_scheduler(self._scheduler_config, steps, double=self.precision == "fp64", **timing)

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The transformer in one call on (n, channels, h, w); ``added`` holds ``pooled_projections``."""
        n = latents.shape[0]
        self._check_table(*latents.shape[-2:])
        self.meter.count(n)
        dtype = self.transformer.dtype
        with self.meter.stage("denoise"):
            out = self.transformer(
                latents.to(dtype),
                encoder_hidden_states=embeds.to(dtype),
                timestep=self.at(t, n),
                return_dict=False,
                **{k: v.to(dtype) for k, v in (added or {}).items()},
            )[0]
        result: Tensor = out.to(self.dtype)
        return result

    def _check_table(self, height: int, width: int) -> None:
        side = self.transformer.config.pos_embed_max_size
        most, pixels = side * self.patch, self.factor
        if max(height, width) > most:
            raise UsageError(
                f"{self.name} knows positions for {side} patches a side, that is {most * pixels} px; the network was "
                f"asked for {width * pixels}x{height * pixels} px in one piece. Take a canvas of at most "
                f"{most * pixels} px a side, or a method that works in windows, such as multidiffusion"
            )


def _load(name: str, model: str, revision: str | None, options: Mapping[str, Any]) -> SD3:
    return SD3(name, *load_low(model, revision, LAYOUT, options), **options)


def _load_medium(
    model: str = "stabilityai/stable-diffusion-3.5-medium", revision: str | None = None, **options: Any
) -> SD3:
    """Stable Diffusion 3.5 medium, 1024 px squares (Stability AI Community License, gated)."""
    return _load("sd35-medium", model, revision, options)


def _load_large(
    model: str = "stabilityai/stable-diffusion-3.5-large", revision: str | None = None, **options: Any
) -> SD3:
    """Stable Diffusion 3.5 large, 1024 px squares (Stability AI Community License, gated)."""
    return _load("sd35-large", model, revision, options)


def _blank(name: str) -> Any:
    return lambda **options: SD3(name, "", blank_parts(name), **options)


def _locate(model: str, revision: str | None, **_: Any) -> Weights:
    return locate(model, revision, LAYOUT)


sd35_medium = Factory("sd35-medium", "latent", _load_medium, _locate, _blank("sd35-medium"))
sd35_large = Factory("sd35-large", "latent", _load_large, _locate, _blank("sd35-large"))
