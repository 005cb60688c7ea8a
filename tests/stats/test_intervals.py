"""Intervals hold what they promise, for skewed, heavy-tailed, binary and mostly constant numbers, or say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.stats.intervals import bounds, detectable, prompts_to_decide, unseen, untold, wilson

REPEATS = 1000  # the standard error of a simulated coverage is 0.7 %

DRAWN = {  # name: (sampler, true mean)
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0),
    "heavy tails": (lambda rng, size: rng.standard_t(3, size), 0.0),
    "very skewed": (lambda rng, size: rng.lognormal(0, 1, size), math.exp(0.5)),
}


def coverage(name: str, n: int, level: float = 0.95) -> float:
    """Share of intervals that hold the true mean."""
    draw, truth = DRAWN[name]
    low, high = bounds(draw(np.random.default_rng(n), (REPEATS, n)), level, draws=2000)
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize("n", [8, 20, 100])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "very skewed"])
def test_95_percent_intervals_hold_the_truth_between_93_and_97_times_in_100(name: str, n: int) -> None:
    """docs/gates.md has the simulation at full size; three standard errors of this one are 2 %."""
    assert 0.93 - 0.02 <= coverage(name, n) <= 0.97 + 0.02


def test_neither_bootstrap_t_nor_t_alone_would_cover() -> None:
    x = DRAWN["very skewed"][0](np.random.default_rng(20), (REPEATS, 20))
    half = scipy_stats.t.ppf(0.975, 19) * x.std(1, ddof=1) / np.sqrt(20)
    truth = DRAWN["very skewed"][1]
    assert (np.abs(x.mean(1) - truth) <= half).mean() < 0.90
    low, high = bounds(x, draws=2000)
    assert ((low <= truth) & (truth <= high)).mean() > 0.92


def test_a_symmetric_sample_has_at_least_students_interval_and_a_long_tail_a_longer_one() -> None:
    x = np.arange(-12.0, 13.0)
    t = scipy_stats.t.interval(0.95, len(x) - 1, x.mean(), scipy_stats.sem(x))
    low, high = (float(v) for v in bounds(x))
    assert (low, high) == pytest.approx(t, rel=0.05)
    assert low <= t[0] + 1e-9
    assert high >= t[1] - 1e-9
    tail = np.exp(x / 6)
    low, high = (float(v) for v in bounds(tail))
    assert high - tail.mean() > 1.5 * (tail.mean() - low)


BINARY = (0.0, 1.0)


def test_a_share_has_wilsons_interval_and_one_of_no_failures_reaches_to_the_rule_of_three() -> None:
    reference = scipy_stats.binomtest(3, 20).proportion_ci(0.95, "wilson")
    assert wilson(3, 20) == pytest.approx((reference.low, reference.high))
    low, high = bounds(np.zeros((1, 100)), 0.90, span=BINARY)
    assert (low[0], high[0]) == (0.0, pytest.approx(wilson(0, 100, 0.90)[1]))
    assert unseen(100) == pytest.approx(0.0295, abs=1e-4)
    assert [round(unseen(n), 2) for n in (12, 24)] == [0.22, 0.12]
    for n in (8, 20, 100):
        counts = np.arange(n + 1)
        ends = np.array([wilson(int(k), n) for k in counts])
        chance = scipy_stats.binom.pmf(counts, n, 0.1)
        assert 0.93 <= chance[(ends[:, 0] <= 0.1) & (ends[:, 1] >= 0.1)].sum() <= 0.97


def test_what_seldom_varies_is_bounded_by_its_range_or_not_told_at_all() -> None:
    x = np.zeros(20)
    assert [float(v) for v in bounds(x)] == [-math.inf, math.inf]  # no range: it cannot be told at this n
    ends = [float(v) for v in bounds(x, 0.90, span=(-4.0, 4.0))]
    assert ends == pytest.approx([-4 * unseen(20), 4 * unseen(20)], rel=0.1)
    x[0] = 1.5
    low, high = (float(v) for v in bounds(x, span=(0.0, None)))
    assert low >= 0
    assert high == math.inf
    truth, held = 0.05, []
    for repeat in range(300):  # 5 % x a number from 0 to 2: the mean is 0.05
        rng = np.random.default_rng(repeat)
        sample = np.where(rng.random(24) < 0.05, 2 * rng.random(24), 0.0)
        low, high = (float(v) for v in bounds(sample, 0.90, span=(0.0, 2.0)))
        held.append(high >= truth)
    assert np.mean(held) >= 0.95
    assert scipy_stats.binom.pmf(0, 24, 0.05) > 0.25  # negative control: a quarter of such samples do not vary at all


def test_intervals_stay_in_the_range() -> None:
    x = np.array([[0.0] * 3 + [0.9, 1.0, 1.0, 0.95, 0.2, 0.7, 1.0, 0.99, 0.98]])
    low, high = bounds(x, span=BINARY)
    assert 0 <= low[0] < high[0] <= 1
    assert bounds(x)[1][0] > bounds(x, span=(0.0, 0.8))[1][0] == 0.8  # negative control: it is the range that cuts


def test_few_prompts_with_a_long_tail_leave_a_bound_untold() -> None:
    tail = np.array([0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 4.0])
    assert untold(tail, 1)
    assert not untold(tail, -1)
    assert not untold(np.tile(tail, 3), 1)


def test_the_detectable_difference_is_found_with_power_80_at_any_n() -> None:
    assert {n: round(detectable(1.0, n), 3) for n in (7, 20, 100, 1000)} == {
        7: 1.067,
        20: 0.577,
        100: 0.25,
        1000: 0.079,
    }
    x = np.random.default_rng(9).normal(detectable(1.0, 7), 1.0, (20000, 7))
    t = x.mean(1) / x.std(1, ddof=1) * np.sqrt(7)
    assert (t > scipy_stats.t.ppf(0.95, 6)).mean() == pytest.approx(0.80, abs=0.01)
    normal = (1.645 + 0.842) / np.sqrt(7)  # negative control: the normal formula promises what 7 prompts do not hold
    weaker = x - detectable(1.0, 7) + normal
    assert (weaker.mean(1) / weaker.std(1, ddof=1) * np.sqrt(7) > scipy_stats.t.ppf(0.95, 6)).mean() < 0.77
    assert detectable(1.0, 1) == math.inf


def test_the_prompts_that_would_decide_are_more_than_there_are() -> None:
    rng = np.random.default_rng(15)
    for _ in range(200):
        n, half, distance = int(rng.integers(2, 200)), float(rng.random()), float(rng.random())
        more = prompts_to_decide(n, half, distance * half)  # undecided: the limit lies inside the interval
        assert more is not None
        assert more > n
        assert half * np.sqrt(n / more) <= distance * half * (1 + 1e-9)
    assert prompts_to_decide(12, 1.0, 0.5) == 48
    assert prompts_to_decide(12, 1.0, 0.0) is None
    assert prompts_to_decide(12, math.inf, 1.0) is None
