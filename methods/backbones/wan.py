"""Wan2.1 text to video, 1.3B and 14B: a diffusion transformer over space and time, used here for single pictures too.

Wan Team, arXiv:2503.20314. Text to latents as diffusers' ``WanPipeline``, to which ``direct-video`` is equal at equal
noise: umT5 reads 512 tokens, whose padding becomes zeros, and prompts without a negative are set against "". Wan's own
code brings a long default negative prompt, which is not put in here: it belongs to a prompt set that wants it.

Latents are (n, 16, frames, h, w): the first latent frame is one picture, each further one is four. The table of
rotary positions ends at 1024 tokens an axis (16,384 px); larger canvases are refused, unless a method has put computed
positions in the table's place (:func:`methods.shared.positions.placed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from methods.backbones.factory import Factory
from methods.backbones.identity import Part, Weights, locate, world_folder
from methods.backbones.loading import blank_parts
from methods.backbones.network import LatentNetwork, load_low
from methods.backbones.protocols import Conditioning, Scheduler
from methods.backbones.schedules import make_scheduler

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "transformer": Part("WanTransformer3DModel"),
    "vae": Part("AutoencoderKLWan"),
    "text_encoder": Part("UMT5EncoderModel"),
    "tokenizer": Part("T5TokenizerFast", weights=False),
    "scheduler": Part("UniPCMultistepScheduler", weights=False),
}

CHANGES = ("shift", "vae_tiling")
T5_TOKENS = 512
WORLD_CLIP = (15, 8, 8)  # latent frames, and cells of a square


class Wan(LatentNetwork):
    """Wan2.1 behind :class:`methods.backbones.VideoBackbone`.

    Args:
        native: latent frames, height and width in cells of the clip it was made for: the pipeline's defaults, 81
            frames of 832x480 px.
        shift: the schedule's flow shift; None is the checkpoint's (3). Diffusers' guide takes 3 for 480 px, 5 for
            720 px; Wan's own code takes 5.
        others: see :class:`methods.backbones.network.LatentNetwork`.

    Raises:
        UsageError: also on a ``shift`` that is no positive number.
    """

    family = "video"

    def __init__(
        self,
        name: str,
        weights: str,
        parts: Mapping[str, Any],
        *,
        native: tuple[int, int, int] = (21, 60, 104),
        shift: float | None = None,
        **options: Any,
    ) -> None:
        from diffusers import UniPCMultistepScheduler, WanPipeline

        if shift is not None and (type(shift) not in (int, float) or shift <= 0):
            raise UsageError(
                f"option shift takes a number above 0 such as 5.0, or none for the checkpoint's; got {shift!r}"
            )
        super().__init__(name, weights, parts, **options)
        self.transformer = self.parts["transformer"]
        self.native, self._tokens = native, min(T5_TOKENS, self.parts["tokenizer"].model_max_length)
        self.channels = self.transformer.config.in_channels
        self.patch = self.transformer.config.patch_size[1]
        self.factor, self.stride = self.vae.config.scale_factor_spatial, self.vae.config.scale_factor_temporal
        # UniPC calls it flow_shift, flow-matching Euler shift; each leaves the other's out.
        self._scheduler_config = dict(parts["scheduler"]) | ({"flow_shift": shift, "shift": shift} if shift else {})
        self._pipeline = WanPipeline(**{**self.parts, "scheduler": UniPCMultistepScheduler()})

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 512 or the tokenizer's most, width of umT5), zeros behind each text."""
        import torch
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        with self.meter.stage("text"), torch.no_grad():
            if self.device.type == "meta":
                return Conditioning(self.blank_rows(self._tokens))
            texts = [prompt_clean(text) for text in (prompt, negative)]
            self.flag_truncation(self.parts["tokenizer"], texts, self._tokens)
            cond, uncond = self._pipeline.encode_prompt(
                prompt, negative, max_sequence_length=self._tokens, device=self.device
            )
        return Conditioning(torch.cat([uncond, cond]).to(self.dtype))

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler, the same for every size. Raises ``UsageError`` where ``size`` is beyond all positions."""
        if size is not None:
            self._check_table(*size)
        return make_scheduler(self._scheduler_config, steps, double=self.precision == "fp64")

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The transformer in one call on (n, channels, frames, h, w)."""
        n = latents.shape[0]
        self._check_table(*latents.shape[-2:])
        self.meter.count(n)
        dtype = self.transformer.dtype
        with self.meter.stage("denoise"):
            out = self.transformer(
                hidden_states=latents.to(dtype),
                timestep=self.at(t, n),
                encoder_hidden_states=embeds.to(dtype),
                return_dict=False,
            )[0]
        result: Tensor = out.to(self.dtype)
        return result

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (n, 3, stride * (frames - 1) + 1, h * factor, w * factor) in [0, 1]."""
        mean, std = self._statistics()
        with self.meter.stage("decode"):
            video: Tensor = (self.vae.decode(latents * std + mean, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        return video

    def encode(self, images: Tensor) -> Tensor:
        """Latents of videos (n, 3, frames, H, W) in [0, 1]: the mode of the encoder's distribution, normalised."""
        mean, std = self._statistics()
        with self.meter.stage("encode"):
            z = self.vae.encode((2 * images - 1).to(self.device, self.dtype)).latent_dist.mode()
            latents: Tensor = (z - mean) / std
        return latents

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the decoder's latents, channel by channel."""
        import torch

        values = (self.vae.config.latents_mean, self.vae.config.latents_std)
        mean, std = (torch.tensor(v, dtype=self.dtype, device=self.device).view(1, -1, 1, 1, 1) for v in values)
        return mean, std

    def _check_table(self, height: int, width: int) -> None:
        side, pixels = getattr(self.transformer.rope, "max_seq_len", None), self.factor
        if side is None:  # no table: positions are computed
            return
        most = side * self.patch
        if max(height, width) > most:
            raise UsageError(
                f"{self.name} knows positions for {side} tokens an axis, that is {most * pixels} px; the network was "
                f"asked for {width * pixels}x{height * pixels} px in one piece. Take a canvas of at most "
                f"{most * pixels} px a side"
            )


