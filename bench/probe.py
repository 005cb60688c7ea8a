"""A backbone's fingerprint: has a sampler left anything in it changed?

Looked at are the attributes of the backbone, and of every module in it: its class, training mode, own attributes
(attention processors, replaced methods, padding, tiling), config, hooks, and its parameters and buffers: which tensors
they are, how often they were written to, and their numbers. The numbers count by the sum of all their bits and by some
of them one by one, so writes through ``.data``, which torch does not count, are seen too. Reading every weight once is
little beside a picture, which reads them at least once a step.

Not seen: numbers of a tensor that change places and leave those looked at as they were, weights that accelerate keeps
outside the modules (``offload=sequential``), and functions replaced in Python's classes or modules.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

SAMPLES = 64  # numbers of each tensor that are looked at one by one
MOST = 64  # entries of a list or mapping that are looked at one by one
PLAIN = {bool, int, float, complex, str, bytes, type(None)}
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
BOOKS = ("_parameters", "_buffers", "_modules", *HOOKS)


class Same:
    """Stands for a thing itself: equal to nothing but another stand-in for the same thing, which it keeps alive."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    __hash__ = None  # type: ignore[assignment]


class Probe:
    """A backbone as it is now, to compare with later. It keeps the backbone in memory: drop both together."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self._structure, tensors = _look(backbone)
        self._groups = _groups(tensors)

    def changes(self) -> list[str]:
        """Names of what is not as it was: attributes, modules, parameters and buffers."""
        structure, tensors = _look(self._backbone)
        before = self._structure
        names = {k for k in {**before, **structure} if before.get(k, Probe) != structure.get(k, Probe)}
        if names or any(group.moves for group in self._groups):
            now = _groups(tensors)
            table, old = (_table(groups) for groups in (now, self._groups))
            names |= {k for k in {**table, **old} if table.get(k) != old.get(k)}
        else:
            names.update(*(group.changes() for group in self._groups))
        return sorted(names)

    @property
    def digest(self) -> str:
        """Of the numbers: the same for the same weights, whenever they are loaded."""
        return hashlib.sha256(repr(sorted(_table(self._groups).items())).encode()).hexdigest()


class _Group:
    """Tensors of one device and dtype, and what their numbers came to when the group was made."""

    def __init__(self, tensors: Mapping[str, Any], moves: bool) -> None:
        self.moves = moves  # accelerate brings them to and fro: the views below may be of memory given back
        self.names = list(tensors)
        views = [_views(bits) for bits in tensors.values()]
        self.whole, self.some = [w for w, _ in views], [s for _, some in views for s in some]
        self.lengths = [sum(len(s) for s in some) for _, some in views]
        self.before = self._read()
        if moves:
            self.whole, self.some = [], []

    def _read(self) -> tuple[Any, Any]:
        import torch

        return torch.stack([w.sum(dtype=torch.int64) for w in self.whole]), torch.cat(self.some)

    def changes(self) -> set[str]:
        """Names of tensors whose numbers are not as they were."""
        import torch

        now = self._read()
        if all(torch.equal(a, b) for a, b in zip(now, self.before, strict=True)):
            return set()
        old, new = (self.table(of) for of in (self.before, now))
        return {name for name in self.names if old[name] != new[name]}

    def table(self, of: tuple[Any, Any] | None = None) -> dict[str, Any]:
        """Name -> (sum of the bits, some of the numbers)."""
        sums, some = of or self.before
        picked = some.cpu().split(self.lengths)
        return {n: (t, p.tolist()) for n, t, p in zip(self.names, sums.tolist(), picked, strict=True)}


def _table(groups: list[_Group]) -> dict[str, Any]:
    return {name: numbers for group in groups for name, numbers in group.table().items()}


def _groups(tensors: Mapping[str, tuple[Any, bool]]) -> list[_Group]:
    """By device and dtype, so that a look at all of them waits for each device once."""
    found: dict[Any, dict[str, Any]] = {}
    for name, (tensor, moves) in tensors.items():
        bits = _bits(tensor)
        if bits is not None:
            found.setdefault((bits.device, bits.dtype, moves), {})[name] = bits
    return [_Group(mine, moves) for (_, _, moves), mine in found.items()]


def _look(backbone: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, bool]]]:
    """Name -> what to compare, and name -> (tensor, whether accelerate moves it)."""
    structure: dict[str, Any] = {}
    tensors: dict[str, tuple[Any, bool]] = {}
    for name, value in getattr(backbone, "__dict__", {}).items():
        if not isinstance(getattr(type(backbone), name, None), cached_property):
            structure[name] = Same(value) if name == "meter" else _value(value)  # what a meter counts may change
    for root, whole in _roots(backbone):
        parts = list(_walk(root, whole, set()))
        moves = any("_hf_hook" in vars(part) for _, part in parts)
        structure[f"{root}.config"] = str(getattr(whole, "config", None))
        for place, part in parts:
            structure[place] = _module(part)
            for book in (part._parameters, part._buffers):
                for key, tensor in book.items():
                    if tensor is not None:
                        tensors[f"{place}.{key}"] = tensor, moves
                        structure[f"{place}.{key}"] = tensor.requires_grad if moves else _tensor(tensor)
    return structure, tensors


def _walk(name: str, module: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """A module and all below it, each once; ``named_modules`` takes several times as long."""
    seen.add(id(module))
    yield name, module
    for key, child in module._modules.items():
        if child is not None and id(child) not in seen:
            yield from _walk(f"{name}.{key}", child, seen)


def _roots(backbone: Any) -> Iterator[tuple[str, Any]]:
    """Every module that a backbone holds, once: in attributes, in lists and mappings, in what a pipeline holds."""
    torch = sys.modules.get("torch")
    seen: set[int] = set()

    def search(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, torch.nn.Module):  # type: ignore[union-attr]
            if id(value) not in seen:
                seen.add(id(value))
                yield name, value
        elif depth and isinstance(value, Mapping | list | tuple) and len(value) <= MOST:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            for key, item in items:
                yield from search(f"{name}.{key}", item, depth - 1)
        elif depth and hasattr(value, "__dict__") and not callable(value):
            for key, item in vars(value).items():
                yield from search(f"{name}.{key}", item, 0)

    if torch is not None:
        for name, value in getattr(backbone, "__dict__", {}).items():
            yield from search(name, value, 2)


def _value(value: Any) -> Any:
    """What to remember of an attribute: plain values and what plain containers hold; other things by themselves."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, list | tuple) and len(value) <= MOST:
        return [_value(v) for v in value]
    if isinstance(value, Mapping) and len(value) <= MOST:
        return {k: _value(v) for k, v in value.items()}
    return Same(value)


