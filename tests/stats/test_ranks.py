"""Letters, ranks and corrections: what is told apart is told apart everywhere, and nothing is by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.stats.means import swap_test, swap_tests
from bench.stats.ranks import Family, average_rank, letters, primary, ranking


def on_prompts(table: dict[str, np.ndarray]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(map(float, values))) for name, values in table.items()}


def test_ranks_are_uncertain_where_methods_are_close_and_certain_where_they_are_not() -> None:
    rng = np.random.default_rng(13)
    shared = rng.normal(0, 3, 60)  # hard and easy prompts: pairing takes them out
    made = {"best": 2.0, "near": 1.95, "far": 0.0, "farther": -2.0}
    table = on_prompts({name: shared + mean + rng.normal(0, 0.5, 60) for name, mean in made.items()})
    ranked = {r.method: (r.group, r.low, r.high, r.best) for r in ranking(table)}
    assert ranked == {
        "best": ("a", 1, 2, True), "near": ("a", 1, 2, True), "far": ("b", 3, 3, False), "farther": ("c", 4, 4, False),
    }  # fmt: skip
    close = on_prompts({name: shared[:12] + rng.normal(0, 3, 12) for name in made})  # negative control
    assert {(r.group, r.low, r.high) for r in ranking(close)} == {("a", 1, 4)}


def test_two_methods_share_a_letter_exactly_where_they_are_not_told_apart() -> None:
    rng = np.random.default_rng(16)
    for count in (2, 3, 5, 7):
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        for _ in range(60):
            told = {pair for pair in pairs if rng.random() < 0.5}
            marks = letters(count, told)
            assert {(i, j) for i, j in pairs if not set(marks[i]) & set(marks[j])} == told
            assert all(marks)
    assert letters(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]
    assert letters(60, [(i, j) for i in range(60) for j in range(i + 1, 60)])[53] == "(54)"


def test_methods_with_holes_are_compared_on_the_prompts_that_both_have() -> None:
    rng = np.random.default_rng(17)
    table = on_prompts({name: rng.normal(mean, 0.1, 30) for name, mean in (("a", 1.0), ("b", 0.5), ("c", 0.0))})
    whole = [(r.method, r.group, r.low, r.high) for r in ranking(table)]
    del table["b"][3]
    assert [(r.method, r.group, r.low, r.high) for r in ranking(table)] == whole


def test_many_methods_far_apart_are_told_apart_for_all_their_pairs() -> None:
    rng = np.random.default_rng(14)
    table = {f"m{i}": i + rng.normal(0, 0.01, 40) for i in range(40)}  # 780 pairs: 780 / 10,000 would never pass
    assert len({r.group for r in ranking(on_prompts(table))}) == 40
    assert {r.group for r in ranking(on_prompts({name: v - v.mean() for name, v in table.items()}))} == {"a"}


def test_a_board_of_nothing_has_a_false_letter_at_most_one_time_in_twenty() -> None:
    """300 boards of 3 numbers x 4 equal methods at 20 prompts, t of 3 degrees: any difference shown is false."""
    family, wrong, plain = Family(3, 1, 4), 0, 0
    for repeat in range(300):
        x = np.random.default_rng(repeat).standard_t(3, (3, 4, 20))
        p = [v for number in x for v in swap_tests(number, 999, repeat).values()]
        plain += min(p) <= 0.05
        wrong += min(map(family.corrected, p)) <= 0.05
    assert wrong <= 0.05 * 300 + 2 * math.sqrt(300 * 0.05 * 0.95)
    assert plain > 0.3 * 300  # negative control: without the correction


def test_a_family_counts_what_stands_together_and_has_swaps_enough_for_it() -> None:
    family = Family(6, 1, 3)
    assert (family.tests, family.text) == (18, "6 numbers x 3 pairs of methods")
    assert family.corrected(0.01) == pytest.approx(0.18)
    large = Family(40, 4, 20)
    assert large.corrected(1 / (1 + large.swaps)) < 0.05
    assert Family(6, 1, 2).corrected(1 / 100) > 0.05  # negative control: 99 swaps can show nothing among six numbers
    for n in range(2, 14):  # the least number of prompts is exactly that
        assert (family.corrected(swap_test(np.arange(1.0, n + 1))) <= 0.05) == (n >= family.least)
    numbers = [("gsd-lpips", "x"), ("intra-lpips", "x"), ("kid", "x"), ("kid", "y")]
    assert primary(numbers) == 3
    assert primary([("gsd-lpips", "x"), ("intra-lpips", "y")]) == 2  # through other views it is another number


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
