"""Who does the work: this process, or how many others, where, and what each may take. Quick to import."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bench.errors import UsageError


@dataclass(frozen=True)
class Crew:
    """Who does the work.

    Attributes:
        executor: a name of ``EXECUTORS``; None: ``processes`` where a plug-in file takes part or anything below is
            given, ``ray`` where an address is, else ``local``.
        workers: child processes or actors; None: one for each device, and one on the CPU (of each node).
        timeout: seconds that one picture, or the scores of one, may take; None: by what pictures of its kind took
            (:mod:`bench.pipeline.executors.patience`).
        memory: GB that one worker's data may take; None: on the CPU its share of the machine's, else no limit.
        address: of a Ray cluster; None: what ``RAY_ADDRESS`` says, or one that is started on this machine.

    Raises:
        UsageError: numbers that are not above zero.
    """

    executor: str | None = None
    workers: int | None = None
    timeout: float | None = None
    memory: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers takes a number of processes from 1, got {self.workers}")
        for name, value in (("timeout", self.timeout), ("memory", self.memory)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name} takes a number above 0, got {value:g}")

    def places(self, device: str) -> list[str]:
        """The device of each worker: all CUDA devices in turn where ``device`` names none of them."""
        devices = [device]
        if device == "cuda":
            import torch

            count = torch.cuda.device_count()
            devices = [f"cuda:{i}" for i in range(count)] if count > 1 else [device]
        return [devices[i % len(devices)] for i in range(self.workers or len(devices))]


LOCAL = Crew("local")


def threads(workers: int) -> int:
    """Threads of each worker: this machine's cores shared out, unless ``OMP_NUM_THREADS`` says how many."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // workers))
