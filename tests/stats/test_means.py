"""Statistics on data whose truth is known: intervals cover, tests keep their level, errors match the true spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.errors import UsageError
from bench.metrics.distribution import frechet_distance, kernel_distance
from bench.stats.means import (
    average_rank,
    bounds,
    detectable,
    estimate,
    holm,
    paired,
    prompts_to_decide,
    ranking,
    swap_test,
    swap_tests,
    variance_split,
)
from bench.stats.sets import jackknife_error, kernel_sums, leave_out, one_by_one, set_difference
from bench.types import Canvas
from bench.views import seen

REPEATS = 4000  # the standard error of a simulated coverage is 0.35 %

DRAWN = {  # name: (sampler, true mean)
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0),
    "skewed": (lambda rng, size: rng.lognormal(0, 0.5, size), math.exp(0.125)),
    "very skewed": (lambda rng, size: rng.lognormal(0, 1, size), math.exp(0.5)),
    "heavy tails": (lambda rng, size: rng.lognormal(0, 1, size) - rng.lognormal(0, 1, size), 0.0),
    "counts": (lambda rng, size: rng.poisson(1, size).astype(float), 1.0),
    "difference of counts": (lambda rng, size: (rng.poisson(0.6, size) - rng.poisson(1.0, size)).astype(float), -0.4),
}


def coverage(name: str, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """Share of intervals that hold the true mean, lie wholly above it, lie wholly below it."""
    draw, truth = DRAWN[name]
    low, high = bounds(draw(np.random.default_rng(n), (REPEATS, n)), level, draws=2000)
    return float(((low <= truth) & (truth <= high)).mean()), float((low > truth).mean()), float((high < truth).mean())


@pytest.mark.parametrize("n", [24, 50, 100])
@pytest.mark.parametrize("name", ["normal", "skewed", "heavy tails", "counts", "difference of counts"])
def test_95_percent_intervals_hold_the_truth_between_93_and_97_times_in_100(name: str, n: int) -> None:
    assert 0.93 <= coverage(name, n)[0] <= 0.97


def test_strong_skewness_needs_more_prompts_as_the_documentation_says() -> None:
    assert 0.90 <= coverage("very skewed", 24)[0] < 0.93
    assert coverage("very skewed", 100)[0] >= 0.93


def test_neither_bca_nor_t_alone_would_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, truth = DRAWN["heavy tails"]
    x = draw(np.random.default_rng(24), (400, 24))
    bca = scipy_stats.bootstrap((x,), np.mean, axis=-1, method="BCa", n_resamples=999, rng=np.random.default_rng(0))
    low, high = bca.confidence_interval
    assert ((low <= truth) & (truth <= high)).mean() < 0.90
    _, above, below = coverage("very skewed", 24, 0.90)
    x = DRAWN["very skewed"][0](np.random.default_rng(24), (REPEATS, 24))
    upper = x.mean(1) + scipy_stats.t.ppf(0.95, 23) * x.std(1, ddof=1) / np.sqrt(24)
    assert (upper < DRAWN["very skewed"][1]).mean() > below + 0.03
    assert above < 0.05


def test_the_interval_is_the_wider_of_scipys_bca_and_t_where_n_is_large() -> None:
    x = np.random.default_rng(3).lognormal(0, 1, 2000)
    reference = scipy_stats.bootstrap((x,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(1))
    t = scipy_stats.t.interval(0.95, len(x) - 1, x.mean(), scipy_stats.sem(x))
    low, high = (float(v) for v in bounds(x, draws=20000))
    se = scipy_stats.sem(x)
    assert low == pytest.approx(min(reference.confidence_interval.low, t[0]), abs=0.05 * se)
    assert high == pytest.approx(max(reference.confidence_interval.high, t[1]), abs=0.08 * se)
    assert high > t[1] + 0.01 * se  # skewed to the right: BCa reaches further there, and is what is reported


def test_one_prompt_says_nothing_and_equal_values_say_all() -> None:
    assert estimate([3.0]).low == -math.inf
    assert estimate([3.0]).se == math.inf
    same = estimate([0.25] * 24)
    assert (same.value, same.low, same.high, same.se) == (0.25, 0.25, 0.25, 0.0)
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
    assert swap_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.25, abs=0.02)  # 2 of the 8 ways to swap


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
    assert other != together
    assert other == pytest.approx(together, abs=0.03)


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


def test_the_detectable_difference_follows_the_known_table_and_finds_with_power_80() -> None:
    table = {100: 0.249, 300: 0.144, 1000: 0.079, 3000: 0.045}
    assert {n: round(detectable(1.0, n), 3) for n in table} == table
    x = np.random.default_rng(9).normal(detectable(1.0, 100), 1.0, (REPEATS, 100))
    assert (bounds(x, 0.90, draws=2000)[0] > 0).mean() == pytest.approx(0.80, abs=0.03)
    assert prompts_to_decide(0.1, 1.0) == 271
    assert prompts_to_decide(0.0, 1.0) is None


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


def test_ranks_are_uncertain_where_methods_are_close_and_certain_where_they_are_not() -> None:
    rng = np.random.default_rng(13)
    shared = rng.normal(0, 3, 60)  # hard and easy prompts: pairing takes them out
    made = {"best": 2.0, "near": 1.95, "far": 0.0, "farther": -2.0}
    table = {name: shared + mean + rng.normal(0, 0.5, 60) for name, mean in made.items()}
    ranked = {r.method: r for r in ranking(table)}
    assert {name: r.group for name, r in ranked.items()} == {"best": 1, "near": 1, "far": 2, "farther": 3}
    assert (ranked["best"].low, ranked["best"].high) in {(1, 2), (1, 1)}
    assert max(ranked["best"].high, ranked["near"].high) == 2
    assert (ranked["far"].low, ranked["far"].high) == (3, 3)
    order = [table[name] for name in ("best", "near", "far", "farther")]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    alone = dict(zip(pairs, holm([swap_test(order[i] - order[j]) for i, j in pairs])))
    assert [alone[0, 1] > 0.05, alone[0, 2] > 0.05, alone[2, 3] > 0.05] == [True, False, False]  # as the groups say
    with pytest.raises(UsageError, match="same prompts"):
        ranking({"a": np.zeros(3), "b": np.zeros(4)})


def test_many_methods_far_apart_are_told_apart_for_all_their_pairs() -> None:
    rng = np.random.default_rng(14)
    table = {f"m{i}": i + rng.normal(0, 0.01, 40) for i in range(40)}  # 780 pairs: 780 / 10,000 would never pass Holm
    assert [r.group for r in ranking(table)] == list(range(1, 41))
    assert {r.group for r in ranking({name: v - v.mean() for name, v in table.items()})} == {1}


def test_the_average_rank_is_the_one_papers_print() -> None:
    names = ("MultiDiffusion", "SDXL", "FLUX", "MAD", "SyncDiffusion", "ElasticDiffusion", "FLUX + ESRGAN",
             "SD 3.5 + ESRGAN", "PixArt", "DRSPO")  # fmt: skip
    columns = [  # DRSPO, table 1; PickScore of PixArt is printed 0.092 with rank 5 behind an equal 0.092
        (5.616, 5.921, 4.994, 6.032, 5.744, 5.422, 5.922, 5.759, 6.016, 5.726),
        (0.226, 0.190, 0.175, 0.195, 0.197, 0.186, 0.235, 0.221, 0.236, 0.228),
        (0.070, 0.076, 0.027, 0.105, 0.068, 0.025, 0.097, 0.092, 0.0919, 0.096),
        (0.224, -0.318, -1.084, 0.100, -0.087, -1.351, 0.236, 0.258, 0.397, 0.275),
        (0.317, 0.310, 0.270, 0.317, 0.310, 0.273, 0.306, 0.309, 0.308, 0.321),
    ]
    printed = (5.2, 6.0, 9.6, 3.4, 6.2, 9.4, 3.8, 4.6, 3.2, 3.2)
    assert average_rank([dict(zip(names, c)) for c in columns]) == pytest.approx(dict(zip(names, printed)))


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
    a, b = set_difference(slow, 8, swaps=20), set_difference(quick, 8, swaps=20)
    assert (a.value, a.se, a.p) == pytest.approx((b.value, b.se, b.p))


def test_a_choice_of_one_row_has_no_kid_and_is_refused_instead_of_divided_by_nothing() -> None:
    rows = [row[None] for row in REFERENCE[:4]]  # two prompts of a crop each, on both sides
    assert np.isfinite(kernel_sums(rows, REFERENCE)(np.array([[1.0, 1.0, 0.0, 0.0]]))).all()
    with pytest.raises(UsageError, match="at least 2 feature rows, got 1"):
        set_difference(kernel_sums(rows, REFERENCE), 2, swaps=9)


def test_swapping_by_prompt_finds_a_worse_sampler_and_keeps_its_level() -> None:
    found = set_difference(kernel_sums(two(np.random.default_rng(25), 40, 0.3), REFERENCE), 40, swaps=999)
    assert found.p <= 0.01
    assert found.low > 0
    null = []
    for repeat in range(200):
        groups = two(np.random.default_rng(1000 + repeat), 24, 0.0)
        null.append(set_difference(kernel_sums(groups, REFERENCE[:200]), 24, swaps=99).p)
    assert np.mean(np.array(null) <= 0.05) <= 0.09
    assert set_difference(kernel_sums(groups[:24] * 2, REFERENCE), 24, swaps=99).p == 1.0


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
