"""Extractors as metrics see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Extractor(Protocol):
    """A loaded network. Crops are uint8 (h, w, 3) arrays; what a role cannot do raises ``UsageError``."""

    name: str
    role: str
    digest: str
    dim: int

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 features; crops that are not square are squashed to the network's square input."""

    def patches(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, g, g, dim) float32: the tokens of the last block before its norm, rows from the top (role dino)."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, unit length (role clip)."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, classes) float32: the network's last layer on what ``embed`` gave (role inception)."""

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, n) float32, symmetric, zero diagonal: the distance of every pair of crops (roles lpips and style)."""
