"""The most memory that a call takes beside what is there before it: of tensors, or of the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
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


def resident(work: Callable[[], Any]) -> dict[str, Any]:
    """``peak``: bytes that the process takes at most beyond what it has before a call; ``seconds`` of the processor.

    The resident high-water mark, which Linux tells.
    """
    before, start = _status("VmRSS"), time.process_time()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins here
    work()
    return {"peak": high_water() - before, "seconds": time.process_time() - start}


def high_water() -> int:
    """Bytes that this process held at most, which Linux tells."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
