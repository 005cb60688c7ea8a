"""FLUX.1-dev and FLUX.1-Krea-dev: guidance-distilled diffusion transformers with rotary positions, 1024 px squares.

Text to latents as diffusers' ``FluxPipeline``, to which ``direct`` is equal at equal noise: CLIP gives a pooled vector
(77 tokens), T5 reads 512. Latents are (n, 16, h, w) outside and 2x2 patches inside.

* Guidance is an input of the network, not a difference of two calls: ``guided`` is one evaluation a latent, with the
  conditional row alone. The conditioning still holds [uncond | cond], so a sampler can run true classifier-free
  guidance through ``predict``; PROPOSAL: there the guidance input is 1 unless ``added["guidance"]`` says otherwise.
* The timestep shift mu grows with the tokens the network sees, as in the pipeline: 1.15 at the native square, 3.23 at
  4096x1024, 11.55 at 4096x4096, where all 28 sigmas are above 0.9996 and the last step jumps to 0. DyPE's code keeps
  mu = 1.15 at every size, also for its FLUX baseline. Both are offered (option ``mu``), as both are in use.
* Positions are float32. The pipeline's are of the network's type: in bfloat16 whole numbers end at 256 and positions
  behind 4096 px fall together two by two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from methods.backbones.factory import Factory
from methods.backbones.identity import Part, Weights, locate, world_folder
from methods.backbones.loading import blank_parts
from methods.backbones.network import LatentNetwork, load_low
from methods.backbones.protocols import Conditioning, Scheduler
from methods.backbones.schedules import dynamic_mu, make_scheduler

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "transformer": Part("FluxTransformer2DModel"),
    "vae": Part("AutoencoderKL"),
    "text_encoder": Part("CLIPTextModel"),
    "text_encoder_2": Part("T5EncoderModel"),
    "tokenizer": Part("CLIPTokenizer", weights=False),
    "tokenizer_2": Part("T5TokenizerFast", weights=False),
    "scheduler": Part("FlowMatchEulerDiscreteScheduler", weights=False),
}

CHANGES = ("mu", "vae_tiling")
T5_TOKENS = 512
WORLD_SIDE = 8  # cells of the miniature's square
MAX_SHIFT = 1.15  # the pipeline's, where the scheduler names none


class Flux(LatentNetwork):
    """FLUX.1 behind :class:`methods.backbones.LatentBackbone`.

    Args:
        window: cells a side of the native square: the pipeline's, as the network's config names no size.
        mu: the timestep shift at every size; None lets it grow with the canvas.
        others: see :class:`methods.backbones.network.LatentNetwork`.

    Raises:
        UsageError: also on a ``mu`` that is no number, and on networks without a guidance input (FLUX.1-schnell).
    """

    patch = 2

    def __init__(
        self,
        name: str,
        weights: str,
        parts: Mapping[str, Any],
        *,
        window: int = 128,
        mu: float | None = None,
        **options: Any,
    ) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

        if mu is not None and type(mu) not in (int, float):
            raise UsageError(f"option mu takes a number such as 1.15, or none to follow the canvas; got {mu!r}")
        super().__init__(name, weights, parts, **options)
        self.transformer = self.parts["transformer"]
        if not self.transformer.config.guidance_embeds:
            raise UsageError(
                f"{name}: this FLUX takes no guidance (guidance_embeds is false); expected FLUX.1-dev's kind"
            )
        self.channels = self.transformer.config.in_channels // self.patch**2
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.window, self._tokens = window, min(T5_TOKENS, self.parts["tokenizer_2"].model_max_length)
        self._mu, self._scheduler_config = mu, dict(parts["scheduler"])
        self._pipeline = FluxPipeline(**{**self.parts, "scheduler": FlowMatchEulerDiscreteScheduler()})

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings of T5 (2, 512 or the tokenizer's most, width) and ``pooled_projections`` of CLIP (2, width)."""
        import torch

        with self.meter.stage("text"), torch.no_grad():
            for part, limit in (("tokenizer", None), ("tokenizer_2", self._tokens)):
                self.flag_truncation(self.parts[part], [prompt, negative], limit)
            # One text at a time, as the pipeline does: batched matrix products round differently.
            rows = [
                self._pipeline.encode_prompt(text, device=self.device, max_sequence_length=self._tokens)[:2]
                for text in (negative, prompt)
            ]
        embeds, pools = (torch.cat(pair).to(self.dtype) for pair in zip(*rows))
        return Conditioning(embeds, {"pooled_projections": pools})

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler, shifted by ``mu`` or by the tokens of ``size``."""
        import numpy as np

        height, width = size or (self.window, self.window)
        config, tokens = self._scheduler_config, height * width // self.patch**2
        mu = dynamic_mu(config, tokens, MAX_SHIFT) if self._mu is None else self._mu
        sigmas = None if config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        return make_scheduler(config, steps, double=self.precision == "fp64", sigmas=sigmas, mu=mu)

    def guided(self, latents: Tensor, t: Any, conditioning: Conditioning, guidance: float) -> Tensor:
        """One evaluation a latent with the conditional rows, guidance being an input; chunks of ``batch``."""
        import torch

        scale = torch.full((2 * conditioning.rows,), guidance, dtype=torch.float32, device=self.device)
        told = replace(conditioning, added={**conditioning.added, "guidance": scale})
        return super().guided(latents, t, told, 1.0)

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The transformer in one call on (n, 16, h, w).

        ``added`` holds ``pooled_projections`` and, if the sampler likes, ``guidance`` (n); 1 where it is absent.
        """
        import torch
        from torch.nn.functional import pixel_shuffle, pixel_unshuffle

        extra = dict(added or {})
        n, _, height, width = latents.shape
        self.meter.count(n)
        dtype, grid = self.transformer.dtype, (height // self.patch, width // self.patch)
        axes = (torch.arange(side, dtype=torch.float32, device=self.device) for side in (1, *grid))
        with self.meter.stage("denoise"):
            out = self.transformer(
                hidden_states=pixel_unshuffle(latents.to(dtype), self.patch).flatten(2).transpose(1, 2),
                timestep=self.at(t, n).to(dtype) / 1000,
                guidance=extra.get("guidance", torch.ones(n, device=self.device)),
                pooled_projections=extra["pooled_projections"].to(dtype),
                encoder_hidden_states=embeds.to(dtype),
                txt_ids=torch.zeros(embeds.shape[1], 3, device=self.device),
                img_ids=torch.cartesian_prod(*axes),
                return_dict=False,
            )[0]
            result: Tensor = pixel_shuffle(out.transpose(1, 2).unflatten(2, grid), self.patch).to(self.dtype)
        return result


def _load(name: str, model: str, revision: str | None, options: Mapping[str, Any]) -> Flux:
    return Flux(name, *load_low(model, revision, LAYOUT, options), **options)


def _load_dev(
    model: str = "black-forest-labs/FLUX.1-dev", revision: str | None = None, mu: float | None = None, **options: Any
) -> Flux:
    """FLUX.1-dev, 1024 px squares (FLUX.1 [dev] Non-Commercial License, gated)."""
    return _load("flux-dev", model, revision, {**options, "mu": mu})


def _load_krea(
    model: str = "black-forest-labs/FLUX.1-Krea-dev",
    revision: str | None = None,
    mu: float | None = None,
    **options: Any,
) -> Flux:
    """FLUX.1-Krea-dev, DyPE's backbone, 1024 px squares (FLUX.1 [dev] Non-Commercial License, gated)."""
    return _load("flux-krea", model, revision, {**options, "mu": mu})


def _load_world(mu: float | None = None, **options: Any) -> Flux:
    """The embedded miniature of FLUX.1-dev's layout: text to 32 px squares of ScrollWorld, trained from scratch."""
    weights, parts = load_low(str(world_folder("world-flux")), None, LAYOUT, options)
    return Flux("world-flux", weights, parts, window=WORLD_SIDE, mu=mu, **options)


def _blank(name: str) -> Any:
    return lambda folder=None, **options: Flux(name, "", blank_parts(folder or name), **options)


def _locate(model: str, revision: str | None, **_: Any) -> Weights:
    return locate(model, revision, LAYOUT)


flux_dev = Factory("flux-dev", "latent", _load_dev, _locate, _blank("flux-dev"), CHANGES)
flux_krea = Factory("flux-krea", "latent", _load_krea, _locate, _blank("flux-krea"), CHANGES)
world_flux = Factory(
    "world-flux",
    "latent",
    _load_world,
    lambda **_: locate(str(world_folder("world-flux")), None, LAYOUT),
    lambda folder=None, **o: Flux(
        "world-flux", "", blank_parts(folder or world_folder("world-flux")), window=WORLD_SIDE, **o
    ),
    CHANGES,
)
