"""Checkpoints of a training: whole or not there, with their digest beside them and the one before kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from bench.errors import UsageError
from bench.ids import file_digest

NAME, BEFORE = "checkpoint.pt", "checkpoint.before.pt"


def keep(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the last one becomes the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    path, temp = folder / NAME, folder / "checkpoint.tmp"
    torch.save(state, temp)
    told = file_digest(temp)
    if path.exists():
        path.replace(folder / BEFORE)
        if _beside(path).exists():
            _beside(path).replace(_beside(folder / BEFORE))
    temp.replace(path)
    _beside(path).write_text(told + "\n", encoding="utf-8")


def last(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint that is whole; None where there is none yet. Warns of a damaged one.

    Raises:
        UsageError: there are checkpoints, and all of them are damaged.
    """
    damaged = []
    for path in folder / NAME, folder / BEFORE:
        if not path.exists():
            continue
        try:
            return _read(path)
        except Exception as error:  # of pickle, zip and torch: whatever is in the file
            damaged.append(f"{path.name}: {str(error).partition(chr(10))[0]}")
            warnings.warn(f"{path} is damaged and not used ({damaged[-1]})", stacklevel=2)
    if damaged:
        raise UsageError(f"no checkpoint in {folder} is whole: {'; '.join(damaged)}. Delete the folder to begin anew")
    return None


def _read(path: Path) -> dict[str, Any]:
    beside = _beside(path)
    if beside.exists() and beside.read_text(encoding="utf-8").strip() != file_digest(path):
        raise ValueError("its bytes do not match the digest beside it")
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def _beside(path: Path) -> Path:
    return path.with_suffix(".digest")
