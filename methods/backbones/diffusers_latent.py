"""Stable Diffusion pipelines in the diffusers layout: the embedded ``world-sd``, a local folder, or a hub repository.

Components load one by one through their own ``from_pretrained``, safetensors only, so that neither a safety checker
nor pickles are touched. ``describe`` answers from disk: folders by their digest, hub repositories by the commit in
the local cache (``repo@commit``), so a branch that moves is another backbone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, UsageError, near
from methods.backbones import Conditioning, Factory, Scheduler
from methods.backbones.meter import Meter
from methods.backbones.weights import fetch_command, hub_commit, identity, place, quiet, world_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


class DiffusersLatent:
    """A Stable-Diffusion-like network behind :class:`methods.backbones.LatentBackbone`.

    The U-Net runs in ``precision``; text encoder, decoder, guidance, scheduler and merging stay in float32 (all of it
    in float64 at ``fp64``). Prompts are encoded as by ``StableDiffusionPipeline``: 77 tokens, the rest cut off, which
    is flagged on the meter. The scheduler is DDIM built from the checkpoint's scheduler config, whatever that was
    written for, as the MultiDiffusion family does. On CUDA, convolutions are deterministic and without TF32.

    Attributes:
        unet, vae, text_encoder, tokenizer: the diffusers and transformers objects, for samplers that work inside them.
    """

    family = "latent"

    def __init__(
        self,
        name: str,
        weights: str,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: Mapping[str, Any],
        device: str = "cpu",
        precision: str = "fp32",
        batch: int = 16,
    ) -> None:
        import torch

        self.device, network, self.dtype = _target(device, precision)
        if batch < 1:
            raise UsageError(f"backbone option batch must be at least 1 latent per network call, got {batch}")
        self.name, self.weights, self.precision, self.batch = name, weights, precision, batch
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        for module, dtype in ((unet, network), (vae, self.dtype), (text_encoder, self.dtype)):
            if module is not None:
                # diffusers' own `to` warns of layers to be kept in float32 even where it lists none
                torch.nn.Module.to(module, self.device, dtype).eval().requires_grad_(False)
        if self.device.type == "cuda":  # repeatable pictures, and fp32 that is fp32
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        side = unet.config.sample_size
        self.window = int(side if isinstance(side, int) else max(side))
        self.channels = int(unet.config.in_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self._scheduler_config = dict(scheduler_config)
        self.meter = Meter(str(self.device))

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Embeddings (2, 77, width), row 0 of the negative prompt. Flags ``prompt-truncated`` where words were cut."""
        import torch

        limit = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        with self.meter.stage("text"), torch.no_grad():
            texts = [negative, prompt]
            if max(len(ids) for ids in self.tokenizer(texts).input_ids) > limit:
                self.meter.flag("prompt-truncated")
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

    def scheduler(self, steps: int) -> Scheduler:
        """A fresh DDIM scheduler (eta 0) with ``steps`` timesteps."""
        import torch
        from diffusers import DDIMScheduler

        most = int(self._scheduler_config.get("num_train_timesteps", 1000))
        if not 1 <= steps <= most:
            raise UsageError(f"steps must be 1 to {most}, got {steps}")
        known = inspect.signature(DDIMScheduler.__init__).parameters  # a PNDM config has more, without meaning here
        made = DDIMScheduler.from_config({k: v for k, v in self._scheduler_config.items() if k in known})
        if self.dtype == torch.float64:  # tables too, or the arithmetic is float32 at heart
            made.alphas_cumprod = made.alphas_cumprod.double()
            made.final_alpha_cumprod = made.final_alpha_cumprod.double()
        made.set_timesteps(steps)
        result: Scheduler = made
        return result

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The U-Net in one call on (n, channels, h, w) with embeddings (n, tokens, width)."""
        self.meter.count(latents.shape[0])
        dtype = self.unet.dtype
        extra = {"added_cond_kwargs": {k: v.to(dtype) for k, v in added.items()}} if added else {}
        with self.meter.stage("denoise"):
            out = self.unet(latents.to(dtype), t, encoder_hidden_states=embeds.to(dtype), return_dict=False, **extra)[0]
        result: Tensor = out.to(self.dtype)
        return result

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

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) in [0, 1], the whole canvas at once, no tiling."""
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


