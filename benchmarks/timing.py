"""Ratios of seconds: every side does the same work once a round, so that all of them see the same load."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

Side = Callable[[], float]  # does the work once and returns the seconds it took, without what it had to prepare


@dataclass(frozen=True)
class Settings:
    """What a benchmark is asked for.

    Attributes:
        work: an empty folder, deleted afterwards.
        repeats: rounds that count; None for the benchmark's own number.
        size: of the random Stable Diffusion checkpoint (benchmarks.checkpoint).
        pictures: pictures of a set to score; None for the benchmark's own number.
        quick: smallest sizes of everything: whether it works, not how fast it is.
    """

    work: Path
    device: str = "cpu"
    repeats: int | None = None
    size: str = "small"
    pictures: int | None = None
    quick: bool = False


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of seconds over seconds, with the smallest and the largest round.

    The true median lies between those two with probability 1 - 2 ** (1 - rounds) (sign test; rounds independent).
    ``seconds`` are the medians of numerator and denominator.
    """

    name: str
    median: float
    low: float
    high: float
    rounds: int
    seconds: tuple[float, float]


@dataclass
class Report:
    """What a benchmark found. ``faults`` say that the sides did not do the same work: then the ratios mean nothing.

    ``tables`` are rows of figures under one heading each; all rows of a table have the same columns.
    """

    ratios: list[Ratio] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def ratio(name: str, over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio of two sides, round by round.

    Raises:
        ValueError: no rounds, unequal numbers of them, or times that are not positive.
    """
    if not over or len(over) != len(under) or min(*over, *under) <= 0:
        raise ValueError(f"{name}: expected as many positive times on both sides, got {over} and {under}")
    each = [a / b for a, b in zip(over, under, strict=True)]
    medians = (statistics.median(over), statistics.median(under))
    return Ratio(name, statistics.median(each), min(each), max(each), len(each), medians)


def rounds(sides: Mapping[str, Side], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side in every round, A B then B A. Let each side work once before: first calls are slower."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(repeats):
        for name in list(sides)[:: -1 if i % 2 else 1]:
            found[name].append(sides[name]())
    return found


def clocked(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall seconds of a call; on CUDA until the device is done."""
    await_device(device)
    start = time.perf_counter()
    work()
    await_device(device)
    return time.perf_counter() - start


def await_device(device: str) -> None:
    """Wait until a CUDA device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def stopwatch(places: Sequence[tuple[type, str]], device: str = "cpu") -> Iterator[list[float]]:
    """Seconds of every call of these methods while the block runs; on CUDA until the device is done."""
    spent: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            await_device(device)
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                await_device(device)
                spent.append(time.perf_counter() - start)

        return call

    with ExitStack() as stack:
        for owner, name in places:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        yield spent


@dataclass
class Count:
    """Calls of a network, and samples that went through it."""

    calls: int = 0
    samples: int = 0


@contextmanager
def counted(kind: type) -> Iterator[Count]:
    """Count what goes through networks of a class, whoever owns them; slower, so never while the clock runs."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    count = Count()

    def see(module: Any, args: tuple[Any, ...]) -> None:
        if isinstance(module, kind):
            count.calls += 1
            count.samples += args[0].shape[0]

    hook = register_module_forward_pre_hook(see)
    try:
        yield count
    finally:
        hook.remove()
