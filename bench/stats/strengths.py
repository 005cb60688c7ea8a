"""Strengths of things that people compared two at a time. Plain numpy in float64; nothing here reads a store.

Bradley and Terry, Biometrika 39 (1952), with ties as Davidson, JASA 65 (1970): of two things with log strengths s and
t, the chances of first, second and tie are as exp((s - t) / 2), exp((t - s) / 2) and nu. That is a multinomial logit,
so its likelihood has one maximum, found by Newton's method.

Votes of one person, and votes on one prompt, are not independent draws. The covariance is the sandwich of sums over
clusters in two directions (Cameron, Gelbach and Miller, JBES 29 (2011)): by prompt, plus by voter, minus by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.stats.means import LEVEL, Array

FIRST, SECOND, TIE = 0, 1, 2
STEPS = 100  # of Newton's method; it needs about six


@dataclass(frozen=True)
class Strength:
    """A log strength, their mean 0, with its 95 % interval; ``votes`` it took part in. Half a tie is a ``win``."""

    name: str
    value: float
    low: float
    high: float
    votes: int
    wins: float


@dataclass(frozen=True)
class Strengths:
    """What :func:`bradley_terry` fitted. ``tie`` is nu; 0 where nobody ever voted for a tie."""

    each: tuple[Strength, ...]
    tie: float

    def chance(self, first: str, second: str) -> tuple[float, float, float]:
        """Chances that a vote is for the first, for the second, for neither."""
        by = {s.name: s.value for s in self.each}
        odds = np.array([np.exp((by[first] - by[second]) / 2), np.exp((by[second] - by[first]) / 2), self.tie])
        first_, second_, tie = odds / odds.sum()
        return float(first_), float(second_), float(tie)


def bradley_terry(
    first: Sequence[str], second: Sequence[str], outcome: Sequence[int], clusters: Sequence[Sequence[Any]] = ()
) -> Strengths:
    """Fit strengths to votes.

    Args:
        first, second: what was compared, one name each a vote.
        outcome: ``FIRST``, ``SECOND`` or ``TIE`` of each vote.
        clusters: one or two labels a vote, such as its prompt and its voter; without any, votes count as independent.

    Raises:
        UsageError: no votes, or no finite strengths: some things never lost to the others, or never met them.
    """
    names = sorted(map(str, {*first, *second}))
    if len(names) < 2 or not len(outcome):
        raise UsageError("strengths need votes on two things or more")
    a, b = (np.array([names.index(n) for n in side]) for side in (first, second))
    chosen = np.asarray(outcome)
    _require_finite(names, a, b, chosen)
    n, k, ties = len(chosen), len(names), bool((chosen == TIE).any())
    # columns: the names but the last, whose strength is minus the sum of the others', so that the mean is 0; log nu
    differs = np.zeros((n, k))
    differs[np.arange(n), a] += 1
    differs[np.arange(n), b] -= 1
    basis = np.vstack([np.eye(k - 1), -np.ones(k - 1)])
    features = np.zeros((n, 3, k - 1 + ties))
    features[:, FIRST, : k - 1], features[:, SECOND, : k - 1] = differs @ basis / 2, -differs @ basis / 2
    if ties:
        features[:, TIE, -1] = 1
    at = np.zeros(features.shape[2])
    for _ in range(STEPS):
        score, bread = _slope(features, at, chosen, ties)
        step = np.linalg.solve(bread, score.sum(0))
        at = at + step * min(1.0, 2.0 / np.abs(step).max() if step.any() else 1.0)
        if np.abs(step).max() < 1e-10:
            break
    score, bread = _slope(features, at, chosen, ties)
    inverse = np.linalg.inv(bread)
    meat, groups = _meat(score, clusters)
    spread = np.sqrt(np.maximum(np.diag(basis @ (inverse @ meat @ inverse)[: k - 1, : k - 1] @ basis.T), 0))
    reach = _quantile(groups) * spread if groups > 1 else np.full(k, np.inf)
    values = basis @ at[: k - 1]
    each = []
    for i, name in enumerate(names):
        mine = (a == i) | (b == i)
        won = ((a == i) & (chosen == FIRST)) | ((b == i) & (chosen == SECOND))
        wins = float(won.sum() + 0.5 * (mine & (chosen == TIE)).sum())
        each.append(Strength(
            name, float(values[i]), float(values[i] - reach[i]), float(values[i] + reach[i]), int(mine.sum()), wins
        ))  # fmt: skip
    return Strengths(tuple(each), float(np.exp(at[-1])) if ties else 0.0)


def _slope(features: Array, at: Array, chosen: Any, ties: bool) -> tuple[Array, Array]:
    """Slope of each vote's log likelihood, and the information of all votes."""
    logits = features @ at
    if not ties:
        logits[:, TIE] = -np.inf
    chance = np.exp(logits - logits.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    expected = np.einsum("no,nof->nf", chance, features)
    score = features[np.arange(len(chosen)), chosen] - expected
    information = np.einsum("no,nof,nog->fg", chance, features, features) - expected.T @ expected
    return score, information


def _meat(score: Array, clusters: Sequence[Sequence[Any]]) -> tuple[Array, int]:
    """Covariance of the summed slopes, and the fewest clusters of a direction."""
    if not clusters:
        return score.T @ score, len(score)
    one = [_summed(score, labels) for labels in clusters]
    meat: Array = sum((m for m, _ in one), np.zeros((score.shape[1],) * 2))
    if len(clusters) == 2:
        meat = meat - _summed(score, list(zip(*clusters)))[0]
        values, vectors = np.linalg.eigh(meat)  # the difference may have slightly negative directions: none varies less
        meat = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    return meat, min(g for _, g in one)


def _summed(score: Array, labels: Sequence[Any]) -> tuple[Array, int]:
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    sums = np.zeros((len(place), score.shape[1]))
    np.add.at(sums, [place[label] for label in labels], score)
    g = len(place)
    return sums.T @ sums * (g / (g - 1) if g > 1 else 1.0), g


def _quantile(groups: int) -> float:
    """How many standard errors an interval reaches: of Student's t with one degree less than there are clusters."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, groups - 1))


def _require_finite(names: Sequence[str], a: Any, b: Any, chosen: Any) -> None:
    """Strengths are finite if from every thing a chain of wins (or ties) leads to every other (Ford, 1957)."""
    beats = np.eye(len(names), dtype=bool)
    beats[a[chosen != SECOND], b[chosen != SECOND]] = True
    beats[b[chosen != FIRST], a[chosen != FIRST]] = True
    for middle in range(len(names)):
        beats |= np.outer(beats[:, middle], beats[middle])
    for i, name in enumerate(names):
        if not beats[i].all():
            others = ", ".join(n for n, reached in zip(names, beats[i]) if not reached)
            raise UsageError(
                f"no finite strengths: no chain of wins leads from {name} to {others}. More votes, or fewer methods"
            )