def _target(device: str, precision: str) -> tuple[torch.device, torch.dtype, torch.dtype]:
    """(device, dtype of the network, dtype of everything else), or the error that says what is wrong with them."""
    import torch

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; {near(precision, PRECISIONS)}")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; expected cpu, cuda, cuda:1, mps, ...") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError(f"device {device!r}: torch sees no CUDA device; use cpu, or see `scrollbench doctor`")
    if precision == "fp16" and target.type == "cpu":
        raise UsageError("precision fp16 is for GPUs: on the CPU use fp32 or bf16")
    return target, getattr(torch, PRECISIONS[precision]), torch.float64 if precision == "fp64" else torch.float32


def _load(name: str, source: str, weights: str | None, revision: str | None, **options: Any) -> DiffusersLatent:
    """Load every component of a folder or hub repository through its own from_pretrained."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from safetensors import SafetensorError
    from transformers import CLIPTextModel, CLIPTokenizer

    _target(options["device"], options["precision"])  # before anything large is read
    where: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        with quiet():
            parts: dict[str, Any] = {
                "tokenizer": CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **where),
                "scheduler_config": DDIMScheduler.load_config(source, subfolder="scheduler", **where),
            }
            for part, cls in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)):
                parts[part], report = cls.from_pretrained(
                    source, subfolder=part, use_safetensors=True, output_loading_info=True, **where
                )
                if report["missing_keys"]:  # from_pretrained would go on with random numbers in their place
                    missing = sorted(report["missing_keys"])
                    raise UsageError(
                        f"{source}: {part} is partial: {len(missing)} tensors missing, first {missing[0]!r}"
                    )
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise UsageError(f"{source}: the weights do not load: {error}") from error
    except OSError as error:
        if Path(source).is_dir():
            raise UsageError(f"{source}: the weights do not load: {error}") from error
        raise PrerequisiteError(
            f"{source}: not in the local cache and not fetched ({str(error).strip().splitlines()[0]}). "
            f"Fetch it with: {fetch_command(source, revision)}"
        ) from error
    unet, vae, text = parts["unet"].config, parts["vae"].config, parts["text_encoder"].config
    if unet.in_channels != vae.latent_channels or unet.cross_attention_dim != text.hidden_size:
        raise UsageError(
            f"{source}: not a plain text-to-image Stable Diffusion: the U-Net takes {unet.in_channels} channels and "
            f"text {unet.cross_attention_dim} wide; the decoder has {vae.latent_channels} channels, the text encoder "
            f"is {text.hidden_size} wide"
        )
    if weights is None:
        weights = f"{source}@{hub_commit(source, revision) or revision}"
    return DiffusersLatent(name, weights, **parts, **options)


def _load_world(device: str = "cpu", precision: str = "fp32", batch: int = 16) -> DiffusersLatent:
    """The embedded miniature: text to 32 px squares of ScrollWorld, trained from scratch."""
    folder = world_folder()
    weights = identity(folder)
    return _load("world-sd", str(folder), weights, None, device=device, precision=precision, batch=batch)


def _identify_world(**options: Any) -> str:
    return identity(world_folder())


def _load_any(
    model: str, revision: str | None = None, device: str = "cpu", precision: str = "fp32", batch: int = 16
) -> DiffusersLatent:
    """A Stable Diffusion 1.x or 2.x checkpoint (epsilon, v or x prediction) from a folder or the hub.

    ``model`` is a folder or ``owner/name``; pin ``revision`` to a commit. Hub files come from the local cache, or from
    the network unless HF_HUB_OFFLINE=1.
    """
    folder = place(model)
    options: dict[str, Any] = {"device": device, "precision": precision, "batch": batch}
    if folder is None:
        return _load("diffusers", model, None, revision, **options)
    return _load("diffusers", str(folder), identity(folder), None, **options)


def _identify_any(**options: Any) -> str:
    model, revision = options["model"], options["revision"]
    folder = place(model)
    if folder is not None:
        return identity(folder)
    commit = hub_commit(model, revision)
    if commit is None:
        raise PrerequisiteError(
            f"{model} at {revision or 'main'} is not in the local cache, so its commit is unknown. "
            f"Fetch it with: {fetch_command(model, revision)}"
        )
    return f"{model}@{commit}"


world_sd = Factory("world-sd", "latent", _load_world, _identify_world)
from_pretrained = Factory("diffusers", "latent", _load_any, _identify_any)
