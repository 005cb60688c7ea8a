"""What all latent backbones share: where the modules run, guidance in batches, the decoder, and the options for it.

An adapter adds the text encoders (``condition``), the network's call (``predict``) and the schedule (``scheduler``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.errors import UsageError, near
from methods.backbones.device import target
from methods.backbones.loading import load_parts
from methods.backbones.meter import Meter
from methods.backbones.protocols import Conditioning, Scheduler

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from methods.backbones.identity import Layout

OFFLOADS = ("none", "model", "sequential")
MODULES = ("text_encoder", "text_encoder_2", "text_encoder_3", "unet", "transformer", "vae")  # in order of use


class LatentNetwork(ABC):
    """Frozen modules behind :class:`methods.backbones.LatentBackbone`.

    Guidance, scheduler, merging and the decoder work in float32 (all of it in float64 at ``fp64``); the network runs in
    ``precision``, and so do the text encoders where ``low_precision_text``. On CUDA, convolutions are deterministic
    and without TF32.

    Args:
        name, weights: who this is, as in :class:`methods.backbones.BackboneInfo`.
        parts: the pipeline's components by their folder names; absent ones may be missing or None.
        device: cpu, cuda, cuda:1, mps, or meta (shapes and costs without numbers).
        precision: fp32, bf16, fp16 (GPU only), fp64.
        batch: latents per network call.
        offload: ``none``; ``model`` keeps only the module at work on the GPU; ``sequential`` only the layer at work.
        attention: ``sdpa``, ``eager`` (U-Nets), or a backend of diffusers' dispatcher (FLUX, Wan): rounding only.
        vae_tiling: decode in blended tiles; less memory, other pixels, so it is part of the backbone's name.
        vae_slicing: decode a batch one by one.
        compile: torch.compile of the network; rounding only.

    Raises:
        UsageError: unknown or impossible option values.
        PrerequisiteError: a device that is not here.
    """

    family: str = "latent"
    low_precision_text: ClassVar[bool] = True
    patch: int = 1  # cells a side of the network's token: canvases must be whole tokens
    window: int
    factor: int
    channels: int

    def __init__(
        self,
        name: str,
        weights: str,
        parts: Mapping[str, Any],
        *,
        device: str = "cpu",
        precision: str = "fp32",
        batch: int = 16,
        offload: str = "none",
        attention: str = "sdpa",
        vae_tiling: bool = False,
        vae_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        import torch

        self.device, network_dtype, self.dtype = target(device, precision)
        if batch < 1:
            raise UsageError(f"backbone option batch must be at least 1 latent per network call, got {batch}")
        if offload not in OFFLOADS:
            raise UsageError(f"unknown offload {offload!r}; {near(offload, OFFLOADS)}")
        if offload != "none" and self.device.type != "cuda":
            raise UsageError(f"offload={offload} moves modules off a GPU; on device {device} use offload=none")
        self.name, self.weights, self.precision, self.batch = name, weights, precision, batch
        self.parts = {k: v for k, v in parts.items() if v is not None}
        self.vae = self.parts["vae"]
        for part in MODULES:
            module = self.parts.get(part)
            if module is None:
                continue
            low = part in ("unet", "transformer") or (part.startswith("text") and self.low_precision_text)
            where = self.device if offload == "none" else torch.device("cpu")
            dtype = network_dtype if low else self.dtype
            if getattr(module, "dtype", None) != dtype:  # else what its library keeps in float32 would be cast too
                torch.nn.Module.to(module, dtype)  # diffusers' own `to` warns of such layers even where there are none
            torch.nn.Module.to(module, where).eval().requires_grad_(False)
        if self.device.type == "cuda":  # repeatable pictures, and fp32 that is fp32
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        _choose_attention(self.network, attention)
        if vae_tiling:
            self.vae.enable_tiling()
        if vae_slicing:
            self.vae.enable_slicing()
        if offload != "none":
            _offload([self.parts[p] for p in MODULES if p in self.parts], self.device, offload)
        if compile:
            self.network.compile()
        self.meter = Meter(str(self.device))

    @property
    def network(self) -> Any:
        """The denoiser: ``unet`` or ``transformer``."""
        return self.parts.get("unet") or self.parts["transformer"]

    @abstractmethod
    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative: see :class:`methods.backbones.LatentBackbone`."""

    @abstractmethod
    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler: see :class:`methods.backbones.LatentBackbone`."""

    @abstractmethod
    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The network in one call: see :class:`methods.backbones.LatentBackbone`."""

    def guided(self, latents: Tensor, t: Any, conditioning: Conditioning, guidance: float) -> Tensor:
        """u + g (c - u) in chunks of ``batch`` latents, each one call of [uncond | cond]."""
        import torch

        n, m = latents.shape[0], conditioning.rows
        if m not in (1, n):
            raise UsageError(f"conditioning holds {m} prompts for {n} latents; expected 1 or {n}")

        def rows(table: Tensor, a: int, b: int) -> Tensor:  # rows of latents a..b, both halves or the second only
            halves = [half.expand(n, *half.shape[1:])[a:b] for half in table.chunk(2)]
            return torch.cat(halves) if guidance != 1.0 else halves[1]

        done = []
        for a in range(0, n, self.batch):
            x = latents[a : a + self.batch]
            b = a + x.shape[0]
            out = self.predict(
                x if guidance == 1.0 else torch.cat([x, x]),
                t,
                rows(conditioning.embeds, a, b),
                {k: rows(v, a, b) for k, v in conditioning.added.items()},
            )
            if guidance != 1.0:
                u, c = out.chunk(2)
                out = u + guidance * (c - u)
            done.append(out)
        return torch.cat(done)

    def flag_truncation(self, tokenizer: Any, texts: Sequence[str], limit: int | None = None) -> None:
        """Flag ``prompt-truncated`` on the meter where a text has more tokens than the encoder reads."""
        most = limit or tokenizer.model_max_length
        if max(len(ids) for ids in tokenizer(list(texts)).input_ids) > most:
            self.meter.flag("prompt-truncated")

    def blank_rows(self, tokens: int) -> Tensor:
        """What the text encoder makes of two texts, (2, tokens, width), where only shapes matter.

        For pipelines that look at the numbers of a mask, which the meta device has none of: no mask is used.
        """
        ids = self.parts["tokenizer"](["", ""], padding="max_length", max_length=tokens).input_ids
        rows: Tensor = self.parts["text_encoder"](ids)[0]
        return rows.to(self.dtype)

    def at(self, t: Any, n: int) -> Tensor:
        """A timestep for each of n latents, on the device: what transformers take."""
        import torch

        return torch.as_tensor(t).to(self.device).expand(n)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) in [0, 1], the whole canvas at once unless ``vae_tiling``."""
        config = self.vae.config
        with self.meter.stage("decode"):
            z = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
            pictures: Tensor = (self.vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
        return pictures

    def encode(self, images: Tensor) -> Tensor:
        """Latents of pictures in [0, 1]: the mode of the encoder's distribution, scaled."""
        config = self.vae.config
        with self.meter.stage("encode"):
            z = self.vae.encode((2 * images - 1).to(self.device, self.dtype)).latent_dist.mode()
            latents: Tensor = (z - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor
        return latents


def load_low(
    model: str, revision: str | None, layout: Layout, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """:func:`load_parts` with denoiser and text encoders read straight in the precision asked for, the rest in float32.

    Raises:
        UsageError, PrerequisiteError: as :func:`target`, before anything large is read, and :func:`load_parts`.
    """
    _, network, _ = target(options["device"], options["precision"])
    low = {part: network for part in layout if part in ("unet", "transformer") or part.startswith("text")}
    return load_parts(model, revision, layout, low)


def _choose_attention(network: Any, attention: str) -> None:
    """Set the attention kernel. Raises ``UsageError`` where the network has no such choice."""
    if attention == "sdpa":
        return
    if attention == "eager" and hasattr(network, "down_blocks"):
        from diffusers.models.attention_processor import AttnProcessor

        network.set_attn_processor(AttnProcessor())
        return
    processors = getattr(network, "attn_processors", {}).values()
    # Elsewhere diffusers accepts the call and does nothing.
    if not processors or not all(hasattr(p, "_attention_backend") for p in processors):
        raise UsageError(f"{type(network).__name__} has no attention {attention!r}; use sdpa, or eager on a U-Net")
    try:
        network.set_attention_backend(attention)
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"attention {attention!r} does not work here: {error}") from error


def _offload(modules: list[Any], device: torch.device, offload: str) -> None:
    """Keep modules on the CPU and bring them (``model``) or their layers (``sequential``) to the device when called."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    previous = None
    for module in modules:
        if offload == "sequential":
            cpu_offload(module, device)
        else:
            _, previous = cpu_offload_with_hook(module, device, prev_module_hook=previous)
