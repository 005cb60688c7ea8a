"""The values every part of ScrollBench speaks in. Frozen, plain, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn


class FrozenDict(dict[str, Any]):
    """A dict that refuses changes, at every depth. It compares, copies, pickles and goes into JSON as any dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__({k: freeze(v) for k, v in dict(*args, **kwargs).items()})

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this mapping is frozen, for others read it too: change a copy, dict(...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """JSON-like values that nobody can change: mappings become :class:`FrozenDict`, lists tuples, at every depth."""
    if isinstance(value, Mapping):
        return value if type(value) is FrozenDict else FrozenDict(value)
    return tuple(freeze(v) for v in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set.

    Attributes:
        id: stable slug, unique in its set; keys the noise, never the text.
        text: what is asked for.
        negative: negative prompt, empty for none.
        attributes: what else is known of it (theme, style, ``unique``, on ScrollWorld ``scene``), JSON values, frozen
            at every depth: lists are tuples.
    """

    id: str
    text: str
    negative: str = ""
    attributes: Mapping[str, Any] = field(default_factory=FrozenDict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", freeze(self.attributes))


@dataclass(frozen=True)
class Canvas:
    """The picture asked for, in pixels; ``loop`` means the left and right edges meet."""

    width: int
    height: int
    loop: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"canvas sides must be positive, got {self.width}x{self.height}")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}{'-loop' if self.loop else ''}"


@dataclass(frozen=True)
class Recipe:
    """Everything that ought to decide the pixels; its digest (:func:`bench.ids.recipe_id`) names the work.

    Device, library versions, batch size and time are provenance and are kept elsewhere.
    """

    prompt_id: str  # keys the noise
    prompt: str
    negative: str
    canvas: Canvas
    seed: int
    method: str
    method_version: str
    method_source: str  # digest of the method's source
    params: Mapping[str, Any] = field(hash=False)
    backbone: str | None = None  # None: the method needs none (controls)
    backbone_source: str | None = None  # digest of the adapter's source
    weights: str | None = None  # digest of the backbone's weights
    precision: str = "fp32"
    attributes: str | None = None  # digest of the prompt's attributes, for controls: they draw from them

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", freeze(self.params))


@dataclass(frozen=True)
class Cost:
    """What one picture took: denoiser evaluations (samples through the network), seconds by stage, peak bytes."""

    nfe: int
    seconds: Mapping[str, float] = field(hash=False)
    peak_bytes: int | None = None  # None: could not be measured on this platform

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", freeze(self.seconds))


@dataclass(frozen=True)
class Value:
    """One number of a metric on one picture. ``index`` counts views along the panorama; None is the whole picture."""

    name: str
    value: float | None  # None: undefined here (missing is missing, never 0)
    index: int | None = None
