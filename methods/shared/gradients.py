"""What samplers need that descend on a loss while they sample: gradients that fit into memory, and the loss network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from bench import extractors
from bench.errors import UsageError
from methods.backbones import LatentBackbone, Scheduler, Tensor

LPIPS_MIN = 32  # px; the deeper layers have nothing left below it


def needs_ddim(scheduler: Scheduler, method: str) -> None:
    """Refuse a scheduler that keeps state: these samplers step the same cells more than once at one timestep."""
    if type(scheduler).__name__ != "DDIMScheduler":
        raise UsageError(
            f"{method} steps windows more than once at a timestep, which only DDIM allows; this backbone's scheduler "
            f"is {type(scheduler).__name__}: use a Stable Diffusion or SDXL backbone with the option sampler=ddim"
        )


@contextmanager
def checkpointing(backbone: LatentBackbone, method: str) -> Iterator[None]:
    """Inside, a backward pass keeps only the inputs of the network's and decoder's blocks and computes the rest anew.

    Costs about one forward pass more; evaluations are counted once. Everything is as it was afterwards.

    Raises:
        UsageError: modules are moved to and fro (``offload``): their weights would be gone when the gradient comes.
    """
    parts: dict[str, Any] = getattr(backbone, "parts", {})
    modules = [parts[p] for p in ("unet", "transformer", "vae") if p in parts]
    if any(hasattr(m, "_hf_hook") for module in modules for m in module.modules()):
        raise UsageError(f"{method} differentiates through the network, so it must stay on the GPU: use offload=none")
    changed = [m for m in modules if hasattr(m, "enable_gradient_checkpointing") and not m.is_gradient_checkpointing]
    for module in changed:
        module.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for module in changed:
            module.disable_gradient_checkpointing()


def perceptual_loss(name: str, backbone: LatentBackbone) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS as a loss: pictures (n, 3, h, w) in [-1, 1] against one of them (1, 3, h, w) -> (n,), differentiable.

    The networks are those of :mod:`bench.extractors`: Zhang et al., CVPR 2018, version 0.1. A network other than
    ``lpips-vgg`` is noted on the meter (``loss=NAME``). On the meta device no weights are needed.

    Raises:
        UsageError: an unknown name, or a network that is not LPIPS.
        PrerequisiteError: weights that are not on this machine, with the command that fetches them.
    """
    network = _network(name, str(backbone.device), backbone.dtype)
    if name != "lpips-vgg":
        backbone.meter.flag(f"loss={name}")

    def loss(pictures: Tensor, target: Tensor) -> Tensor:
        distances: Tensor = network(pictures, target.expand_as(pictures))
        return distances.flatten()

    return backbone.meter.remember(loss)


@lru_cache(maxsize=1)
def _network(name: str, device: str, dtype: Any) -> Any:
    if extractors.role(name) != "lpips":
        raise UsageError(f"{name} is no perceptual distance; use lpips-vgg, lpips-alex, lpips-squeeze or world-lpips")
    spec = extractors.NAMES.get(name)
    if device == "meta" and spec is not None and spec.model:
        import lpips
        import torch

        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by arguments of old
            model = lpips.LPIPS(net=spec.model, pretrained=False, pnet_rand=True, verbose=False)
        return model.requires_grad_(False).to("meta", dtype)  # its constants do not follow torch.device
    loaded: Any = extractors.load(name, "cpu" if device == "meta" else device)
    return loaded.model.to(device, dtype)
