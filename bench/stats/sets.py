"""Uncertainty of distances between sets (FID, KID) and of their differences, from stored features, by prompt.

A bootstrap of FID is wrong: a resample holds duplicates, its covariance has fewer directions, and all its distances
lie above the one that was measured. So the error comes from leaving blocks of prompts out, and the test of "no
difference" from swapping the two samplers on random prompts. All crops of a prompt, of all its seeds, stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.errors import UsageError
from bench.stats.means import LEVEL, Array, Estimate

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


def _kernel(x: Array, y: Array) -> Array:
    cubed: Array = (x @ y.T / x.shape[1] + 1) ** 3
    return cubed


def set_difference(
    many: Many, prompts: int, *, blocks: int = BLOCKS, swaps: int = 0, level: float = LEVEL, seed: int = 0
) -> Estimate:
    """The distance of B minus that of A, both of the same prompts, with jackknife error and swap test.

    Args:
        many: of :func:`kernel_sums` or :func:`one_by_one` over 2 x ``prompts`` groups: A's prompts, then B's.
        swaps: random exchanges of A and B for the p; 0 takes the p of Student's t from the jackknife error instead.

    Returns:
        value, the interval of Student's t at blocks - 1 degrees of freedom, and p.

    Raises:
        UsageError: fewer than two prompts.
    """
    from scipy.special import stdtr, stdtrit

    if prompts < 2:
        raise UsageError(f"a difference of distances between sets needs at least 2 prompts, got {prompts}")
    ones, zeros = np.ones((1, prompts)), np.zeros((1, prompts))

    def difference(a: Array) -> Array:
        """``a`` (k, prompts) says for each prompt whose pictures count as A's: 1 its own, 0 the other's."""
        return many(np.hstack([1 - a, a])) - many(np.hstack([a, 1 - a]))

    value = float(difference(ones)[0])
    kept = leave_out(prompts, blocks)
    none = np.repeat(zeros, len(kept), axis=0)
    error = jackknife_error(many(np.hstack([none, kept])) - many(np.hstack([kept, none])))
    half = float(stdtrit(len(kept) - 1, (1 + level) / 2)) * error
    if swaps:
        chosen = np.random.default_rng(seed).integers(0, 2, (swaps, prompts)).astype(np.float64)
        p = (1 + int((np.abs(difference(chosen)) >= abs(value) * (1 - 1e-9)).sum())) / (1 + swaps)
    else:
        p = 2 * float(stdtr(len(kept) - 1, -abs(value) / error)) if error else float(value == 0)
    return Estimate(value, value - half, value + half, error, p, prompts)
