"""Changing how a U-Net attends while it samples, and putting everything back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.errors import UsageError
from methods.backbones import LatentBackbone


def unet_of(backbone: LatentBackbone, method: str) -> Any:
    """The backbone's U-Net. Raises ``UsageError`` where the network is another one, e.g. a transformer."""
    unet = getattr(backbone, "unet", None)
    if unet is None or not hasattr(unet, "set_attn_processor"):
        raise UsageError(
            f"{method} works inside the attention layers of a U-Net (Stable Diffusion, SDXL); backbone "
            f"{backbone.name} has none"
        )
    return unet


def attention_layers(unet: Any) -> list[Any]:
    """Every attention layer of a U-Net, in the order of its modules."""
    return [module for module in unet.modules() if hasattr(module, "set_processor")]


@contextmanager
def processors(unet: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Put ``wrap(processor)`` in place of every attention processor; the old ones come back at the end.

    A processor is called as ``processor(layer, hidden, text or None, mask, ...)`` with hidden (n, tokens, width).
    """
    layers = attention_layers(unet)
    before = [layer.processor for layer in layers]
    for layer, processor in zip(layers, before):
        layer.set_processor(wrap(processor))
    try:
        yield
    finally:
        for layer, processor in zip(layers, before):
            layer.set_processor(processor)


@contextmanager
def embedded_guidance(unet: Any, scale: float, device: Any) -> Iterator[None]:
    """Give a U-Net with ``time_cond_proj_dim`` its guidance scale w: sines and cosines of 1000 w beside the timestep.

    Meng et al., CVPR 2023, arXiv:2210.03142 (distilled guidance); the embedding is that of diffusers' LCM pipelines.
    It is made on the ``device`` that the network computes on, which is not where an offloaded one lies.
    """
    import torch
    from diffusers.models.embeddings import get_timestep_embedding

    w = torch.tensor([1000.0 * scale], device=device)
    embedding = get_timestep_embedding(w, unet.config.time_cond_proj_dim, downscale_freq_shift=1)

    def with_scale(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        time = inputs[0]
        return time, embedding.to(time.dtype).expand(time.shape[0], -1)

    hook = unet.time_embedding.register_forward_pre_hook(with_scale)
    try:
        yield
    finally:
        hook.remove()
