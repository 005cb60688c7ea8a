"""What numbers of two samplers allow one to say. Plain numpy and scipy in float64; nothing here reads a store.

The unit of inference is the prompt: values of its seeds, windows and crops are averaged before they come here, because
they are not independent draws. Distances between sets (FID, KID) have their own module, :mod:`bench.stats.sets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from bench.errors import UsageError

DRAWS = 4000  # bootstrap resamples
SWAPS = 9999  # sign flips: the smallest p is 1 / 10,000
LEVEL = 0.95

Array = np.ndarray[Any, np.dtype[np.float64]]


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


def estimate(values: Sequence[float] | Array, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean of one number a prompt, with interval (:func:`bounds`), standard error and swap test (:func:`swap_test`).

    Raises:
        UsageError: no values, or values that are not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise UsageError(f"expected one finite value a prompt, got {x.shape} with {(~np.isfinite(x)).sum()} undefined")
    low, high = bounds(x, level, seed)
    return Estimate(float(x.mean()), float(low), float(high), standard_error(x), swap_test(x, seed=seed), len(x))


def standard_error(values: Array) -> float:
    """s / sqrt(n) with s over n - 1; infinite for one value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def bounds(values: Array, level: float = LEVEL, seed: int = 0, draws: int = DRAWS) -> tuple[Array, Array]:
    """Ends of the two-sided interval of a mean over the last axis: the outer ones of bootstrap BCa and Student's t.

    BCa (Efron, J. Am. Stat. Assoc. 1987, section 4) takes the quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the
    resampled means, with z0 from the share of them below the mean and a = sum d^3 / (6 (sum d^2)^1.5), the jackknife
    acceleration, which for a mean is closed (Efron and Tibshirani 1993, eq. 14.15). As z stands Student's quantile
    times sqrt(n / (n - 1)) instead of the normal one: a resampled mean spreads too little at small n (Hesterberg,
    The American Statistician 2015, section 5.3). BCa follows skewness but is too short under heavy tails, where t is
    right; t is wrong under skewness. Simulated coverage of both, alone and together: docs/gates.md.

    Args:
        values: (..., n); the same resamples serve all leading positions.

    Returns:
        (low, high), each (...). Infinite for n < 2; both the mean where nothing varies.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    x = np.asarray(values, dtype=np.float64)
    n, mean = x.shape[-1], x.mean(-1)
    if n < 2:
        return np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    d = (x - mean[..., None]).reshape(-1, n)
    spread = np.sqrt((d**2).sum(1))
    constant = spread <= 1e-12 * np.maximum(1.0, np.abs(x).reshape(-1, n).max(1))
    spread = np.where(constant, 1.0, spread)
    means = np.sort(_resampled(d, draws, seed), axis=1)
    below = (means < 0).mean(1) + (means == 0).mean(1) / 2
    z0 = ndtri(below.clip(0.5 / draws, 1 - 0.5 / draws))
    acceleration = (d**3).sum(1) / (6 * spread**3)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        quantile = float(stdtrit(n - 1, tail))
        shifted = z0 + np.sqrt(n / (n - 1)) * quantile
        scale = 1 - acceleration * shifted
        share = np.where(scale > 0, ndtr(z0 + shifted / np.where(scale > 0, scale, 1.0)), float(tail > 0.5))
        bca = means[np.arange(len(d)), np.rint(share * (draws - 1)).astype(int)]
        t = quantile * spread / np.sqrt(n * (n - 1))
        outer = np.maximum(bca, t) if tail > 0.5 else np.minimum(bca, t)
        ends.append(mean + np.where(constant, 0.0, outer).reshape(mean.shape))
    return ends[0], ends[1]


def _resampled(d: Array, draws: int, seed: int) -> Array:
    """(rows, draws) means of resamples of each row, in pieces: how often each value is drawn, times the values."""
    n = d.shape[1]
    counts = _counts(n, draws, seed)
    pieces = (counts[start : start + 500].T.astype(np.float64) for start in range(0, draws, 500))
    return np.concatenate([d @ piece / n for piece in pieces], axis=1)


@lru_cache(maxsize=2)  # the numbers of one board or one report mostly have the same n
def _counts(n: int, draws: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """(draws, n): how often each of n values is in each resample."""
    rng = np.random.default_rng(seed)
    counts = np.empty((draws, n), dtype=np.uint16)
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts[start : start + size] = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
    return counts


def swap_test(differences: Array, swaps: int = SWAPS, seed: int = 0) -> float:
    """Two-sided p of "it does not matter which of the two is called A", by swapping them on random prompts.

    Swapping a prompt turns the sign of its difference: Fisher's randomisation test of paired data. p = (1 + number of
    swaps with a mean at least as far from 0) / (1 + swaps) (Phipson and Smyth, SAGMB 2010), never 0. Exact where both
    come from one distribution, whatever its shape.
    """
    d = np.asarray(differences, dtype=np.float64)[None]
    return float(_share_extreme(_swapped(d, swaps, seed), d.sum(1), np.abs(d).sum(1))[0])


def swap_tests(x: Array, swaps: int = SWAPS, seed: int = 0) -> dict[tuple[int, int], float]:
    """:func:`swap_test` of the differences of every two rows i < j of (rows, n): the same signs serve all pairs.

    The swapped sum of a difference is the difference of two swapped sums, so that pairs cost next to nothing.
    """
    x = x - x.mean(0)  # differences stay what they are, and lose less to rounding
    swapped, sums, sizes = _swapped(x, swaps, seed), x.sum(1), np.abs(x).sum(1)
    found: dict[tuple[int, int], float] = {}
    for i in range(len(x) - 1):
        later = slice(i + 1, None)
        p = _share_extreme(swapped[i] - swapped[later], sums[i] - sums[later], sizes[i] + sizes[later])
        found |= {(i, i + 1 + k): float(v) for k, v in enumerate(p)}
    return found


def _swapped(x: Array, swaps: int, seed: int) -> Array:
    """(rows, swaps) sums of each row under random signs, the same for all rows."""
    rng, n, made = np.random.default_rng(seed), x.shape[1], []
    for start in range(0, swaps, 1000):
        size = min(1000, swaps - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(-(-size * n // 8)), np.uint8), count=size * n)
        made.append(x.sum(1, keepdims=True) - 2 * (x @ bits.reshape(size, n).T.astype(np.float64)))
    return np.concatenate(made, axis=1)


def _share_extreme(swapped: Array, sums: Array, sizes: Array) -> Array:
    """p of each row of swapped sums; ``sizes`` are those of what was summed, and say how far rounding goes."""
    extreme = np.abs(swapped) >= (np.abs(sums) - 1e-12 * sizes)[:, None]
    p: Array = (1 + extreme.sum(1)) / (1 + swapped.shape[1])
    return p


def detectable(sd: float, n: int, level: float = LEVEL, power: float = 0.8) -> float:
    """Smallest true difference that a one-sided test at 1 - ``level`` finds with probability ``power``.

    (z_level + z_power) sd / sqrt(n), with ``sd`` that of the paired differences: 0.249, 0.144, 0.079, 0.045 sd at n =
    100, 300, 1,000, 3,000. A gate cannot tell losses smaller than this from nothing.
    """
    from scipy.special import ndtri

    return float((ndtri(level) + ndtri(power)) * sd / np.sqrt(n))


def prompts_to_decide(distance: float, sd: float, level: float = LEVEL) -> int | None:
    """Prompts after which an estimate that stays ``distance`` from a limit is clear of it; None if it lies on it."""
    from scipy.special import ndtri

    if not distance:
        return None
    return max(2, int(np.ceil((float(ndtri(level)) * sd / distance) ** 2)))


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


@dataclass(frozen=True)
class Ranked:
    """One method's place: its mean, the interval of its rank (1 is best), and its tie group (1 is the best group)."""

    method: str
    mean: float
    low: int
    high: int
    group: int


