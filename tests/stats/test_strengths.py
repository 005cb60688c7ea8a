"""Strengths of what people compare come back with honest intervals, also where votes are not independent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from bench.stats.strengths import FIRST, SECOND, TIE, Strengths, bradley_terry

PLANTED = {"a": 0.9, "b": 0.3, "c": -0.2, "d": -1.0}
NAMES, TIES = list(PLANTED), 0.5


def poll(rng: np.random.Generator, voters: int, prompts: int, copied: bool = False) -> tuple[Any, Any, Any, Any]:
    """Every voter on every prompt, a pair each; copied: all give the answer that the prompt drew."""
    n = prompts if copied else prompts * voters
    one = rng.integers(4, size=n)
    two = (one + rng.integers(1, 4, size=n)) % 4
    strength = np.array(list(PLANTED.values()))
    odds = np.stack([np.exp(gap := (strength[one] - strength[two]) / 2), np.exp(-gap), np.full(n, TIES)], 1)
    outcome = (rng.random((n, 1)) > (odds / odds.sum(1, keepdims=True)).cumsum(1)).sum(1)
    if copied:
        one, two, outcome = (np.repeat(x, voters) for x in (one, two, outcome))
    names = np.array(NAMES)
    return names[one], names[two], outcome, [np.repeat(range(prompts), voters), np.tile(range(voters), prompts)]


def covered(fits: list[Strengths]) -> float:
    return float(np.mean([s.low <= PLANTED[s.name] <= s.high for fit in fits for s in fit.each]))


def test_planted_strengths_come_back_and_intervals_hold_them_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    fits = [bradley_terry(*poll(rng, 15, 16)) for _ in range(150)]
    means = {n: np.mean([s.value for f in fits for s in f.each if s.name == n]) for n in NAMES}
    assert means == pytest.approx(PLANTED, abs=0.07)
    assert np.mean([f.tie for f in fits]) == pytest.approx(TIES, abs=0.03)
    assert 0.91 <= covered(fits) <= 0.985  # 600 intervals of 95 %; 3 methods are free, so about 450 draws
    assert sum(s.value for s in fits[0].each) == pytest.approx(0, abs=1e-9)


def test_copied_answers_count_once_only_where_votes_are_clustered() -> None:
    rng = np.random.default_rng(6)
    polls = [poll(rng, 10, 60, copied=True) for _ in range(60)]
    assert covered([bradley_terry(*p) for p in polls]) > 0.88
    assert covered([bradley_terry(*p[:3]) for p in polls]) < 0.6  # ten copies look like ten times the votes


def test_chances_add_up_and_the_sides_may_be_turned() -> None:
    first, second, outcome, clusters = poll(np.random.default_rng(7), 10, 20)
    fit = bradley_terry(first, second, outcome, clusters)
    assert sum(fit.chance("a", "d")) == pytest.approx(1)
    assert fit.chance("a", "d")[:2] == pytest.approx(fit.chance("d", "a")[1::-1])
    turned = bradley_terry(second, first, [{FIRST: SECOND, SECOND: FIRST, TIE: TIE}[o] for o in outcome], clusters)
    for one, two in zip(fit.each, turned.each):
        assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))
    assert sum(s.wins for s in fit.each) == len(outcome)


def test_two_things_without_ties_are_the_logit_of_their_shares() -> None:
    fit = bradley_terry(["x"] * 40, ["y"] * 40, [FIRST] * 30 + [SECOND] * 10)
    x, y = fit.each
    assert x.value - y.value == pytest.approx(np.log(3))
    assert fit.tie == 0


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([("a", "b", FIRST), ("a", "c", FIRST), ("b", "c", FIRST), ("b", "c", SECOND)], "leads from b to a"),
        ([("a", "b", TIE), ("c", "d", TIE)], "leads from a to c, d"),
        ([], "two things"),
    ],
)
def test_strengths_that_have_no_bounds_are_refused(votes: list, said: str) -> None:
    first, second, outcome = ([v[i] for v in votes] for i in range(3))
    with pytest.raises(UsageError, match=said):
        bradley_terry(first, second, outcome)
