"""Devices and precisions that backbones run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import PrerequisiteError, UsageError, near

if TYPE_CHECKING:
    import torch

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64"}


def target(device: str, precision: str) -> tuple[torch.device, torch.dtype, torch.dtype]:
    """(device, dtype of the network, dtype of everything else), or the error that says what is wrong with them."""
    import torch

    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; {near(precision, PRECISIONS)}")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; expected cpu, cuda, cuda:1, mps, ...") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError(f"device {device!r}: torch sees no CUDA device; use cpu, or see `scrollbench doctor`")
    if precision == "fp16" and place.type == "cpu":
        raise UsageError("precision fp16 is for GPUs: on the CPU use fp32 or bf16")
    return place, getattr(torch, PRECISIONS[precision]), torch.float64 if precision == "fp64" else torch.float32
