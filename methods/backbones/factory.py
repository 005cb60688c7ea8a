"""Backbones as they are registered: a name, its options, how it is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from bench.extractors.weights.variants import folder_of, refuse_single_file
from methods.backbones.protocols import BackboneInfo

if TYPE_CHECKING:
    from methods.backbones.identity import Weights

# What every pretrained latent backbone can be told besides what it is; see methods.backbones.network.LatentNetwork.
# ``variant`` is about files: "fp16" loads *.fp16.safetensors where there are any (bench.extractors.weights.variants).
OPTIONS: Mapping[str, Any] = MappingProxyType({
    "device": "cpu", "precision": "fp32", "batch": 16, "offload": "none", "attention": "sdpa",
    "vae_tiling": False, "vae_slicing": False, "compile": False, "variant": "",
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
        make: folder -> writes there what the backbone loads, of fetched files that are stored otherwise; None where it
            loads them as they are.
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
        make: Callable[[Path], Any] | None = None,
    ) -> None:
        self.name, self.family, self.load, self.locate, self.blank = name, family, load, locate, blank
        self.changes, self.make = tuple(changes), make
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
        checked, _ = self._settled(options)
        if str(checked.get("device", "")).startswith("cuda"):
            import torch

            if torch.cuda.is_available():  # meters ask for its memory, and an offloaded network touches it only later
                torch.cuda.init()  # type: ignore[no-untyped-call]
        with _telling_of_variants():
            return self.load(**checked)

    def describe(self, **options: Any) -> BackboneInfo:
        """Name, family and weights digest under these options. Raises like loading does, but loads nothing."""
        checked, source = self._settled(options)
        marks = [f"{k}={checked[k]}" for k in self.changes if k in checked and checked[k] != self.options[k]]
        name = f"{self.name}[{','.join(marks)}]" if marks else self.name
        with _telling_of_variants():
            weights = self.locate(**checked)
        return BackboneInfo(name, self.family, weights.digest, source or weights.source)

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
        return self.blank(folder=self.locate(**self._settled(options)[0]).folder, **self._there(options))

    def _there(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the same backbone on the meta device."""
        there = {"device": "meta", "offload": "none", "compile": False}
        unnamed = {"model": ""} if "model" in self.options else {}
        given = {k: v for k, v in options.items() if k not in there} | unnamed
        about_files = ("model", "revision", "variant")
        return {k: there.get(k, v) for k, v in self._checked(given).items() if k not in about_files}

    def _settled(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Options as the loader takes them, a variant turned into a folder, and where that is from."""
        checked = self._checked(options)
        variant, model = checked.pop("variant", ""), checked.get("model")
        if isinstance(model, str):
            refuse_single_file(model)
        if not variant:
            return checked, ""
        folder, source = folder_of(str(model), checked.get("revision"), variant)
        return {**checked, "model": str(folder), "revision": None}, source

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


@contextmanager
def _telling_of_variants() -> Iterator[None]:
    """Say how variants are loaded, where they are all that a folder holds."""
    try:
        yield
    except UsageError as error:
        if "variants are not loaded" not in str(error):
            raise
        how = 'to load *.fp16.safetensors, add the backbone\'s option: backbone_options = { variant = "fp16" }'
        raise UsageError(f"{error}\n{how}") from error


@dataclass(frozen=True)
class Choice:
    """A backbone with its options, to be loaded when it is needed."""

    factory: Factory
    options: Mapping[str, Any]

    def load(self) -> Any:
        """The network."""
        return self.factory(**self.options)

    def outline(self) -> Any:
        """The network on the meta device, from its configs; see :meth:`Factory.outline`."""
        return self.factory.outline(**self.options)

    def describe(self) -> BackboneInfo:
        """Name, family and weights digest; nothing is loaded."""
        return self.factory.describe(**self.options)