def _load(name: str, model: str, revision: str | None, options: Mapping[str, Any]) -> Wan:
    return Wan(name, *load_low(model, revision, LAYOUT, options), **options)


def _load_small(
    model: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    revision: str | None = None,
    shift: float | None = None,
    **options: Any,
) -> Wan:
    """Wan2.1 text to video 1.3B, ScrollScape's backbone, 832x480 px (Apache-2.0)."""
    return _load("wan-1.3b", model, revision, {**options, "shift": shift})


def _load_large(
    model: str = "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    revision: str | None = None,
    shift: float | None = None,
    **options: Any,
) -> Wan:
    """Wan2.1 text to video 14B, 832x480 and 1280x720 px (Apache-2.0)."""
    return _load("wan-14b", model, revision, {**options, "shift": shift})


def _load_world(shift: float | None = None, **options: Any) -> Wan:
    """The embedded miniature of Wan2.1's layout: text to 32 px squares and near-still clips of ScrollWorld."""
    weights, parts = load_low(str(world_folder("world-wan")), None, LAYOUT, options)
    return Wan("world-wan", weights, parts, native=WORLD_CLIP, shift=shift, **options)


def _blank(name: str) -> Any:
    return lambda folder=None, **options: Wan(name, "", blank_parts(folder or name), **options)


def _locate(model: str, revision: str | None, **_: Any) -> Weights:
    return locate(model, revision, LAYOUT)


wan_small = Factory("wan-1.3b", "video", _load_small, _locate, _blank("wan-1.3b"), CHANGES)
wan_large = Factory("wan-14b", "video", _load_large, _locate, _blank("wan-14b"), CHANGES)
world_wan = Factory(
    "world-wan",
    "video",
    _load_world,
    lambda **_: locate(str(world_folder("world-wan")), None, LAYOUT),
    lambda folder=None, **o: Wan(
        "world-wan", "", blank_parts(folder or world_folder("world-wan")), native=WORLD_CLIP, **o
    ),
    CHANGES,
)
