"""What a latent sampler may ask of a network, and how a backbone is named before anything is loaded.

Importing this package does not import torch: plans need identities only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import UsageError, near

if TYPE_CHECKING:
    import torch
    from torch import Tensor as Tensor

    from methods.backbones.meter import Meter
else:  # the name is needed when signatures are read; torch itself is not
    Tensor = Any


@dataclass(frozen=True)
class BackboneInfo:
    """Who a backbone is: enough for a recipe, known without loading weights.

    ``weights_digest`` is a folder's digest, or ``repo@commit`` for a hub repository.
    """

    name: str
    family: str
    weights_digest: str


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
    channels: int
    batch: int  # latents per network call: speed and memory; the picture but for its last bits stays the same
    device: torch.device
    dtype: torch.dtype
    meter: Meter

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative (m = 1)."""
        ...

    def scheduler(self, steps: int) -> Scheduler:
        """A fresh scheduler with its timesteps set; one per picture, as schedulers keep state."""
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


class Factory:
    """A backbone's entry point: call it with options to load the network, ``describe`` it to learn who it is.

    Args:
        name: what the backbone is called in the registry.
        family: ``latent``, ``tokens`` or ``video``.
        load: keyword options -> backbone.
        identify: the same options -> weights digest; must not load weights.
    """

    def __init__(self, name: str, family: str, load: Callable[..., Any], identify: Callable[..., str]) -> None:
        self.name, self.family, self.load, self._identify = name, family, load, identify
        self.__signature__ = inspect.signature(load)  # what help() and inspect show
        self.options = {p.name: p.default for p in self.__signature__.parameters.values()}
        self.__doc__ = inspect.getdoc(load)

    @property
    def summary(self) -> str:
        """First line of the loader's docstring."""
        return (self.__doc__ or "").partition("\n")[0]

    def __call__(self, **options: Any) -> Any:
        """Load. Raises ``UsageError`` on unknown options, ``PrerequisiteError`` where something must be fetched."""
        return self.load(**self._checked(options))

    def describe(self, **options: Any) -> BackboneInfo:
        """Name, family and weights digest under these options. Raises like loading does, but loads nothing."""
        return BackboneInfo(self.name, self.family, self._identify(**self._checked(options)))

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        for key in options:
            if key not in self.options:
                raise UsageError(f"backbone {self.name!r} has no option {key!r}; {near(key, self.options)}")
        given = {**self.options, **options}
        for key, value in given.items():
            if value is inspect.Parameter.empty:
                raise UsageError(f"backbone {self.name!r} needs the option {key!r}, e.g. {key}=...")
        return given
