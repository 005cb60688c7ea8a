"""Rotary positions (Su et al., arXiv:2104.09864): the tables that turn queries and keys, and rules for longer axes.

A token stands at one number per axis (FLUX: text or time, row, column; Wan: frame, row, column). On an axis of d
channels the pair j = 0 ... d/2 - 1 of a token at p is turned by the angle p w_j; what is trained is w_j = theta^(-2j/d)
on as many positions as the network's square has. A *rule* says which w_j are used instead, and a gain on cosine and
sine. The next paper's rule is one more function like :func:`ntk`.

Positions are any numbers: negative, fractional, behind an offset, further apart (:func:`grid`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from bench.errors import UsageError
from methods.backbones import Tensor

Rule = Callable[[Tensor], tuple[Tensor, float]]
"""From the exponents 2j/d of an axis, (d/2,) in [0, 1), to its frequencies w_j, (d/2,) radians a position, and the gain
on cosine and sine: where it is not 1, what the axis adds to an attention logit grows with its square."""

BASE = 10_000.0  # theta of FLUX and Wan


class Axis(NamedTuple):
    """An axis of a network's positions: channels of a head it turns, base, positions of the native clip or square."""

    dim: int
    theta: float
    native: int


# -- rules


def plain(theta: float = BASE) -> Rule:
    """w_j = theta^(-2j/d): what networks are trained with; Scale-DiT takes ten times FLUX's base."""
    return lambda exponents: (1.0 / theta**exponents, 1.0)


def linear(scale: float, theta: float = BASE) -> Rule:
    """Position interpolation (Chen et al., arXiv:2306.15595): all frequencies over ``scale``."""
    return lambda exponents: (1.0 / theta**exponents / scale, 1.0)


def ntk(scale: float, theta: float = BASE, power: float = 1.0) -> Rule:
    """NTK-aware base (as in YaRN, section 3.1): theta times (scale^(d/(d-2)))^power.

    At power 1 the highest frequency stays and the lowest is divided by ``scale``. Axes of two channels have one
    frequency only, which stays.
    """

    def rule(exponents: Tensor) -> tuple[Tensor, float]:
        dim = 2 * exponents.shape[0]
        factor = scale ** (power * dim / (dim - 2)) if dim > 2 else 1.0
        return plain(theta * factor)(exponents)

    return rule


def yarn(
    scale: float,
    native: int,
    theta: float = BASE,
    interpolated: tuple[float, float] = (1.25, 0.75),
    kept: tuple[float, float] = (16.0, 2.0),
) -> Rule:
    """By parts (YaRN, Peng et al., ICLR 2024, arXiv:2309.00071, section 3.2), in DyPE's form of three parts.

    How often a pair turns round on the native axis decides: more often than ``kept[0]`` and it keeps its frequency;
    from ``kept[1]`` down to ``interpolated[0]`` it gets NTK's; less often than ``interpolated[1]``, it is divided by
    ``scale``. Between two thresholds the rules blend linearly in j. The gain is 0.1 ln(scale) + 1.

    Args:
        scale: length of the axis over its native length, at least 1.
        native: positions of the native axis.
        theta: base of the network.
        interpolated, kept: turns on the native axis, falling. The defaults are DyPE's; YaRN's paper names 32 and 1.
    """

    def rule(exponents: Tensor) -> tuple[Tensor, float]:
        pairs = exponents.shape[0]

        def blend(often: Tensor, seldom: Tensor, thresholds: tuple[float, float]) -> Tensor:
            high, low = (pairs * math.log(native / (math.tau * n)) / math.log(theta) for n in thresholds)
            first, last = (min(max(edge, 0), pairs) for edge in (math.floor(high), math.ceil(low)))
            j = (exponents * pairs).round()
            share = ((j - first) / max(last - first, 1e-3)).clamp(0, 1)
            mixed: Tensor = often + (seldom - often) * share
            return mixed

        base, changed, slow = (r(exponents)[0] for r in (plain(theta), ntk(scale, theta), linear(scale, theta)))
        omega = blend(base, blend(changed, slow, interpolated), kept)
        return omega, 0.1 * math.log(scale) + 1

    return rule


# -- tables


def grid(sizes: Sequence[int], offset: Sequence[float] | None = None, step: float = 1.0, device: Any = None) -> Tensor:
    """Positions (tokens, axes) of a grid in raster order, float32: ``offset + step * index`` on every axis."""
    import torch

    firsts = offset or [0.0] * len(sizes)
    axes = [first + step * torch.arange(n, dtype=torch.float32, device=device) for n, first in zip(sizes, firsts)]
    return torch.cartesian_prod(*axes).reshape(-1, len(sizes))