def _module(module: Any) -> list[Any]:
    """Class, own attributes, hooks and children.

    A library may change its modules as it likes where no user looks: private data, and private functions and hooks of
    its own (transformers hooks into its layers when hidden states are first asked for).
    """
    space = vars(module)
    own = {
        k: v if type(v) in PLAIN else _value(v)
        for k, v in space.items()
        if (k[0] != "_" or (callable(v) and not _at_home(v, module))) and k not in BOOKS
    }
    books = (space[book].values() for book in HOOKS if space.get(book))
    hooks = [Same(hook) for book in books for hook in book if not _at_home(hook, module)]
    return [type(module), own, hooks, [Same(child) for child in module._modules.values()]]


def _at_home(function: Any, module: Any) -> bool:
    """Whether a function is of torch or of the library that the module's class is of."""
    home, maker = (str(getattr(of, "__module__", "")).partition(".")[0] for of in (type(module), function))
    return maker in (home, "torch")


def _tensor(tensor: Any) -> tuple[Any, ...]:
    written = None if tensor.is_inference() else tensor._version
    return Same(tensor), written, tensor.data_ptr(), tensor.dtype, tensor.requires_grad, tensor.grad is None


def _bits(tensor: Any) -> Any:
    """A tensor's numbers as a row of integers that shares its memory, or None where there are none to read."""
    import torch

    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(tensor.element_size())
    if whole is None or tensor.device.type == "meta" or tensor.layout != torch.strided or not tensor.numel():
        return None
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # no copy of a tensor in channels_last
    return tensor.detach().view(whole).permute(order).reshape(-1)


def _views(bits: Any) -> tuple[Any, list[Any]]:
    """All of a row in the words that add up fastest, and some of its numbers: every so many, and the last few."""
    import torch

    n, k = bits.numel(), 8 // bits.element_size()
    words = bits[: n - n % k].view(torch.int64) if n >= k and bits.storage_offset() % k == 0 else bits
    return words, [bits[:: max(1, n // SAMPLES)][:SAMPLES], bits[n - n % k :]]
