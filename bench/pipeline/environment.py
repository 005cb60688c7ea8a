"""Where pictures are made: provenance for the record of a run, never part of an identity."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bench.errors import text_of
from bench.version import __version__


def environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, machine and device. ``options`` are the backbone's (``device``). Torch is not imported for it."""
    device = str(options.get("device", "cpu"))
    torch: Any = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda") and torch.cuda.is_available():
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    return {
        "scrollbench": __version__, "git": _git(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(), "torch": _version("torch"), "diffusers": _version("diffusers"),
        "platform": platform.platform(), "cpu": _cpu(), "device": device,
        "threads": torch.get_num_threads() if torch is not None else int(os.environ.get("OMP_NUM_THREADS") or _cores()),
    }  # fmt: skip


def release_memory() -> None:
    """Give back what a failed picture held, so that the next one has a chance."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_here() -> int:
    """Bytes of memory that this machine, or the container that this process is in, has free."""
    free = int(psutil.virtual_memory().available)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no such container, or "max"
            free = min(free, int(Path(limit).read_text(encoding="utf-8")))
    return free


def most_reserved(device: str) -> int | None:
    """Bytes that torch's allocator held on a CUDA device at most since its peak was reset; None elsewhere."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_reserved(device))


def device_lost(error: BaseException) -> bool:
    """Whether CUDA no longer answers in this process: after some errors every further call of it fails.

    Told from errors that pass by asking: a context that is lost says so again when it is awaited.
    """
    torch = sys.modules.get("torch")
    if torch is None or "cuda" not in text_of(error).lower() or not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(root: Path) -> str | None:
    """Commit of a source checkout, with ``+`` where files differ from it; None for an installed package."""
    if not (root / ".git").exists():
        return None
    try:
        run = {"cwd": root, "capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **run).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}{'+' if changed.strip() else ''}"
