"""PixArt-Sigma XL: a small diffusion transformer that reads long prompts through T5, 1024 px squares.

Chen et al., arXiv:2403.04692. Text to latents as diffusers' ``PixArtSigmaPipeline`` (``use_resolution_binning=False``,
``clean_caption=False``), to which ``direct`` is equal at equal noise: T5 reads 300 tokens under a mask, and the
channels of the learned variance are cut off.

Deviations from the pipeline's defaults, both on purpose:

* no resolution binning. It would generate 4096x512 at 2048x512 or 4096x1024 and resize and crop it, without a word;
* captions are lower-cased and stripped, not cleaned. Cleaning rewrites prompts, and only where beautifulsoup4 happens
  to be installed.

Positions are sines and cosines, each axis stretched for itself to the native square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from methods.backbones import Conditioning, Factory, Scheduler
from methods.backbones.components import blank_parts
from methods.backbones.latent import LatentNetwork, load_low
from methods.backbones.schedules import make_scheduler
from methods.backbones.weights import Part, locate

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = {
    "transformer": Part("PixArtTransformer2DModel", formerly="Transformer2DModel"),
    "vae": Part("AutoencoderKL"),
    "text_encoder": Part("T5EncoderModel"),
    "tokenizer": Part("T5TokenizerFast", weights=False),
    "scheduler": Part("DPMSolverMultistepScheduler", weights=False),
}

T5_TOKENS = 300


class PixArt(LatentNetwork):
    """PixArt-Sigma behind :class:`methods.backbones.LatentBackbone`.

    See :class:`methods.backbones.latent.LatentNetwork`.
    """

    def __init__(self, name: str, weights: str, parts: Mapping[str, Any], **options: Any) -> None:
        from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

        super().__init__(name, weights, parts, **options)
        self.transformer = self.parts["transformer"]
        config = self.transformer.config
        self.window, self.channels, self.patch = config.sample_size, config.in_channels, config.patch_size
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._scheduler_config = dict(parts["scheduler"])
        self._pipeline = PixArtSigmaPipeline(**{**self.parts, "scheduler": DPMSolverMultistepScheduler()})

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 300, width of T5) and their ``encoder_attention_mask`` (2, 300)."""
        import torch

        with self.meter.stage("text"), torch.no_grad():
            if self.device.type == "meta":
                rows = self.blank_rows(T5_TOKENS)
                return Conditioning(rows, {"encoder_attention_mask": torch.ones_like(rows[..., 0])})
            texts = self._pipeline._text_preprocessing([prompt, negative])
            self.flag_truncation(self.parts["tokenizer"], texts, T5_TOKENS)
            cond, shown, uncond, hidden = self._pipeline.encode_prompt(
                prompt, negative_prompt=negative, device=self.device, max_sequence_length=T5_TOKENS
            )
        mask = torch.cat([hidden, shown])
        return Conditioning(torch.cat([uncond, cond]).to(self.dtype), {"encoder_attention_mask": mask})

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler, the same for every size. It is a multistep solver: all windows must step in one call."""
        return make_scheduler(self._scheduler_config, steps, double=self.precision == "fp64")

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The transformer in one call on (n, channels, h, w); ``added`` holds ``encoder_attention_mask``."""
        n = latents.shape[0]
        self.meter.count(n)
        dtype = self.transformer.dtype
        with self.meter.stage("denoise"):
            out = self.transformer(
                latents.to(dtype),
                encoder_hidden_states=embeds.to(dtype),
                timestep=self.at(t, n),
                added_cond_kwargs=self._micro_conditions(latents),
                return_dict=False,
                **(added or {}),
            )[0]
        if out.shape[1] == 2 * self.channels:  # the second half is the learned variance
            out = out[:, : self.channels]
        result: Tensor = out.to(self.dtype)
        return result

    def _micro_conditions(self, latents: Tensor) -> dict[str, Any]:
        """Size and aspect of what the network sees, for checkpoints that ask (PixArt-alpha's 1024 px ones do)."""
        import torch

        if not self.transformer.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        n, _, *sides = latents.shape
        height, width = (float(side * self.factor) for side in sides)
        sizes = {"resolution": [height, width], "aspect_ratio": [height / width]}
        return {k: torch.tensor([v], device=self.device).expand(n, -1) for k, v in sizes.items()}


def _load(model: str = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", revision: str | None = None, **options: Any) -> PixArt:
    """PixArt-Sigma XL, 1024 px squares (CreativeML Open RAIL++-M)."""
    return PixArt("pixart-sigma", *load_low(model, revision, LAYOUT, options), **options)


pixart_sigma = Factory(
    "pixart-sigma",
    "latent",
    _load,
    lambda **o: locate(o["model"], o["revision"], LAYOUT),
    lambda **o: PixArt("pixart-sigma", "", blank_parts("pixart-sigma"), **o),
)
