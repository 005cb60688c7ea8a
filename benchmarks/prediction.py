"""What a network of full size takes, counted on shapes; and whether a device takes as much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

GPU, EFFICIENCY = "h100", 0.4  # of the prediction
WITHIN = 0.85, 1.5  # measured memory over predicted; more is what kernels use inside
FOR = f"{GPU}, {EFFICIENCY:.0%} of its peak"


def tensors(modules: Sequence[nn.Module]) -> Iterator[Tensor]:
    """Their parameters and buffers."""
    for module in modules:
        yield from (*module.parameters(), *module.buffers())


def weights(modules: Sequence[nn.Module]) -> int:
    """Bytes of networks."""
    return sum(tensor.nbytes for tensor in tensors(modules))


def counted(modules: Sequence[nn.Module], work: Callable[[], object]) -> tuple[float, int]:
    """(operations, bytes at most, the networks included) of what is done with networks on the meta device."""
    from bench.pipeline.meta import counting

    with counting() as tally:
        for tensor in tensors(modules):
            tally.track(tensor)
        work()
    return float(tally.attention + tally.other), tally.peak


def foretold(operations: float, expected: int) -> dict[str, Any]:
    """The columns of a prediction."""
    from bench.pipeline.forecast import gpus

    rate = gpus()[GPU].half * 1e12 * EFFICIENCY
    return {"TFLOP": operations / 1e12, "predicted s": operations / rate, "predicted GB": expected / 1e9}


def measured(used: int, expected: int) -> dict[str, Any]:
    """The columns of memory that was measured."""
    return {"measured GB": used / 1e9, "ratio": used / expected}


def faults(name: str, used: int, expected: int) -> list[str]:
    """What is wrong with memory, if anything."""
    if WITHIN[0] <= used / expected <= WITHIN[1]:
        return []
    return [f"{name}: {used:,} bytes where {expected:,} were predicted"]
