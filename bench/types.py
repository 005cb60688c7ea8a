"""The values every part of ScrollBench speaks in. Frozen, plain, free of torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

WHOLE = 2**24  # pixels, 4096x4096; a larger picture is made, kept and looked at without ever being whole in memory


def large(height: int, width: int) -> bool:
    """Whether a picture of this size is handled in parts."""
    return height * width > WHOLE


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


class Parts:
    """A picture as parts that add up to it, for methods whose picture is too large to be whole in memory.

    Parts may overlap and come in any order: windows times their shares, strips, tiles. They are made when they are
    asked for, once, and summed on disk by whoever keeps the picture. Methods end with ``return parts.settled()``.

    Args:
        height, width: of the picture, pixels.
        parts: (y, x, values): float tensors or arrays (3, h, w), all of one type, and where their upper left corners
            lie. What reaches beyond the right or lower edge is cut off. The sum is in [0, 1].
    """

    def __init__(self, height: int, width: int, parts: Iterable[tuple[int, int, Any]]) -> None:
        self.shape = (3, height, width)
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        _, height, width = self.shape
        for y, x, values in self._parts:
            inside = values[:, : max(0, height - y), : max(0, width - x)]
            if inside.shape[1] and inside.shape[2]:
                yield y, x, inside

    def whole(self) -> Any:
        """The sum in memory, (3, height, width) of the parts' type, on their device."""
        whole: Any = None
        for y, x, values in self:
            if whole is None:
                whole = self._blank(values)
            there = whole[:, y : y + values.shape[1], x : x + values.shape[2]]
            there += values
        if whole is None:
            raise ValueError("a picture without parts")
        return whole

    def _blank(self, like: Any) -> Any:
        if hasattr(like, "new_zeros"):
            return like.new_zeros(self.shape)
        import numpy as np

        return np.zeros(self.shape, like.dtype)

    def settled(self) -> Any:
        """The picture in memory where it is small enough, else these parts."""
        return self if large(*self.shape[1:]) else self.whole()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        whole = self.whole()
        found = whole.detach().cpu().numpy() if hasattr(whole, "detach") else whole
        return found if dtype is None else found.astype(dtype)
