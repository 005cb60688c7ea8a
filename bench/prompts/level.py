"""Choosing items so that their attributes stay level: greedy, in a fixed order, without random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np


def hash_order(names: Sequence[str], seed: int = 0) -> list[int]:
    """Positions in an order that depends on the names alone, and not on how they were listed."""
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())


def choose_level(
    fields: Sequence[Sequence[Hashable]],
    n: int,
    *,
    weights: Sequence[float] | None = None,
    proportional: bool = False,
    groups: Sequence[Hashable] = (),
    shares: Mapping[Any, float] | None = None,
) -> list[int]:
    """Positions of n items, each pick the one whose values are most in arrears; the first of equals.

    A value picked k times that ought to have the share s is in arrears by (k + 1/2) / s, the smaller the more (the rule
    of Sainte-Lague). Each pick depends only on the ones before it: the first k of n are what n = k chooses.

    Args:
        fields: for each item its values, one a field.
        weights: how much each field counts; 1 by default.
        proportional: values ought to have the shares they have among the items; else all of a field the same.
        groups: for each item its group, with ``shares`` of the groups: every pick is of the group most in arrears.

    Raises:
        ValueError: fewer items than n, or too few of a group.
    """
    if len(fields) < n:
        raise ValueError(f"{n} prompts were asked for, the pool has {len(fields)}")
    if n == 0:
        return []
    names = {key: i for i, key in enumerate(dict.fromkeys((f, v) for vs in fields for f, v in enumerate(vs)))}
    keys = np.array([[names[f, v] for f, v in enumerate(vs)] for vs in fields])
    field_of = np.array([f for f, _ in names])
    held = np.bincount(keys.ravel()).astype(float)
    rarity = len(fields) / held if proportional else np.bincount(field_of)[field_of]  # one over the share
    scale = rarity * np.array(weights or [1.0] * keys.shape[1])[field_of]
    taken, picked = np.zeros(len(names)), np.zeros(len(fields), dtype=bool)
    count: dict[Any, int] = dict.fromkeys(shares or (), 0)
    chosen = []
    for _ in range(n):
        free = ~picked
        if shares:
            group = min(shares, key=lambda g: ((count[g] + 0.5) / shares[g], str(g)))
            free &= np.array([g == group for g in groups])
            count[group] += 1
            if not free.any():
                raise ValueError(f"the pool has too few items of {group!r}")
        best = int(np.where(free, ((taken + 0.5) * scale)[keys].sum(axis=1), np.inf).argmin())
        picked[best] = True
        taken[keys[best]] += 1
        chosen.append(best)
    return chosen
