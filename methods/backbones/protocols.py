"""What a latent sampler may ask of a network, and how a backbone is named before anything is loaded.

Importing this package does not import torch: plans need identities only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor as Tensor

    from methods.backbones.meter import Meter, SharedMeter
else:  # the name is needed when signatures are read; torch itself is not
    Tensor = Any


@dataclass(frozen=True)
class BackboneInfo:
    """Who a backbone is: enough for a recipe, known without loading weights.

    ``weights_digest`` is the digest of all that is loaded; ``source`` says where that came from (``owner/name@commit``,
    or a folder) and is no part of the identity: the same files elsewhere are the same weights.
    """

    name: str
    family: str
    weights_digest: str
    source: str = ""


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, all unconditional rows first: ``embeds`` is (2m, tokens, width), [uncond m | cond m].

    m = 1 serves any number of latents; m = n gives each of n latents its own prompt. ``added`` holds further rows
    a network wants (pooled text, time ids), in the same order, under the network's own argument names.
    """

    embeds: Tensor
    added: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def rows(self) -> int:
        """m, the number of prompts."""
        return int(self.embeds.shape[0]) // 2


class Scheduler(Protocol):
    """The part of a diffusers scheduler that samplers use."""

    timesteps: Tensor
    init_noise_sigma: Any

    def scale_model_input(self, sample: Tensor, timestep: Any) -> Tensor:
        """The network's input for a noisy sample."""
        ...

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor) -> Any:
        """One step; ``.prev_sample`` is the next, less noisy sample."""
        ...


class LatentBackbone(Protocol):
    """A frozen text-to-image network seen from its latent space.

    Latents are (n, channels, h, w) in ``dtype`` on ``device``, one cell standing for ``factor`` x ``factor`` pixels.
    Nothing here switches gradients off: a sampler that differentiates through the network can, the others wrap
    their loop in ``torch.no_grad()``.
    """

    name: str
    family: str
    weights: str  # digest, as in BackboneInfo
    precision: str
    window: int  # side of the native square, in cells
    factor: int  # pixels per cell
    patch: int  # cells a side of the network's token; canvases and windows are whole tokens
    channels: int
    batch: int  # latents per network call: speed and memory; the picture but for its last bits stays the same
    device: torch.device
    dtype: torch.dtype
    meter: Meter

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative (m = 1)."""
        ...

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler with its timesteps set; one per picture, as schedulers keep state.

        ``size`` is the (height, width) in cells that the network sees in one call, the native square if None: some
        schedules (FLUX) shift with it.
        """
        ...

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The raw network in one call, a row of ``embeds`` for every latent. Counts n evaluations."""
        ...

    def guided(self, latents: Tensor, t: Any, conditioning: Conditioning, guidance: float) -> Tensor:
        """Classifier-free guidance u + g (c - u), (n, channels, h, w); 2n evaluations, n where g is exactly 1.

        Latents go through the network in chunks of ``batch``, always cut the same way.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, h * factor, w * factor) in [0, 1]."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents of pictures (n, 3, H, W) in [0, 1]."""
        ...


class TokenWalk(Protocol):
    """An autoregressive network on its way through a grid of tokens, of one picture or of several in step.

    It owns the key-value cache.

    Positions count cells in raster order from 0. An entry may be written again: later tokens then see the new one,
    and entries behind a position are never seen from it, however old. A step on a position before which something was
    never told is refused with ``UsageError``.
    """

    def tell(self, conditioning: Conditioning) -> Tensor:
        """Put the prompts into the text slots, one for all pictures or one each; tokens stay.

        Returns the guided logits (pictures, codes) of position 0, float32.
        """
        ...

    def feed(self, tokens: Tensor | Sequence[int], positions: Sequence[int]) -> Tensor:
        """Put n tokens at n positions that follow each other in one call, each seeing itself and all before it.

        ``tokens`` are (pictures, n), or (n) for all pictures alike. Returns the guided logits u + g (c - u) of the
        token after the last one given, (pictures, codes), float32. Counts 2 evaluations a picture whatever n is, 1
        where g is exactly 1.
        """
        ...

    def reset(self) -> None:
        """Forget the prompt and all tokens."""
        ...


class TokensBackbone(Protocol):
    """A frozen text-to-image network that writes a grid of tokens one by one, each ``factor`` x ``factor`` pixels.

    As in :class:`LatentBackbone` nothing here switches gradients off.
    """

    name: str
    family: str
    weights: str  # digest, as in BackboneInfo
    precision: str
    side: int  # of the native square, in tokens
    factor: int  # pixels per token
    codes: int  # size of the codebook
    batch: int  # pictures that may walk together
    device: torch.device
    dtype: torch.dtype  # of pictures
    meter: SharedMeter

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative (m = 1); ``added["mask"]`` (2, slots) is true where there is text."""
        ...

    def walk(self, grid: tuple[int, int], guidance: float, pictures: int = 1) -> TokenWalk:
        """A fresh walk over a grid of (height, width) tokens, with room for all of them.

        A walk of several ``pictures`` gives each the logits it has alone, or says where it does not.
        """
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Picture (3, h * factor, w * factor) in [0, 1] of tokens (h, w)."""
        ...

    def encode(self, image: Tensor) -> Tensor:
        """Tokens (h, w) of a picture (3, h * factor, w * factor) in [0, 1]."""
        ...


class VideoBackbone(Protocol):
    """A frozen text-to-video network seen from its latent space.

    Latents are (n, channels, frames, h, w) in ``dtype`` on ``device``. The first latent frame stands for one picture,
    each further one for ``stride`` pictures; a cell stands for ``factor`` x ``factor`` pixels. As in
    :class:`LatentBackbone` nothing here switches gradients off.
    """

    name: str
    family: str
    weights: str  # digest, as in BackboneInfo
    precision: str
    native: tuple[int, int, int]  # (latent frames, height, width in cells) of the clip it was made for
    factor: int  # pixels per cell
    stride: int  # pictures per latent frame after the first
    patch: int  # cells a side of the network's token; canvases are whole tokens
    channels: int
    batch: int  # latents per network call
    device: torch.device
    dtype: torch.dtype
    meter: Meter

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative (m = 1)."""
        ...

    def scheduler(self, steps: int, size: tuple[int, int] | None = None) -> Scheduler:
        """A fresh scheduler with its timesteps set; ``size`` is the (height, width) of a frame in cells."""
        ...

    def predict(self, latents: Tensor, t: Any, embeds: Tensor, added: Mapping[str, Tensor] | None = None) -> Tensor:
        """The raw network in one call, a row of ``embeds`` for every latent. Counts n evaluations."""
        ...

    def guided(self, latents: Tensor, t: Any, conditioning: Conditioning, guidance: float) -> Tensor:
        """Classifier-free guidance, as in :class:`LatentBackbone`."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Videos (n, 3, stride * (frames - 1) + 1, h * factor, w * factor) in [0, 1]."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents of videos (n, 3, stride * k + 1, H, W) in [0, 1]."""
        ...
