"""Intervals of means over prompts that hold for skewed, heavy-tailed, binary and mostly constant numbers.

Where a sample cannot bound its mean, an end is infinite: it cannot be told at this number of prompts. Simulated
coverage, with the command that simulates it again: docs/gates.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, SupportsFloat

import numpy as np

DRAWS = 4000  # bootstrap resamples
LEVEL = 0.95
TAIL = 0.15  # skewness / sqrt(n) from which a tail counts as long; Cochran (1977, section 2.15) asks for 0.2 or less
RARE = 20  # values off the most frequent one that are enough to know how far off they lie
RESAMPLED = 6  # prompts below which resamples are too few to have a distribution: Student's t alone
HINT = 0.05  # ... from which few prompts hint at a tail that they do not show
FEW = 10  # prompts below which a long tail leaves a one-sided bound short even when it is widened

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Span = tuple[float | None, float | None]  # the range of single values; an open end is None
OPEN: Span = (None, None)


def bounds(
    values: Array, level: float = LEVEL, seed: int = 0, draws: int = DRAWS, span: Span = OPEN
) -> tuple[Array, Array]:
    """Ends of the two-sided interval of a mean over the last axis, inside the number's range.

    The outer ends of Student's t and the bootstrap-t (Efron and Tibshirani 1993, section 12.5): resampled
    t = (mean* - mean) / se* has the quantiles q, and the interval is mean - q se. The bootstrap-t follows skewness but
    is short under heavy tails, where t is right. On the side of a long tail (skewness / sqrt(n) above 0.15) the error
    is divided by 1 + 20 / sqrt(n), because the tail's largest values are mostly not in the sample; that rule is ours.
    Numbers that take one value on most prompts, and binary ones, have their own interval (:func:`_rare`).

    Args:
        values: (..., n); the same resamples serve all leading positions.
        span: the range of single values.

    Returns:
        (low, high), each (...). Infinite where nothing can be said: n < 2, or too little that varies.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.shape[-1] < 2:
        return np.full(x.shape[:-1], -np.inf), np.full(x.shape[:-1], np.inf)
    rows = x.reshape(-1, x.shape[-1])
    low, high = _studentised(rows, level, draws, seed)
    for i in np.flatnonzero(_mostly_one(rows) | _binary(rows, span)):
        low[i], high[i] = _rare(rows[i], level, span, draws, seed)
    low, high = low.reshape(x.shape[:-1]), high.reshape(x.shape[:-1])
    return _inside(low, span), _inside(high, span)


def told(samples: Mapping[str, Sequence[float]], span: Span = OPEN) -> dict[str, tuple[float, float]]:
    """Name -> :func:`bounds` of its sample, of those that can be told; samples of one size share the resamples."""
    found: dict[str, tuple[float, float]] = {}
    for n in sorted({len(sample) for sample in samples.values()} - {0, 1}):
        names = [name for name, sample in samples.items() if len(sample) == n]
        ends = bounds(np.array([samples[name] for name in names], dtype=np.float64), span=span)
        found |= {
            name: (float(low), float(high)) for name, low, high in zip(names, *ends) if np.isfinite([low, high]).all()
        }
    return found


def _inside(ends: Array, span: Span) -> Array:
    least, most = span
    return np.clip(ends, -np.inf if least is None else least, np.inf if most is None else most)


def _studentised(x: Array, level: float, draws: int, seed: int) -> tuple[Array, Array]:
    """Both ends of each row; the outer of bootstrap-t and Student's t, wider on the side of a long tail."""
    from scipy.special import stdtrit

    (rows, n), mean = x.shape, x.mean(1)
    d = x - mean[:, None]
    error = np.sqrt((d**2).sum(1) / (n * (n - 1)))
    t = _resampled_t(d, draws, seed) if n >= RESAMPLED else np.zeros((rows, draws))
    tail = skewness(d) / np.sqrt(n)
    at, ends = np.arange(rows), []
    for side in (-1.0, 1.0):
        miss = np.where(side * tail > TAIL, (1 - level) / 2 / (1 + 20 / np.sqrt(n)), (1 - level) / 2)
        place = np.where(side > 0, np.floor(miss * (draws - 1)), np.ceil((1 - miss) * (draws - 1)))
        far = np.maximum(-side * t[at, place.astype(int)], stdtrit(n - 1, 1 - miss))
        ends.append(mean + side * np.where(error > 0, far, 0.0) * error)
    return ends[0], ends[1]


def skewness(d: Array) -> Array:
    """Third standardised moment over the last axis of values whose mean is 0; 0 where nothing varies."""
    spread = (d**2).mean(-1)
    return np.where(spread > 0, (d**3).mean(-1) / np.where(spread > 0, spread, 1.0) ** 1.5, 0.0)