def ranking(table: Mapping[str, Array], level: float = LEVEL, seed: int = 0, draws: int = DRAWS) -> list[Ranked]:
    """Methods from best to worst with what can be said of their order.

    Args:
        table: method -> one value a prompt, the same prompts in the same order for all; more is better.

    The interval of a rank is the percentile interval of its ranks over resamples of the prompts (Goldstein and
    Spiegelhalter, J. R. Stat. Soc. A 1996). A group holds, from its best method down, those whose paired difference
    to that best one stays above 0.05 by Holm over all pairs: inside a group the order may be chance.

    Raises:
        UsageError: methods with different numbers of prompts.
    """
    names = sorted(table, key=lambda name: -float(np.mean(table[name])))
    if len({len(v) for v in table.values()}) > 1:
        raise UsageError("a ranking needs the same prompts of every method; take the intersection first")
    x = np.array([table[name] for name in names], dtype=np.float64)
    means = _resampled(x, draws, seed)
    ranks = 1 + (means[None] > means[:, None]).sum(1)  # ranks[i]: how many are better than i, plus 1
    low, high = np.quantile(ranks, [(1 - level) / 2, (1 + level) / 2], axis=1, method="nearest")
    swaps = max(SWAPS, 25 * len(names) * (len(names) - 1) // 2)  # so that the smallest p can pass Holm: 1/25 < 0.05
    p = swap_tests(x, swaps, seed)
    adjusted = dict(zip(p, holm(list(p.values()))))
    groups, first = [1], 0
    for i in range(1, len(names)):
        if adjusted[first, i] <= 1 - LEVEL:
            first = i
        groups.append(groups[-1] + (first == i))
    return [Ranked(*row) for row in zip(names, map(float, x.mean(1)), map(int, low), map(int, high), groups)]


def average_rank(columns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over metrics of a method's rank, as papers print it (DRSPO, tables 1 and 2): equal values share the better
    rank and leave the next one out, and no account is taken of how far apart the values are or of any uncertainty.

    Args:
        columns: a metric each, method -> value, oriented so that more is better.
    """
    ranks = [{m: 1 + sum(other > v for other in column.values()) for m, v in column.items()} for column in columns]
    return {m: sum(r[m] for r in ranks) / len(ranks) for m in columns[0]}
