"""What a picture took: network evaluations, seconds by stage, peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.types import Cost

PROC = Path("/proc/self")


class Meter:
    """Counts on behalf of one backbone; ``reset`` before a picture, ``cost`` after it.

    Stages are exclusive: time spent in an inner stage is not counted again in the outer one. On CUDA the device is
    awaited where stages change, so that seconds belong to the stage that caused them.

    Attributes:
        nfe: network evaluations in samples: a guided call on n latents counts 2n.
        seconds: seconds by stage name.
        flags: remarks about the picture in the making (``prompt-truncated``), for its record.
        phase: what a sampler has done to the network, where calls of the same shapes then cost something else.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far and start watching memory anew."""
        self.nfe = 0
        self.seconds: dict[str, float] = {}
        self.flags: list[str] = []
        self.phase = ""
        self._stack: list[str] = []
        self._since = 0.0
        self._watched = self._forget_peak()

    def count(self, samples: int) -> None:
        """Note that this many samples went through the network."""
        self.nfe += samples

    def remember(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function. Samplers pass frozen networks of their own through it, so that a forecast, which puts
        another function here, counts them once for every shape."""
        return call

    def flag(self, remark: str) -> None:
        """Note something about this picture, once."""
        if remark not in self.flags:
            self.flags.append(remark)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the time inside the block under ``name``."""
        if self._stack and self._stack[-1] == name:  # a stage within itself changes nothing
            yield
            return
        self._book()
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def cost(self) -> Cost:
        """What has been counted since the last reset."""
        return Cost(self.nfe, dict(self.seconds), self._peak())

    def _book(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] = self.seconds.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    def _forget_peak(self) -> bool:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        with suppress(OSError):  # "5" resets the resident high-water mark; Linux only, sometimes forbidden
            (PROC / "clear_refs").write_text("5")
            return True
        return False

    def _peak(self) -> int | None:
        """Peak bytes since the reset: allocated on a CUDA device, else resident in this process; None if unknown."""
        if not self._watched:
            return None
        if self.device.startswith("cuda"):
            import torch

            return int(torch.cuda.max_memory_allocated(self.device))
        with suppress(OSError):
            for line in (PROC / "status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


class SharedMeter(Meter):
    """A meter of several pictures in the making: what it counts is theirs together, remarks can be one's own."""

    def reset(self) -> None:
        """Forget everything counted so far and start watching memory anew."""
        super().reset()
        self._picture: int | None = None
        self._whose: dict[str, set[int | None]] = {}

    @contextmanager
    def picture(self, i: int) -> Iterator[None]:
        """What is flagged inside the block is said of the i-th of the pictures; elsewhere, of all."""
        before, self._picture = self._picture, i
        try:
            yield
        finally:
            self._picture = before

    def flag(self, remark: str) -> None:
        """Note something about a picture, or about all, once."""
        super().flag(remark)
        self._whose.setdefault(remark, set()).add(self._picture)

    def flags_of(self, i: int) -> list[str]:
        """Remarks about the i-th picture."""
        return [remark for remark in self.flags if self._whose[remark] & {None, i}]
