"""Identities: digests of canonical JSON. The scheme is versioned and frozen by golden tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.types import Recipe

if TYPE_CHECKING:
    import numpy as np

ID_VERSION = 2  # bump when any rule below changes; old ids then no longer match, on purpose
LENGTH = 24  # hex digits kept of a sha256


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces. Integral floats are written as floats; NaN and infinities are refused."""

    def plain(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {str(k): plain(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        if isinstance(v, float) and not math.isfinite(v):
            raise ValueError(f"cannot identify a non-finite number: {v}")
        if v is None or isinstance(v, str | bool | int | float):
            return v
        raise TypeError(f"cannot identify a value of type {type(v).__name__}: {v!r}")

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """Digest of a JSON-like value."""
    return hashlib.sha256(f"scrollbench:{ID_VERSION}:{canonical(value)}".encode()).hexdigest()[:LENGTH]


def recipe_id(recipe: Recipe) -> str:
    """The identity of a piece of work."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    return digest({**fields, "canvas": dataclasses.asdict(recipe.canvas)})


def image_id(rgb: np.ndarray) -> str:
    """Digest of a decoded uint8 array (h, w, 3) and its shape; independent of the PNG encoder."""
    head = f"scrollbench:{ID_VERSION}:image:{'x'.join(map(str, rgb.shape))}:{rgb.dtype}:".encode()
    found = hashlib.sha256(head)
    found.update(rgb.ravel().data)  # no copy of a large picture
    return found.hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:LENGTH]


def folder_digest(folder: Path) -> str:
    """Digest of a weights folder: relative names and contents; cards and dot files do not count."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != "card.json")
    return digest([[p.relative_to(folder).as_posix(), file_digest(p)] for p in files])
