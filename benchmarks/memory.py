"""The most memory that a call takes beside what is there before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def peak(work: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes at most. On CUDA as its allocator counts them; elsewhere those of all tensors that the call makes, without
    what kernels use inside."""
    import torch

    if not device.startswith("cuda"):
        return _made(work)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return int(torch.cuda.max_memory_allocated(device)) - before


def _made(work: Callable[[], Any]) -> int:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from bench.pipeline.meta import Tally

    tally = Tally()

    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    tally.track(leaf)
            return out

    with Made():
        work()
    return tally.peak
