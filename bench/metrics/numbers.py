"""Arithmetic that several metrics share."""

from __future__ import annotations

import numpy as np


def cosine(features: np.ndarray) -> np.ndarray:
    """(n, n) float64 cosine similarities of the rows; NaN where a row is zero or not finite."""
    x = np.asarray(features, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness: np.ndarray = unit @ unit.T
    return likeness


def number(value: object) -> float | None:
    """A finite float, or None: what is undefined is missing, never 0."""
    return float(value) if isinstance(value, float) and np.isfinite(value) else None
