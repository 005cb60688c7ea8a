"""Where networks run: one rule for all that load one. Free of torch until it is asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bench.errors import PrerequisiteError, UsageError

AUTO = "auto"


def choose(asked: str | None = None) -> str:
    """The device asked for; for ``auto``, and where nothing is, CUDA, else MPS where it works, else the CPU.

    Raises:
        UsageError: no device of torch's.
        PrerequisiteError: one that is not here.
    """
    import torch

    if asked in (None, AUTO):
        return _best()
    try:
        place = torch.device(str(asked))
    except RuntimeError as error:
        raise UsageError(f"unknown device {asked!r}; expected auto, cpu, cuda, cuda:1, mps") from error
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            seen = f"{count} CUDA devices, cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
            raise PrerequisiteError(
                f"device {asked!r}: torch sees {seen}; use --device auto, or see `scrollbench doctor`"
            )
    return str(asked)


def _best() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if _mps_works() else "cpu"


def _mps_works() -> bool:
    """Whether a convolution comes back from MPS: some machines list a device that cannot compute."""
    import torch

    if not torch.backends.mps.is_available():
        return False
    try:
        x = torch.ones(1, 1, 3, 3, device="mps")
        return bool(torch.nn.functional.conv2d(x, x).item() == 9.0)
    except RuntimeError:
        return False


def mend_precision(device: str, precision: str) -> str:
    """What to do about a network in ``precision`` on a device; empty where the two go together."""
    if precision == "fp16" and device.startswith("cpu"):
        return "fp16 needs a GPU: --precision bf16 (or fp32) on the CPU, or --device cuda where there is one"
    if precision == "fp64" and device.startswith("mps"):
        return "fp64 is not to be had on mps: --device cpu, or --precision fp32"
    return ""


def takes(factory: Any, option: str) -> bool:
    """Whether a backbone's entry point has an option, such as ``device``; of a plain function its signature tells."""
    known = getattr(factory, "options", None)
    if isinstance(known, Mapping):
        return option in known
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)
