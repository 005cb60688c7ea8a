"""Uncertainty of distances between sets (FID, KID) and of their differences, from stored features, by prompt.

A bootstrap of FID is wrong: a resample holds duplicates, its covariance has fewer directions, and all its distances
lie above the one that was measured. So the error comes from leaving blocks of prompts out, and the test of "no
difference" from swapping the two samplers on random prompts. All crops of a prompt, of all its seeds, stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.errors import UsageError
from bench.stats.means import LEVEL, SWAPS, Array, Estimate, swap_test

BLOCKS = 20
Statistic = Callable[[Array], float]  # (rows, d) features of one side -> its distance
Many = Callable[[Array], Array]  # (k, groups) of 0 and 1, which groups are in -> (k,) distances


def leave_out(groups: int, blocks: int = BLOCKS) -> Array:
    """(blocks, groups) of 0 and 1: in turn without every ``blocks``-th group, so that neighbours (themes) spread."""
    count = min(blocks, groups)
    kept: Array = (np.arange(groups) % count != np.arange(count)[:, None]).astype(np.float64)
    return kept


def jackknife_error(replicates: Array) -> float:
    """sqrt((g - 1) / g sum (r - mean r)^2) over g replicates with a block left out (Shao and Tu 1995, eq. 2.9).

    The blocks are of nearly equal size. The bias that smaller sets have is the same for all and drops out.
    """
    g = len(replicates)
    return float(np.sqrt((g - 1) / g * ((replicates - replicates.mean()) ** 2).sum())) if g > 1 else float("inf")


def one_by_one(groups: Sequence[Array], statistic: Statistic) -> Many:
    """Any statistic of rows, computed afresh for every choice of groups."""

    def many(chosen: Array) -> Array:
        return np.array([statistic(np.concatenate([g for g, c in zip(groups, row) if c])) for row in chosen])

    return many


def kernel_sums(groups: Sequence[Array], reference: Array) -> Many:
    """KID (:func:`bench.metrics.distribution.kernel_distance`) of any choice of groups from sums that are made once.

    With W the sums of the kernel between groups, without the diagonal of single rows, and c those to the reference,
    a choice s of N rows has s'Ws / (N (N - 1)) - 2 s'c / (N m). The reference's own term is left out: differences do
    not have it. A choice of fewer than two rows raises ``UsageError``.
    """
    starts = np.cumsum([0, *map(len, groups)])[:-1]
    rows, sizes = np.concatenate(groups), np.array([len(g) for g in groups], dtype=np.float64)
    within = np.array([np.add.reduceat(_kernel(g, rows).sum(0), starts) for g in groups])
    within -= np.diag([sum(float(_kernel(row[None], row[None])[0, 0]) for row in g) for g in groups])
    across = np.array([float(_kernel(g, reference).sum()) for g in groups])

    def many(chosen: Array) -> Array:
        n = chosen @ sizes
        if n.min() < 2:
            raise UsageError(f"a choice of prompts needs at least 2 feature rows, got {n.min():.0f}: take more prompts")
        inside = ((chosen @ within) * chosen).sum(1)
        found: Array = inside / (n * (n - 1)) - 2 * (chosen @ across) / (n * len(reference))
        return found

    return many


def kernel_gains(groups: Sequence[Array], reference: Array) -> Array | None:
    """The difference of KID, B minus A, as a sum of one number a prompt; None where the sides differ in size.

    Swapping A and B on a prompt turns the sign of its number and leaves the others alone, so the swap test of KID is
    that of a mean: with u = 1 for B's groups and -1 for A's (signs turned where swapped), W and c as in
    :func:`kernel_sums` and N rows on each side, f(u) - f(-u) = u'W1 / (N (N - 1)) - 2 u'c / (N m), since
    (1 + u)'W(1 + u) - (1 - u)'W(1 - u) = 4 u'W1.

    Args:
        groups: A's prompts, then B's.
    """
    prompts = len(groups) // 2
    if [len(g) for g in groups[:prompts]] != [len(g) for g in groups[prompts:]]:
        return None
    rows, starts = np.concatenate(groups), np.cumsum([0, *map(len, groups)])[:-1]
    n = len(rows) // 2
    within = np.add.reduceat(np.concatenate([_kernel(g, rows).sum(1) for g in groups]), starts)
    within -= np.add.reduceat(((rows * rows).sum(1) / rows.shape[1] + 1) ** 3, starts)
    across = np.add.reduceat(np.concatenate([_kernel(g, reference).sum(1) for g in groups]), starts)
    each = within / (n * (n - 1)) - 2 * across / (n * len(reference))
    gains: Array = each[prompts:] - each[:prompts]
    return gains


def _kernel(x: Array, y: Array) -> Array:
    cubed: Array = (x @ y.T / x.shape[1] + 1) ** 3
    return cubed


def set_difference(
    many: Many, prompts: int, *, blocks: int = BLOCKS, gains: Array | None = None, swaps: int = SWAPS,
    level: float = LEVEL,
) -> Estimate:  # fmt: skip
    """The distance of B minus that of A, both of the same prompts, with jackknife error and test.

    Args:
        many: of :func:`kernel_sums` or :func:`one_by_one` over 2 x ``prompts`` groups: A's prompts, then B's.
        gains: of :func:`kernel_gains`: p by swapping A and B on random prompts. Without them p is that of Student's t
            with the jackknife error: every swap would be a distance of its own, and a few hundred of them cannot
            stand a correction for what else is tested.
        swaps: of the swap test.

    Returns:
        value, the interval of Student's t at blocks - 1 degrees of freedom, and p.

    Raises:
        UsageError: fewer than two prompts.
    """
    from scipy.special import stdtr, stdtrit

    if prompts < 2:
        raise UsageError(f"a difference of distances between sets needs at least 2 prompts, got {prompts}")
    ones, zeros = np.ones((1, prompts)), np.zeros((1, prompts))
    value = float((many(np.hstack([zeros, ones])) - many(np.hstack([ones, zeros])))[0])
    kept = leave_out(prompts, blocks)
    none = np.repeat(zeros, len(kept), axis=0)
    error = jackknife_error(many(np.hstack([none, kept])) - many(np.hstack([kept, none])))
    half = float(stdtrit(len(kept) - 1, (1 + level) / 2)) * error
    if gains is not None:
        p = swap_test(gains, swaps)
    else:
        p = 2 * float(stdtr(len(kept) - 1, -abs(value) / error)) if error else float(value == 0)
    return Estimate(value, value - half, value + half, error, p, prompts)
