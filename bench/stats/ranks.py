"""Which of several methods are told apart: one correction for all that stands together, letters, intervals of ranks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from string import ascii_letters
from typing import Any

import numpy as np

from bench.stats.intervals import LEVEL
from bench.stats.means import SWAPS, swap_test, swap_tests

TWINS = (("gsd-lpips", "intra-lpips"),)  # metrics whose first numbers are the same number: counted once


@dataclass(frozen=True)
class Family:
    """What is tested together: numbers of a suite, on each of its parts, for each two of some methods.

    A p is multiplied by the number of tests (Bonferroni), so that the chance of any false difference on a board is at
    most 5 %. Holm's steps would find a little more, but make the answer for one number depend on all the others that
    happen to be there, and every command must give the same answer.
    """

    numbers: int
    parts: int
    methods: int

    @property
    def tests(self) -> int:
        """How many."""
        return max(1, self.numbers * self.parts * self.methods * (self.methods - 1) // 2)

    @property
    def swaps(self) -> int:
        """Swaps of a test whose smallest p can stand the correction: 1 / (25 tests) x tests < 0.05."""
        return max(SWAPS, 25 * self.tests)

    def corrected(self, p: float) -> float:
        """p for the whole family."""
        return min(1.0, p * self.tests)

    @property
    def least(self) -> int:
        """Prompts below which not even one-sided differences on all of them could be told: 2 / 2^n x tests > 0.05."""
        return 1 + ceil(log2(self.tests / (1 - LEVEL)) - 1e-9)

    @property
    def text(self) -> str:
        """``12 numbers x 3 pairs of methods``."""
        factors = [(self.numbers, "number"), (self.parts, "part"), (self.methods * (self.methods - 1) // 2, "pair")]
        said = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in factors if n > 1 or what == "number"]
        return " x ".join(said) + (" of methods" if "pair" in said[-1] else "")


ALONE = Family(1, 1, 2)  # one number of two methods


def primary(numbers: Collection[tuple[str, str]]) -> int:
    """How many different numbers there are among (metric, how it looks): twins by one network and view are one."""
    twice = [(a, b) for a, b in TWINS for metric, how in numbers if metric == a and (b, how) in numbers]
    return max(1, len(numbers) - len(twice))


@dataclass(frozen=True)
class Ranked:
    """One method's place: its mean, the interval of its rank (1 is best), and its letters.

    Two methods share a letter if, and only if, they are not told apart. ``best``: nobody is shown to be better.
    """

    method: str
    mean: float
    low: int
    high: int
    group: str

    @property
    def best(self) -> bool:
        """Whether it stands in the best group."""
        return self.low == 1


def ranking(table: Mapping[str, Mapping[Any, float]], family: Family | None = None, seed: int = 0) -> list[Ranked]:
    """Methods from best to worst with what can be said of their order.

    Args:
        table: method -> prompt -> value; more is better. Two methods are compared on the prompts that both have.
        family: what the tests are corrected for; by default the pairs of this table.

    A rank lies between 1 + how many are shown to be better and k - how many are shown to be worse: all these intervals
    hold together with 95 % (Al Mohamad, Goeman and van Zwet, Biometrics 2022; Mogstad et al., Review of Economic
    Studies 2024).
    """
    means = {name: float(np.mean(list(values.values()))) for name, values in table.items()}
    names = sorted(table, key=lambda name: -means[name])
    family = family or Family(1, 1, len(names))
    better: dict[int, set[int]] = {i: set() for i in range(len(names))}  # method -> those shown to be worse
    for (i, j), (p, gain) in _tests([table[name] for name in names], family.swaps, seed).items():
        if shown(family.corrected(p)):
            winner, loser = (i, j) if gain > 0 else (j, i)
            better[winner].add(loser)
    told = [(i, j) for i, worse in better.items() for j in worse]
    groups = letters(len(names), [(min(pair), max(pair)) for pair in told])
    beaten = [sum(j == i for _, j in told) for i in range(len(names))]
    return [
        Ranked(name, means[name], 1 + beaten[i], len(names) - len(better[i]), groups[i]) for i, name in enumerate(names)
    ]


def _tests(rows: Sequence[Mapping[Any, float]], swaps: int, seed: int) -> dict[tuple[int, int], tuple[float, float]]:
    """p and mean difference (i - j) of every two rows i < j, each on the prompts that both have, in their order."""
    if all(row.keys() == rows[0].keys() for row in rows):  # the same prompts: all pairs under the same swaps
        order = sorted(rows[0])
        x = np.array([[row[prompt] for prompt in order] for row in rows], dtype=np.float64)
        gains = x.mean(1)
        return {(i, j): (p, float(gains[i] - gains[j])) for (i, j), p in swap_tests(x, swaps, seed).items()}
    found = {}
    for i, row in enumerate(rows):
        for j, other in enumerate(rows[i + 1 :], i + 1):
            d = np.array([row[prompt] - other[prompt] for prompt in sorted(row) if prompt in other], dtype=np.float64)
            found[i, j] = (swap_test(d, swaps, seed), float(d.mean())) if len(d) else (1.0, 0.0)
    return found


def shown(corrected: float) -> bool:
    """Whether a corrected p tells two methods apart."""
    return corrected <= 1 - LEVEL + 1e-12


def letters(count: int, told: Iterable[tuple[int, int]]) -> list[str]:
    """Compact letter display: two of ``count`` share a letter exactly where their pair is not in ``told``.

    Insert and absorb (Piepho, J. Comput. Graph. Stat. 2004).
    """
    groups = [frozenset(range(count))]
    for i, j in sorted(told):
        split = [part for g in groups for part in ((g - {i}, g - {j}) if {i, j} <= g else (g,))]
        whole = dict.fromkeys(split)
        groups = [g for g in whole if not any(g < other for other in whole)]
    marks = dict(zip(sorted(groups, key=lambda g: (min(g, default=0), sorted(g))), _marks()))
    return ["".join(mark for g, mark in marks.items() if i in g) for i in range(count)]


def _marks() -> Iterator[str]:
    yield from ascii_letters
    n = len(ascii_letters)
    while True:
        n += 1
        yield f"({n})"


def average_rank(columns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over metrics of a method's rank, as papers print it (DRSPO, tables 1 and 2): equal values share the better
    rank and leave the next one out, and no account is taken of how far apart the values are or of any uncertainty.

    Args:
        columns: a metric each, method -> value, oriented so that more is better.
    """
    ranks = [{m: 1 + sum(other > v for other in column.values()) for m, v in column.items()} for column in columns]
    return {m: sum(r[m] for r in ranks) / len(ranks) for m in columns[0]}
