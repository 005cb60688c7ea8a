"""What a latent sampler may ask of a network, and how a backbone is named before anything is loaded.

Importing this package does not import torch: plans need identities only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import UsageError, near

if TYPE_CHECKING:
    import torch
    from torch import Tensor as Tensor

    from methods.backbones.meter import Meter
    from methods.backbones.weights import Weights
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


# What every pretrained latent backbone can be told besides what it is; see methods.backbones.latent.LatentNetwork.
OPTIONS: Mapping[str, Any] = MappingProxyType({
    "device": "cpu", "precision": "fp32", "batch": 16, "offload": "none", "attention": "sdpa",
    "vae_tiling": False, "vae_slicing": False, "compile": False,
})  # fmt: skip


class Factory:
    """A backbone's entry point: call it with options to load the network, ``describe`` it to learn who it is.

    Args:
        name: what the backbone is called in the registry.
        family: ``latent``, ``tokens`` or ``video``.
        load: keyword options -> backbone; where it takes ``**options`` the common ``OPTIONS`` are added.
        locate: the same options -> the weights, found and identified without loading them.
        blank: the same options -> the full-size backbone on the meta device, without weights; None if not known. Where
            it takes ``folder``, a pipeline's, that pipeline's size instead.
        changes: options that change the pixels on purpose; where not at their default they become part of the name.
    """

    def __init__(
        self,
        name: str,
        family: str,
        load: Callable[..., Any],
        locate: Callable[..., Weights],
        blank: Callable[..., Any] | None = None,
        changes: Sequence[str] = ("vae_tiling",),
    ) -> None:
        self.name, self.family, self.load, self.locate, self.blank = name, family, load, locate, blank
        self.changes = tuple(changes)
        self.options: dict[str, Any] = {}
        for p in inspect.signature(load).parameters.values():
            self.options |= OPTIONS if p.kind is p.VAR_KEYWORD else {p.name: p.default}
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
        checked = self._checked(options)
        marks = [f"{k}={checked[k]}" for k in self.changes if k in checked and checked[k] != self.options[k]]
        name = f"{self.name}[{','.join(marks)}]" if marks else self.name
        weights = self.locate(**checked)
        return BackboneInfo(name, self.family, weights.digest, weights.source)

    def skeleton(self, **options: Any) -> Any:
        """The full-size network on the meta device: every shape and cost, no numbers. Needs no weights.

        Raises:
            UsageError: a backbone whose full-size configuration is not known (the miniature, folders).
        """
        if self.blank is None:
            raise UsageError(f"the full-size configuration of backbone {self.name!r} is not part of this project")
        return self.blank(**self._there(options))

    def outline(self, **options: Any) -> Any:
        """What these options load, on the meta device: :meth:`skeleton` of the very weights, from their configs.

        Raises:
            UsageError, PrerequisiteError: as :meth:`describe`, and where the backbone offers no outline.
        """
        if self.blank is None or "folder" not in inspect.signature(self.blank).parameters:
            raise UsageError(f"backbone {self.name!r} cannot be outlined without loading it")
        return self.blank(folder=self.locate(**self._checked(options)).folder, **self._there(options))

    def _there(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the same backbone on the meta device."""
        there = {"device": "meta", "offload": "none", "compile": False}
        unnamed = {"model": ""} if "model" in self.options else {}
        given = {k: v for k, v in options.items() if k not in there} | unnamed
        return {k: there.get(k, v) for k, v in self._checked(given).items() if k not in ("model", "revision")}

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if key not in self.options:
                raise UsageError(f"backbone {self.name!r} has no option {key!r}; {near(key, self.options)}")
            wanted = type(self.options[key])
            if wanted in (bool, int, str) and type(value) is not wanted:
                said = f"backbone {self.name!r}: option {key} takes {wanted.__name__}, got {value!r}"
                raise UsageError(f"{said}; its default is {self.options[key]!r}")
        given = {**self.options, **options}
        for key, value in given.items():
            if value is inspect.Parameter.empty:
                raise UsageError(f"backbone {self.name!r} needs the option {key!r}, e.g. {key}=...")
        return given


class TokenWalk(Protocol):
    """An autoregressive network on its way through one grid of tokens; it owns the key-value cache.

    Positions count cells in raster order from 0. An entry may be written again: later tokens then see the new one,
    and entries behind a position are never seen from it, however old. A step on a position before which something was
    never told is refused with ``UsageError``.
    """

    def tell(self, conditioning: Conditioning) -> Tensor:
        """Put the prompt (m = 1) into the text slots; tokens stay. Guided logits (codes) of position 0, float32."""
        ...

    def feed(self, tokens: Tensor | Sequence[int], positions: Sequence[int]) -> Tensor:
        """Put n tokens at n positions in one call, each seeing itself and all before it.

        Returns the guided logits u + g (c - u) of the token after the last one given, (codes), float32. Counts 2
        evaluations whatever n is, 1 where g is exactly 1.
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
    device: torch.device
    dtype: torch.dtype  # of pictures
    meter: Meter

    def condition(self, prompt: str, negative: str = "") -> Conditioning:
        """Encode a prompt and its negative (m = 1); ``added["mask"]`` (2, slots) is true where there is text."""
        ...

    def walk(self, grid: tuple[int, int], guidance: float) -> TokenWalk:
        """A fresh walk over a grid of (height, width) tokens, with room for all of them."""
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