def _resampled_t(d: Array, draws: int, seed: int) -> Array:
    """(rows, draws) sorted t of resamples of rows of mean 0; infinite where a resample does not vary."""
    n = d.shape[1]
    counts, made = _counts(n, draws, seed), []
    least = 1e-9 * (d**2).mean(1)[:, None]
    for start in range(0, draws, 500):
        often = counts[start : start + 500].T.astype(np.float64)
        mean = d @ often / n
        spread = (d**2) @ often / n - mean**2
        t = mean / np.sqrt(np.maximum(spread, np.maximum(least, 1e-300)) / (n - 1))
        made.append(np.where(spread > least, t, _endless(mean)))
    found = np.concatenate(made, axis=1)
    found.sort(axis=1)
    return found


def _endless(mean: Array) -> Array:
    return np.where(mean > 0, np.inf, np.where(mean < 0, -np.inf, 0.0))


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


# -- numbers that seldom vary


def _mostly_one(x: Array) -> Mask:
    """Rows in which one value is more than half of all, and fewer than 20 differ from it."""
    middle = np.sort(x, axis=1)[:, x.shape[1] // 2]  # a value of more than half of all is the median
    same = 1e-9 * np.maximum(1.0, np.abs(x).max(1))  # what rounding leaves between equal numbers
    off = (np.abs(x - middle[:, None]) > same[:, None]).sum(1)
    found: Mask = (2 * off < x.shape[1]) & (off < RARE)
    return found


def _binary(x: Array, span: Span) -> Mask:
    """Rows of nothing but the two ends of their range."""
    least, most = span
    if least is None or most is None:
        return np.zeros(len(x), dtype=bool)
    return np.asarray(((x == least) | (x == most)).all(1))


def _rare(x: Array, level: float, span: Span, draws: int, seed: int) -> tuple[float, float]:
    """The interval of one row that mostly has one value.

    Binary numbers get Wilson's score interval (J. Am. Stat. Assoc. 1927). Others are bounded by what the unseen could
    be at worst: the quantile of sum w x + w' end, with (w, w') uniform on the simplex and ``end`` that of the range
    (Gaffke 2005; Learned-Miller and Thomas 2020, where its validity is conjectured and supported by simulation). For
    a sample that never varies it is the rule of three, 1 - 0.05^(1/n). Towards an open end nothing can be said.
    """
    n, (least, most) = len(x), span
    if least is not None and most is not None and bool(_binary(x[None], span)[0]):
        low, high = wilson(int((x == most).sum()), n, level)
        return least + (most - least) * low, least + (most - least) * high
    weights = _simplex(n + 1, draws, seed)
    tail = (1 - level) / 2
    below = -np.inf if least is None else float(np.quantile(weights @ np.append(x, least), tail))
    above = np.inf if most is None else float(np.quantile(weights @ np.append(x, most), 1 - tail))
    return below, above


@lru_cache(maxsize=4)
def _simplex(n: int, draws: int, seed: int) -> Array:
    """(draws, n) weights, uniform among those that are not negative and add up to 1."""
    made = np.random.default_rng(seed).exponential(size=(draws, n))
    weights: Array = made / made.sum(1, keepdims=True)
    return weights


def wilson(count: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share, ``count`` of ``n``: the shares p with |count / n - p| <= z sqrt(p (1 - p) / n)."""
    from scipy.special import ndtri

    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (count + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (count * (n - count) / n + z2 / 4)) / (n + z2)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def unseen(n: int, level: float = LEVEL) -> float:
    """The share of prompts that may have something that none of ``n`` shows: 1 - (1 - level)^(1/n), about 3 / n."""
    return float(1 - (1 - level) ** (1 / n)) if n else 1.0


def untold(values: Array, side: float) -> bool:
    """Whether so few prompts with a long tail leave the bound on a ``side`` (-1 or 1) too close for a verdict."""
    d = np.asarray(values, dtype=np.float64)
    return len(d) < FEW and bool(side * skewness(d - d.mean()) / np.sqrt(len(d)) > HINT)


# -- how many prompts


def detectable(sd: float, n: int, level: float = LEVEL, power: float = 0.8) -> float:
    """Smallest true difference that a one-sided t-test at 1 - ``level`` finds with probability ``power``.

    The noncentrality of Student's t at which P(t > t_level) is ``power``, times sd / sqrt(n), with ``sd`` that of the
    paired differences: 1.08, 0.57, 0.25, 0.079 sd at n = 7, 20, 100, 1,000. Infinite for one prompt.
    """
    from scipy.special import nctdtrinc, stdtrit

    if n < 2:
        return float("inf")
    return float(nctdtrinc(n - 1, 1 - power, stdtrit(n - 1, level)) * sd / np.sqrt(n))


def prompts_to_decide(n: int, half: float, distance: float) -> int | None:
    """Prompts at which an interval that reaches ``half`` beyond its estimate at n clears a limit ``distance`` away.

    Its width falls as 1 / sqrt(n), so n (half / distance)^2. None where no number can be told.
    """
    if not distance or not np.isfinite(half):
        return None
    return max(n + 1, int(np.ceil(n * (half / distance) ** 2)))


def finite(*ends: SupportsFloat | None) -> Iterable[float | None]:
    """Ends of intervals as they are kept: None where nothing can be said."""
    known = (None if end is None else float(end) for end in ends)
    return (end if end is not None and np.isfinite(end) else None for end in known)
