"""Counting on torch's meta device: floating-point operations and live memory of code that runs without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

_SDPA = torch.nn.functional.scaled_dot_product_attention
_BACKWARD = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)


def _is_attention(packet: Any, args: Any) -> bool:
    """A product of two batches is attention written out, unless one of them is a layer's weight, spread to a batch."""
    factors = {torch.ops.aten.bmm: args[:2], torch.ops.aten.baddbmm: args[1:3]}.get(packet)
    return factors is not None and all(f.shape[0] == 1 or f.stride(0) for f in factors)


@dataclass
class Tally:
    """What has been counted. A multiplication with an addition is two operations.

    Attributes:
        attention, other: floating-point operations.
        live: bytes of all tensors alive now; peak: the most there were.
    """

    attention: int = 0
    other: int = 0
    live: int = 0
    peak: int = 0
    _storages: dict[int, Any] = field(default_factory=dict, repr=False)

    def hold(self, nbytes: int) -> None:
        """Note that so many bytes more are in use for a moment."""
        self.peak = max(self.peak, self.live + nbytes)

    def track(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._storages:
            return
        nbytes = storage.nbytes()

        def freed(_: Any) -> None:
            if self._storages.pop(key, None) is not None:
                self.live -= nbytes

        self._storages[key] = weakref.ref(storage, freed)
        self.live += nbytes
        self.hold(0)


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = tally

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            n = flop_registry[packet](*args, **(kwargs or {}), out_val=out)
            if _is_attention(packet, args):
                self.tally.attention += n
            else:
                self.tally.other += n
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                self.tally.track(leaf)
        return out


class _Attention(torch.autograd.Function):
    """Fused attention: two products forward, five backward (the scores are computed anew), no score matrix kept."""

    @staticmethod
    def forward(ctx: Any, tally: Tally, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.tally = tally
        ctx.product = 2 * q.shape[:-1].numel() * k.shape[-2] * q.shape[-1]
        value = 2 * q.shape[:-1].numel() * k.shape[-2] * v.shape[-1]
        tally.attention += ctx.product + value
        return q.new_empty((*q.shape[:-1], v.shape[-1]))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        ctx.tally.attention += 5 * ctx.product
        return None, torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Fused(TorchFunctionMode):
    """Counts scaled_dot_product_attention as the fused kernel it is on a GPU, not as the matrices it stands for."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _BACKWARD:  # what checkpoints compute anew in there looks the function up and sees no mode
            functional: Any = torch.nn.functional
            functional.scaled_dot_product_attention = lambda *a, **k: self.__torch_function__(_SDPA, (), a, k)
            try:
                return func(*args, **kwargs)
            finally:
                functional.scaled_dot_product_attention = _SDPA
        if func is not _SDPA:
            return func(*args, **kwargs)
        names = ("query", "key", "value")
        q, k, v = (args[i] if i < len(args) else kwargs[n] for i, n in enumerate(names))
        if q.device.type != "meta":
            return func(*args, **kwargs)
        return _Attention.apply(self.tally, q, k, v)  # type: ignore[no-untyped-call]


@contextmanager
def counting() -> Iterator[Tally]:
    """Count everything that happens on the meta device inside the block."""
    tally = Tally()
    with _Fused(tally), _Dispatch(tally):
        yield tally


@dataclass(frozen=True)
class _Cost:
    """What one call adds: operations, evaluations, bytes at most while it runs."""

    attention: int
    other: int
    nfe: int
    used: int

    def add(self, tally: Tally, meter: Any) -> None:
        tally.attention += self.attention
        tally.other += self.other
        meter.nfe += self.nfe
        tally.hold(self.used)


@dataclass(frozen=True)
class _Like:
    """A tensor without numbers, to be made again."""

    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, x: torch.Tensor) -> _Like:
        return cls(x.shape, x.dtype)

    def made(self) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


class _Replay(torch.autograd.Function):
    """A call known by its costs, in a graph: bytes held until the backward pass, which costs what it once did."""

    @staticmethod
    def forward(
        ctx: Any, there: _Cost, back: _Cost, held: int, like: Any, tally: Tally, meter: Any, *inputs: Any
    ) -> Any:
        ctx.back, ctx.tally, ctx.meter, ctx.inputs = back, tally, meter, inputs
        ctx.save_for_backward(torch.empty(held, dtype=torch.uint8, device="meta"))
        there.add(tally, meter)
        return like.made()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (_held,) = ctx.saved_tensors
        ctx.back.add(ctx.tally, ctx.meter)
        given = [torch.empty_like(x) if isinstance(x, torch.Tensor) and x.requires_grad else None for x in ctx.inputs]
        return (None,) * 6 + tuple(given)


def remembered(call: Callable[..., Any], tally: Tally, meter: Any) -> Callable[..., Any]:
    """The same function, run once for every combination of shapes and added up from memory afterwards.

    Sound for a frozen network: its cost depends on shapes alone, or also on what a sampler did to it, which it then
    says in ``meter.phase``. With gradients towards its positional arguments the backward pass is remembered too; its
    answer is then one tensor, otherwise also tensors within tuples and lists.
    ``meter.nfe`` is added up as well. Parameters ought to be tracked before, or the first call seems to allocate them.
    """
    known: dict[Any, tuple[_Cost, _Cost, int, Any]] = {}

    def shape(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return (tuple(value.shape), value.dtype, value.requires_grad) if value.ndim else "scalar"
        if hasattr(value, "items"):
            return tuple((k, shape(v)) for k, v in sorted(value.items()))
        if isinstance(value, list | tuple):
            return tuple(map(shape, value))
        return value if isinstance(value, int | str | bool | type(None)) else type(value).__name__

    def spent(work: Callable[[], Any]) -> tuple[_Cost, Any]:
        before, live = (tally.attention, tally.other, meter.nfe), tally.live
        outer, tally.peak = tally.peak, live
        out = work()
        used, tally.peak = tally.peak - live, max(outer, tally.peak)
        return _Cost(tally.attention - before[0], tally.other - before[1], meter.nfe - before[2], used), out

    def learn(args: Any, kwargs: Any, graph: bool) -> tuple[_Cost, _Cost, int, Any]:
        """Run forward, and backward where there is a graph; the counts of both are taken back."""
        start, live = (tally.attention, tally.other, meter.nfe), tally.live
        if graph:
            args = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in args]
        there, out = spent(lambda: call(*args, **kwargs))
        back, held, like = _Cost(0, 0, 0, 0), 0, tree_map_only(torch.Tensor, _Like.of, out)
        if graph:
            held = max(0, tally.live - live - out.untyped_storage().nbytes())
            wanted = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
            back, _ = spent(lambda: torch.autograd.grad(out, wanted, torch.empty_like(out)))
        tally.attention, tally.other, meter.nfe = start
        return there, back, held, like

    def run(*args: Any, **kwargs: Any) -> Any:
        graph = torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)
        key = (tuple(map(shape, args)), shape(kwargs), graph, getattr(meter, "phase", ""))
        if key not in known:
            known[key] = learn(args, kwargs, graph)
        there, back, held, like = known[key]
        if graph:
            graph_of: Any = _Replay.apply
            replayed: torch.Tensor = graph_of(there, back, held, like, tally, meter, *args)
            return replayed
        there.add(tally, meter)
        return tree_map_only(_Like, _Like.made, like)

    return run