def rotary(positions: Tensor, dims: Sequence[int], rules: Sequence[Rule]) -> tuple[Tensor, Tensor]:
    """The table of cosines and sines, each (tokens, sum of dims) float32, every angle twice in a row.

    With plain rules the numbers are, to the last bit, those of diffusers' FluxPosEmbed and WanRotaryPosEmbed.

    Args:
        positions: (tokens, axes).
        dims: channels of each axis, even.
        rules: one for each axis.
    """
    import torch

    double = torch.float32 if positions.device.type == "mps" else torch.float64  # mps has no double
    cosines: list[Tensor] = []
    sines: list[Tensor] = []
    for column, dim, rule in zip(positions.float().unbind(-1), dims, rules, strict=True):
        exponents = torch.arange(0, dim, 2, dtype=double, device=positions.device) / dim
        omega, gain = rule(exponents)
        angles = torch.outer(column, omega)
        for side, values in ((cosines, angles.cos()), (sines, angles.sin())):
            side.append((values * gain).float().repeat_interleave(2, dim=1))
    return torch.cat(cosines, dim=-1), torch.cat(sines, dim=-1)


# -- in a network


def axes_of(backbone: Any, method: str) -> tuple[Axis, ...]:
    """The rotary axes of a backbone's network, in the order of its positions.

    Raises:
        UsageError: a network whose positions are no rotary ones: U-Nets have none, SD 3.5 cuts a table and PixArt
            makes sines, which are added to the tokens once.
    """
    network: Any = getattr(backbone, "transformer", None)
    if hasattr(network, "pos_embed") and hasattr(network.config, "axes_dims_rope"):
        side = backbone.window // backbone.patch
        dims, theta = network.config.axes_dims_rope, float(network.pos_embed.theta)
        return tuple(Axis(dim, theta, native) for dim, native in zip(dims, (1, side, side), strict=True))
    if hasattr(network, "rope"):
        frames, *sides = backbone.native
        rope, natives = network.rope, (frames, *(side // backbone.patch for side in sides))
        return tuple(Axis(d, BASE, n) for d, n in zip((rope.t_dim, rope.h_dim, rope.w_dim), natives, strict=True))
    raise UsageError(
        f"{method} changes rotary positions, and backbone {backbone.name} has none; use a FLUX: flux-dev, world-flux"
    )


@contextmanager
def placed(backbone: Any, axes: Sequence[Axis]) -> Iterator[Any]:
    """Let the network of a rotary backbone turn by rules of ours; its own table comes back at the end.

    Yields:
        An object to set at any time: ``rules``, one for each axis, plain at first; and on Wan, which counts its tokens
        itself, ``offset``, the position of the first one, zeros at first, or ``positions``, those of all tokens
        (tokens, axes), None at first. No position is looked up, so none is too large.
    """
    network = backbone.transformer
    name = "pos_embed" if hasattr(network, "pos_embed") else "rope"
    before, patch = getattr(network, name), network.config.patch_size
    # A module in its place, not a hook: torch.compile does not look for hooks that come later.
    table = _table_class()([axis.dim for axis in axes], [plain(axis.theta) for axis in axes], patch)
    setattr(network, name, table)
    try:
        yield table
    finally:
        setattr(network, name, before)


@cache
def _table_class() -> Any:
    import torch

    class Table(torch.nn.Module):
        """FLUX's ``pos_embed`` (positions in, (tokens, channels) out) and Wan's ``rope`` (latents in, batched out)."""

        def __init__(self, dims: Sequence[int], rules: Sequence[Rule], patch: Any) -> None:
            super().__init__()
            self.dims, self.rules, self.patch = tuple(dims), tuple(rules), patch
            self.offset: tuple[float, ...] = (0.0,) * len(self.dims)
            self.positions: Tensor | None = None

        def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
            if given.ndim == 2:
                return rotary(given, self.dims, self.rules)
            sizes = [n // p for n, p in zip(given.shape[2:], self.patch, strict=True)]
            places = grid(sizes, self.offset, device=given.device) if self.positions is None else self.positions
            cos, sin = rotary(places.to(given.device), self.dims, self.rules)
            return cos[None, :, None], sin[None, :, None]

    return Table
