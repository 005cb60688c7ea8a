"""Statistics on data whose truth is known: intervals cover, tests keep their level, errors match the true spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.errors import UsageError
from bench.metrics.distribution import frechet_distance, kernel_distance
from bench.stats.intervals import bounds
from bench.stats.means import estimate, holm, paired, swap_test, swap_tests, variance_split
from bench.stats.sets import jackknife_error, kernel_gains, kernel_sums, leave_out, one_by_one, set_difference
from bench.types import Canvas
from bench.views import seen


def test_one_prompt_says_nothing_and_equal_values_only_as_much_as_their_range() -> None:
    assert estimate([3.0]).low == -math.inf
    assert estimate([3.0]).se == math.inf
    same = estimate([0.25] * 24)
    assert (same.value, same.low, same.high, same.se) == (0.25, -math.inf, math.inf, 0.0)  # the next may be another
    ranged = estimate([0.25] * 24, span=(0.0, 1.0))
    assert 0 < ranged.low < 0.25 < ranged.high < 0.40
    with pytest.raises(UsageError, match="1 undefined"):
        estimate([1.0, math.nan])


def test_pairs_are_the_intersection() -> None:
    keys, d = paired({"a": 1.0, "b": 2.0, "c": 5.0}, {"c": 4.0, "a": 3.0, "z": 9.0})
    assert (keys, d.tolist()) == (["a", "c"], [2.0, -1.0])


def test_the_swap_test_keeps_its_level_and_finds_what_is_there() -> None:
    rng = np.random.default_rng(5)
    null = [swap_test(d, swaps=199) for d in rng.lognormal(0, 1, (600, 24)) - rng.lognormal(0, 1, (600, 24))]
    assert 0.03 <= np.mean(np.array(null) <= 0.05) <= 0.07
    assert swap_test(rng.normal(1, 1, 24)) <= 0.001
    assert swap_test(np.zeros(24)) == 1.0
    assert swap_test(np.array([1.0, 2.0, 3.0])) == 0.25  # 2 of the 8 ways to swap


@pytest.mark.parametrize("n", [7, 60])
def test_all_pairs_under_shared_signs_give_what_each_pair_gives_alone(n: int) -> None:
    rng = np.random.default_rng(6)
    x = rng.poisson(2, (6, n)) + 1000 * rng.normal(0, 1, n)  # counts tie often; prompts differ far more than methods
    x[4] = x[1]
    together = swap_tests(x)
    assert list(together) == [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert together == {(i, j): swap_test(x[i] - x[j]) for i, j in together}
    assert together[1, 4] == 1.0
    other = swap_tests(x, seed=1)
    assert (other != together) == (n > 13)  # up to 13 prompts all ways are tried
    assert other == pytest.approx(together, abs=0.03)


def test_p_values_of_nothing_are_uniform() -> None:
    rng = np.random.default_rng(4)
    p = [swap_test(row, 999) for row in rng.lognormal(0, 1, (300, 20)) * rng.choice([-1, 1], (300, 20))]
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01
    shifted = [swap_test(row + 0.5, 999) for row in rng.standard_normal((100, 20))]
    assert scipy_stats.kstest(shifted, "uniform").pvalue < 1e-6  # negative control


def test_resamples_do_not_depend_on_what_was_asked_before() -> None:
    x, y = np.random.default_rng(8).normal(size=(2, 50)), np.random.default_rng(9).normal(size=30)
    first = bounds(x)
    bounds(y)
    assert np.array_equal(first, bounds(x))
    assert not np.array_equal(first, bounds(x, seed=1))


def test_holm_keeps_the_chance_of_any_false_alarm_and_plain_testing_does_not() -> None:
    p = np.random.default_rng(7).random((4000, 20))
    alarms = np.array([min(holm(row)) <= 0.05 for row in p])
    assert alarms.mean() <= 0.055
    for tests, expected in ((5, 0.23), (10, 0.40), (20, 0.64)):
        assert (p[:, :tests].min(1) <= 0.05).mean() == pytest.approx(expected, abs=0.02)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_variance_is_split_as_it_was_made() -> None:
    rng = np.random.default_rng(11)
    x = rng.normal(0, 2, (400, 1)) + rng.normal(0, 1, (1, 60)) + rng.normal(0, 0.5, (400, 60))
    split = variance_split(x)
    assert split.prompt == pytest.approx(4, rel=0.15)
    assert split.seed == pytest.approx(1, rel=0.5)
    assert split.residual == pytest.approx(0.25, rel=0.05)
    assert split.of_mean(100, 1) == pytest.approx(split.prompt / 100 + split.seed + split.residual / 100)
    with pytest.raises(UsageError, match="2 prompts x 2 seeds"):
        variance_split(x[:, :1])


# -- distances between sets

D, ROWS = 16, 4  # width of features, crops of a picture
SCALE = 1 / np.sqrt(1 + np.arange(D))  # a spectrum that falls, as those of networks do


def features(rng: np.random.Generator, prompts: int, shift: float = 0.0, like: np.ndarray | None = None) -> list:
    """Crops of a prompt share what the prompt is about; ``like`` shares it between two samplers, too."""
    about = rng.standard_normal((prompts, 1, D)) if like is None else like
    return list((0.8 * about + 0.6 * rng.standard_normal((prompts, ROWS, D)) + shift) * SCALE)


def two(rng: np.random.Generator, prompts: int, shift: float) -> list:
    about = rng.standard_normal((prompts, 1, D))
    return features(rng, prompts, 0.0, about) + features(rng, prompts, shift, about)


REFERENCE = np.concatenate(features(np.random.default_rng(99), 500))


def fid(rows: np.ndarray) -> float:
    return frechet_distance(rows, REFERENCE)


def test_the_jackknife_error_of_fid_and_its_difference_is_near_the_true_spread() -> None:
    singles, paired_values, errors, paired_errors = [], [], [], []
    for repeat in range(60):
        groups = two(np.random.default_rng(repeat), 60, 0.3)
        singles.append(fid(np.concatenate(groups[60:])))
        many = one_by_one(groups, fid)
        if repeat < 20:
            kept = np.hstack([np.zeros((20, 60)), leave_out(60)])
            errors.append(jackknife_error(many(kept)))
            found = set_difference(many, 60)
            paired_errors.append(found.se)
            paired_values.append(found.value)
        else:
            paired_values.append(singles[-1] - fid(np.concatenate(groups[:60])))
    assert np.mean(errors) == pytest.approx(np.std(singles, ddof=1), rel=0.25)
    assert np.mean(paired_errors) == pytest.approx(np.std(paired_values, ddof=1), rel=0.25)


def test_a_naive_bootstrap_of_fid_does_not_even_hold_the_estimate() -> None:
    rng = np.random.default_rng(17)
    rows, reference = rng.standard_normal((240, 64)), rng.standard_normal((1000, 64))
    picks = rng.integers(0, 240, (100, 240))
    draws = [frechet_distance(rows[pick], reference) for pick in picks]
    assert np.quantile(draws, 0.025) > frechet_distance(rows, reference)
    many = one_by_one(list(rows.reshape(120, 2, 64)), lambda x: frechet_distance(x, reference))
    error = jackknife_error(many(np.hstack([np.zeros((20, 60)), leave_out(60)])))
    assert np.mean(draws) - frechet_distance(rows, reference) > 2 * error


def test_fid_falls_with_the_number_of_pictures_where_nothing_differs_and_kid_does_not() -> None:
    rng = np.random.default_rng(19)
    sets = {n: (rng.standard_normal((n, 64)), rng.standard_normal((n, 64))) for n in (100, 200, 400, 800)}
    fids = {n: frechet_distance(*pair) for n, pair in sets.items()}
    assert all(1.5 < fids[n] / fids[2 * n] < 3.0 for n in (100, 200, 400))
    assert all(abs(kernel_distance(*pair)) < 0.02 * fids[n] for n, pair in sets.items())


def test_the_nuclear_norm_gives_the_usual_fid() -> None:
    rng = np.random.default_rng(21)
    x, y = rng.standard_normal((300, D)) * SCALE, rng.standard_normal((400, D)) + 0.2
    product = np.cov(x.T) @ np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(product).real.clip(0)).sum()
    usual = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(usual, rel=1e-10)


def test_kernel_sums_give_the_kid_of_every_choice_of_prompts() -> None:
    groups = two(np.random.default_rng(23), 8, 0.3)
    groups[3] = groups[3][:2]  # prompts need not have equally many crops
    slow = one_by_one(groups, lambda rows: kernel_distance(rows, REFERENCE[:100]))
    quick = kernel_sums(groups, REFERENCE[:100])
    chosen = np.random.default_rng(0).integers(0, 2, (10, 16)).astype(float)
    offset = slow(chosen)[0] - quick(chosen)[0]  # the reference's own term
    assert quick(chosen) + offset == pytest.approx(slow(chosen), abs=1e-12)
    a, b = set_difference(slow, 8), set_difference(quick, 8)
    assert (a.value, a.se, a.p) == pytest.approx((b.value, b.se, b.p))


def test_a_choice_of_one_row_has_no_kid_and_is_refused_instead_of_divided_by_nothing() -> None:
    rows = [row[None] for row in REFERENCE[:4]]  # two prompts of a crop each, on both sides
    assert np.isfinite(kernel_sums(rows, REFERENCE)(np.array([[1.0, 1.0, 0.0, 0.0]]))).all()
    with pytest.raises(UsageError, match="at least 2 feature rows, got 1"):
        set_difference(kernel_sums(rows, REFERENCE), 2, swaps=9)


def test_swapping_kid_prompt_by_prompt_is_swapping_the_signs_of_one_number_each() -> None:
    groups = two(np.random.default_rng(24), 7, 0.3)
    gains = kernel_gains(groups, REFERENCE[:100])
    assert gains is not None
    many = kernel_sums(groups, REFERENCE[:100])
    signs = np.random.default_rng(1).choice([-1.0, 1.0], (20, 7))
    inside = np.hstack([1 - signs, 1 + signs]) / 2
    assert signs @ gains == pytest.approx(many(inside) - many(1 - inside), abs=1e-10)
    found = set_difference(many, 7, gains=gains)
    assert found.value == pytest.approx(gains.sum())
    assert found.p in [k / 2**7 for k in range(1, 2**7 + 1)]
    groups[3] = groups[3][:2]
    assert kernel_gains(groups, REFERENCE[:100]) is None  # sides of different size


def test_swapping_by_prompt_finds_a_worse_sampler_and_keeps_its_level() -> None:
    groups = two(np.random.default_rng(25), 40, 0.3)
    found = set_difference(kernel_sums(groups, REFERENCE), 40, gains=kernel_gains(groups, REFERENCE))
    assert found.p <= 0.001
    assert found.low > 0
    null = []
    for repeat in range(200):
        groups = two(np.random.default_rng(1000 + repeat), 24, 0.0)
        gains = kernel_gains(groups, REFERENCE[:200])
        assert gains is not None
        null.append(swap_test(gains, 999))
    assert np.mean(np.array(null) <= 0.05) <= 0.09
    same = groups[:24] * 2
    assert set_difference(kernel_sums(same, REFERENCE), 24, gains=kernel_gains(same, REFERENCE)).p == 1.0


def test_the_interval_of_a_fid_difference_holds_the_truth() -> None:
    """Two samplers of one distribution: the true difference is 0 at every n."""
    held = []
    for repeat in range(100):
        found = set_difference(one_by_one(two(np.random.default_rng(repeat), 40, 0.0), fid), 40, blocks=10)
        held.append(found.low <= 0 <= found.high)
    assert 0.90 <= np.mean(held) <= 1.0


def test_one_prompt_is_not_a_set() -> None:
    with pytest.raises(UsageError, match="at least 2 prompts"):
        set_difference(one_by_one(two(np.random.default_rng(0), 1, 0.0), fid), 1)


def test_a_centre_crop_sees_the_known_share_of_a_panorama() -> None:
    shares = [round(100 * seen("centre", Canvas(width, 512)), 1) for width in (2048, 3072, 4096)]
    assert shares == [25, 16.7, 12.5]
