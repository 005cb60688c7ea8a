"""What numbers of two samplers allow one to say. Plain numpy and scipy in float64; nothing here reads a store.

The unit of inference is the prompt: values of its seeds, windows and crops are averaged before they come here, because
they are not independent draws. Distances between sets (FID, KID) have their own module, :mod:`bench.stats.sets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.stats.intervals import LEVEL as LEVEL
from bench.stats.intervals import OPEN, Span
from bench.stats.intervals import Array as Array
from bench.stats.intervals import bounds as bounds

SWAPS = 9999  # sign flips: the smallest p is 1 / 10,000
EXACT = 13  # prompts up to which all swaps are tried: 2^13 of them


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts (or another statistic of them) with its two-sided ``level`` interval.

    Attributes:
        value, low, high: in the unit of what was measured; the ends are infinite where nothing can be said (n < 2).
        se: standard error.
        p: two-sided p of "no difference" by the swap test, not corrected for other tests.
        n: prompts.
    """

    value: float
    low: float
    high: float
    se: float
    p: float
    n: int


def paired(a: Mapping[Any, float], b: Mapping[Any, float]) -> tuple[list[Any], Array]:
    """Keys both sides have, in a's order, and ``b - a`` of each: differences on the finished prompts of both."""
    keys = [key for key in a if key in b]
    return keys, np.array([b[key] - a[key] for key in keys], dtype=np.float64)


def estimate(
    values: Sequence[float] | Array, level: float = LEVEL, seed: int = 0, swaps: int = SWAPS, span: Span = OPEN
) -> Estimate:
    """Mean of one number a prompt, with interval (:func:`bench.stats.intervals.bounds`), standard error and swap test.

    Args:
        swaps: of :func:`swap_test`.
        span: the range of single values.

    Raises:
        UsageError: no values, or values that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise UsageError(f"expected one finite value a prompt, got {x.shape} with {(~np.isfinite(x)).sum()} undefined")
    low, high = bounds(x, level, seed, span=span)
    p = swap_test(x, swaps, seed)
    return Estimate(float(x.mean()), float(low), float(high), standard_error(x), p, len(x))


def standard_error(values: Array) -> float:
    """s / sqrt(n) with s over n - 1; infinite for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def swap_test(differences: Array, swaps: int = SWAPS, seed: int = 0) -> float:
    """Two-sided p of "it does not matter which of the two is called A", by swapping them on random prompts.

    Swapping a prompt turns the sign of its difference: Fisher's randomisation test of paired data. p = (1 + number of
    swaps with a mean at least as far from 0) / (1 + swaps) (Phipson and Smyth, SAGMB 2010), never 0. Up to 13 prompts
    all 2^n ways are tried instead, and p is their share. Exact where both come from one distribution, whatever its
    shape.
    """
    d = np.asarray(differences, dtype=np.float64)[None]
    return float(_share_extreme(_swapped(d, swaps, seed), d.sum(1), np.abs(d).sum(1), d.shape[1])[0])


def swap_tests(x: Array, swaps: int = SWAPS, seed: int = 0) -> dict[tuple[int, int], float]:
    """:func:`swap_test` of the differences of every two rows i < j of (rows, n): the same signs serve all pairs.

    The swapped sum of a difference is the difference of two swapped sums, so that pairs cost next to nothing.
    """
    x = x - x.mean(0)  # differences stay what they are, and lose less to rounding
    swapped, sums, sizes = _swapped(x, swaps, seed), x.sum(1), np.abs(x).sum(1)
    found: dict[tuple[int, int], float] = {}
    for i in range(len(x) - 1):
        later = slice(i + 1, None)
        p = _share_extreme(swapped[i] - swapped[later], sums[i] - sums[later], sizes[i] + sizes[later], x.shape[1])
        found |= {(i, i + 1 + k): float(v) for k, v in enumerate(p)}
    return found


def _swapped(x: Array, swaps: int, seed: int) -> Array:
    """(rows, swaps) sums of each row under random signs, the same for all rows."""
    rng, n, made = np.random.default_rng(seed), x.shape[1], []
    if n <= EXACT:
        every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        all_ways: Array = x.sum(1, keepdims=True) - 2 * (x @ every.T.astype(np.float64))
        return all_ways
    for start in range(0, swaps, 1000):
        size = min(1000, swaps - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(-(-size * n // 8)), np.uint8), count=size * n)
        made.append(x.sum(1, keepdims=True) - 2 * (x @ bits.reshape(size, n).T.astype(np.float64)))
    return np.concatenate(made, axis=1)


def _share_extreme(swapped: Array, sums: Array, sizes: Array, n: int) -> Array:
    """p of each row of swapped sums; ``sizes`` are those of what was summed, and say how far rounding goes."""
    extreme = np.abs(swapped) >= (np.abs(sums) - 1e-12 * sizes)[:, None]
    own = 0 if n <= EXACT else 1  # among all ways is the one that happened
    p: Array = (own + extreme.sum(1)) / (own + swapped.shape[1])
    return p


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Scandinavian Journal of Statistics 1979).

    Calling everything at most 0.05 an alarm keeps the chance of any false alarm at 5 %, however the tests depend.
    """
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=np.float64)[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled)) if len(p) else []
    return [float(v) for v in adjusted]


@dataclass(frozen=True)
class Variance:
    """Where the variance of one number a picture comes from; ``residual`` is prompt times seed, with what is left."""

    prompt: float
    seed: float
    residual: float

    def of_mean(self, prompts: int, seeds: int) -> float:
        """Variance of a mean over that many prompts and seeds: says which of them to buy more of."""
        return self.prompt / prompts + self.seed / seeds + self.residual / (prompts * seeds)


def variance_split(values: Array) -> Variance:
    """Variance components of a (prompts, seeds) table: two crossed random effects, one value a cell.

    From the mean squares of the two-way analysis of variance, negative ones set to 0 (Searle, Casella and McCulloch,
    Variance Components, 1992, section 4.3).

    Raises:
        UsageError: fewer than two prompts or seeds, or missing values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise UsageError(f"expected a full table of at least 2 prompts x 2 seeds, got {x.shape}")
    p, s = x.shape
    rows, columns, mean = x.mean(1), x.mean(0), x.mean()
    of_rows = s * ((rows - mean) ** 2).sum() / (p - 1)
    of_columns = p * ((columns - mean) ** 2).sum() / (s - 1)
    rest = float(((x - rows[:, None] - columns + mean) ** 2).sum() / ((p - 1) * (s - 1)))
    return Variance(max(0.0, float(of_rows - rest) / s), max(0.0, float(of_columns - rest) / p), rest)
