"""A machine with two CUDA devices that are not there: tensors on them have shapes, types and places, but no numbers.

CPU tensors stay real. What mixes devices raises as it does on a GPU, and what a host does is counted: operations
launched, copies in both directions, and waits (``.item()``, ``synchronize``). ``stage`` says on whose account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
NO_LAUNCH = {
    "view", "_unsafe_view", "_reshape_alias", "expand", "transpose", "permute", "slice", "select", "unsqueeze",
    "squeeze", "t", "split", "chunk", "unbind", "detach", "alias", "as_strided", "split_with_sizes", "unfold",
    "lift_fresh", "empty", "empty_like", "new_empty", "empty_strided", "narrow", "diagonal", "is_same_size",
}  # fmt: skip


class FakeCuda(FakeTensorMode):
    """Made by :func:`pretended`. ``counts[stage, what]``: launch, to_host, to_device, wait, init."""

    avoid_device_init = True

    def __init__(self, stage: Callable[[], str] = lambda: "") -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.stage = stage

    def note(self, what: str) -> None:
        self.counts[self.stage(), what] += 1

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation of torch comes by here."""
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        there = any(isinstance(x, FakeTensor) for x in leaves)
        if not there and not any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves):
            return func(*args, **kwargs)  # on the CPU: real
        packet = func._overloadpacket
        if packet is aten.to:  # in inference mode it arrives whole
            with self:
                return func.decompose(*args, **kwargs)
        if packet is aten._local_scalar_dense:
            self.note("wait")
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 1)
        if packet in (aten._to_copy, aten.copy_):
            copied = self._copy(packet, args, kwargs)
            if copied is not None:
                return copied
        elif packet in (aten.index, aten.index_put, aten.index_put_) and any(map(_on_host, leaves)):
            self.note("to_device")  # indices travel
        if packet.__name__ not in NO_LAUNCH:
            self.note("launch")
        return super().dispatch(func, types, args, kwargs)

    def _copy(self, packet: Any, args: Any, kwargs: Any) -> Any:
        """A copy between host and device; None for any other."""
        source = args[1] if packet is aten.copy_ else args[0]
        target = args[0].device if packet is aten.copy_ else kwargs.get("device") or source.device
        if source.device.type == target.type:
            return None
        dtype = args[0].dtype if packet is aten.copy_ else kwargs.get("dtype") or source.dtype
        if target.type == "cpu":
            self.note("to_host")
            return torch.zeros(source.shape, dtype=dtype)
        self.note("to_device")
        if packet is aten.copy_:
            return args[0]
        with self:
            return torch.empty(source.shape, dtype=dtype, device=target)


def _on_host(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor) and x.ndim > 0


def _apply(module: Any, fn: Callable[[Any], Any], recurse: bool = True) -> Any:
    """``Module._apply`` with new parameters: torch swaps tensors in place, which fakes do not allow."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for book, make in ((module._parameters, _parameter), (module._buffers, lambda new, old: new)):
        for key, value in book.items():
            if value is not None:
                book[key] = make(fn(value.detach()), value)
    return module


def _parameter(new: Any, old: Any) -> Any:
    return torch.nn.Parameter(new, old.requires_grad)


@contextmanager
def pretended(stage: Callable[[], str] = lambda: "") -> Iterator[FakeCuda]:
    """Two CUDA devices for the time of the block. Gradients are asked for and answered without numbers."""
    mode = FakeCuda(stage)
    load, grad = torch.load, torch.autograd.grad

    def load_real(*args: Any, **kwargs: Any) -> Any:
        with fake_tensor.unset_fake_temporarily():
            return load(*args, **kwargs)

    def shaped(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = inputs if isinstance(inputs, tuple | list) else (inputs,)
        if not any(isinstance(x, FakeTensor) for x in wanted):
            return grad(outputs, inputs, *args, **kwargs)
        return tuple(torch.empty_like(x) for x in wanted)

    with ExitStack() as stack:

        def put(owner: Any, name: str, fake: Any) -> None:
            stack.enter_context(patch.object(owner, name, fake))

        for name, fake in (
            ("is_available", lambda: True), ("device_count", lambda: 2), ("init", lambda: mode.note("init")),
            ("synchronize", lambda device=None: mode.note("wait")), ("empty_cache", lambda: None),
            ("reset_peak_memory_stats", lambda device=None: None), ("max_memory_allocated", lambda device=None: 0),
            ("get_device_name", lambda device=None: "pretended"),
        ):  # fmt: skip
            put(torch.cuda, name, fake)
        put(fake_tensor, "init_gpu_context", lambda device: None)
        put(torch.nn.Module, "_apply", _apply)
        put(torch, "load", load_real)
        put(torch.autograd, "grad", shaped)
        put(torch.utils.checkpoint, "get_device_states", lambda *a: ([], []))
        with mode:
            yield mode
