"""Limits of the checks of ``scrollbench prompts lint``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_type_hints

from bench.errors import UsageError, near

LEVELS = ("note", "warning", "error")


@dataclass(frozen=True)
class Limits:
    """The thresholds. A value at a limit is allowed; beyond it is a finding. Made for about 1,000 English prompts."""

    near_words: float = 0.40  # share of word 4-grams any two prompts have in common
    near_embedding: float = 0.75  # cosine of any two in the latent semantic embedding
    near_clip: float = 0.95  # cosine of any two in a CLIP text embedding (INFERENCE: not calibrated on real weights)
    openings: int = 15  # prompts that begin with the same three words
    phrases: int = 15  # prompts that share a run of 4, 5 or 6 words
    skeletons: int = 3  # prompts that are the same once content words are masked
    skeleton_words: int = 3  # function words a skeleton must have to count as one
    mattr: float = 0.60  # least mean type-token ratio over windows of 100 words
    per_subtheme: int | None = None  # prompts each sub-theme must have; None: only compared with each other
    templated: bool = False  # a set made from a template on purpose: what shows that is noted, not an error

    @classmethod
    def of(cls, card: Mapping[str, Any], where: str) -> Limits:
        """The limits with what the card's ``[lint]`` sets. Raises ``UsageError`` naming the key."""
        given = card.get("lint", {})
        if not isinstance(given, dict):
            raise UsageError(f"{where}: [lint] must be a table, got {given!r}")
        types = get_type_hints(cls)
        for key, value in given.items():
            if key not in types:
                raise UsageError(f"{where}: [lint] has no key {key!r}; {near(key, types)}")
            wanted = {float: int | float, int | None: int}.get(types[key], types[key])
            if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
                name = str(wanted) if isinstance(wanted, UnionType) else wanted.__name__
                raise UsageError(f"{where}: [lint] {key} must be {name}, got {value!r}")
        return cls(**given)
