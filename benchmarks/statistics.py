"""How far the statistics keep what they promise: coverage, errors at the margin, false differences, uniform p.

Nothing is timed here; the numbers are those of docs/gates.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.stats import kstest

from bench.stats.intervals import OPEN, Array, Span, bounds, untold
from bench.stats.means import swap_test, swap_tests
from bench.stats.ranks import Family
from benchmarks.timing import Report, Settings

Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

# name: how to draw, the true mean, the declared range
DRAWN: Mapping[str, tuple[Draw, float, Span]] = {
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0, OPEN),
    "t of 3 degrees": (lambda rng, size: rng.standard_t(3, size), 0.0, OPEN),
    "lognormal": (lambda rng, size: rng.lognormal(0, 1, size), float(np.exp(0.5)), OPEN),
    "Bernoulli 0.1": (lambda rng, size: (rng.random(size) < 0.1).astype(float), 0.1, (0.0, 1.0)),
    "5 % x exponential": (lambda rng, size: (rng.random(size) < 0.05) * rng.exponential(1, size), 0.05, OPEN),
}
PROMPTS = (8, 20, 100)


def statistics(settings: Settings) -> Report:
    """Simulate on data whose truth is known."""
    samples = 100 if settings.quick else 2000
    rows: list[dict[str, Any]] = []
    faults = []
    for name, (draw, truth, span) in DRAWN.items():
        for n in PROMPTS:
            row = {"distribution": name, "n": n, **coverage(draw, truth, span, n, samples)}
            rows.append(row)
            if row["missed %"] > 7 + 300 / np.sqrt(samples) or row["passed at the margin %"] > 5 + 200 / np.sqrt(
                samples
            ):
                faults.append(f"{name} at {n} prompts: {row}")
    facts = {
        "boards of nothing with any false letter, %": false_letters(samples // 4),
        "p of nothing against uniform, Kolmogorov-Smirnov p": uniform(samples // 4),
    }
    return Report(facts=facts, tables={"intervals": rows}, faults=faults)


def coverage(draw: Draw, truth: float, span: Span, n: int, samples: int) -> dict[str, float]:
    """How often the interval holds the mean, misses it, and is infinite; how often a gate passes at its margin.

    The candidate's losses are the samples, and the margin is their true mean, so no pass is right.
    """
    x = draw(np.random.default_rng(n), (samples, n))
    low, high = bounds(x, span=span)
    told = np.isfinite(low) & np.isfinite(high)
    held = (low <= truth) & (truth <= high)
    gains = bounds(-x, 0.90)[0]
    if span[1] is not None:  # as a gate does where the number has a range; the baseline is 0 on every prompt
        for i in np.flatnonzero(~np.isfinite(gains)):
            gains[i] = bounds(-x[i], 0.90, span=(-span[1], span[1]))[0]
    passed = [bound >= -truth and not untold(-sample, -1) for bound, sample in zip(gains, x, strict=True)]
    return {
        "covered %": 100 * float(held.mean()), "missed %": 100 * float((told & ~held).mean() + (~told & ~held).mean()),
        "not told %": 100 * float((~told).mean()), "passed at the margin %": 100 * float(np.mean(passed)),
    }  # fmt: skip


def false_letters(boards: int) -> float:
    """Per cent of boards of six numbers and five equal methods at 24 prompts that tell any two of them apart."""
    family, wrong = Family(6, 1, 5), 0
    for seed in range(boards):
        x = np.random.default_rng(seed).standard_t(3, (6, 5, 24))
        wrong += any(family.corrected(p) <= 0.05 for number in x for p in swap_tests(number, 2999, seed).values())
    return 100 * wrong / boards


def uniform(samples: int) -> float:
    """p of the Kolmogorov-Smirnov test that swap tests of nothing have uniform p."""
    rng = np.random.default_rng(0)
    return float(kstest([swap_test(rng.standard_t(3, 20), 999) for _ in range(samples)], "uniform").pvalue)
