"""Extractors as metrics see them: all of them together, and what is asked of each role."""

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


# -- what metrics ask of a role, beside ``name``, ``role`` and ``digest``


class Embeds(Protocol):
    """Role dino."""

    dim: int

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """As :meth:`Extractor.embed`."""


class EmbedsBoth(Embeds, Protocol):
    """Roles clip and iqa: pictures and texts in one space, unit length."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """As :meth:`Extractor.embed_text`."""


class Classifies(Embeds, Protocol):
    """Role inception."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """As :meth:`Extractor.logits`."""


class Compares(Protocol):
    """Roles lpips and style."""

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """As :meth:`Extractor.distances`."""


class Prefers(EmbedsBoth, Protocol):
    """Roles hps and pick: a score is ``scale`` times the cosine of picture and text."""

    stock: str  # the view under which whole pictures go in by the original's own rules
    scale: float

    def embed_stock(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 of whole pictures."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the network reads."""


class Rewards(Protocol):
    """Role reward."""

    stock: str

    def score(self, crops: Sequence[np.ndarray], text: str) -> np.ndarray:
        """(n,) float32."""

    def score_stock(self, pictures: Sequence[np.ndarray], text: str) -> np.ndarray:
        """(n,) float32 of whole pictures."""

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the network reads."""


class Rates(Embeds, Protocol):
    """Role aesthetic."""

    stock: str

    def embed_stock(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 of whole pictures."""

    def rate(self, features: np.ndarray) -> np.ndarray:
        """(n,) float32 of features that ``embed`` or ``embed_stock`` gave."""


class Detects(Protocol):
    """Role owl."""

    def detect(self, crops: Sequence[np.ndarray], query: str) -> list[np.ndarray]:
        """Boxes and scores of what a query names, one array a crop."""


class Reads(Protocol):
    """Role oracle."""

    def read(self, rgb: np.ndarray, loop: bool = False) -> object:
        """What one uint8 picture (32, w, 3) of ScrollWorld shows."""


ASKS: dict[str, type] = {
    "dino": Embeds, "clip": EmbedsBoth, "inception": Classifies, "lpips": Compares, "style": Compares, "oracle": Reads,
    "hps": Prefers, "pick": Prefers, "reward": Rewards, "aesthetic": Rates, "iqa": EmbedsBoth, "owl": Detects,
}  # fmt: skip


def asked(role: str) -> list[str]:
    """The names of what a role must have."""
    kinds = [k for k in ASKS[role].__mro__ if k not in (object, Protocol) and k.__module__ == __name__]
    return sorted({n for k in kinds for n in (*vars(k), *k.__annotations__) if not n.startswith("_")})
