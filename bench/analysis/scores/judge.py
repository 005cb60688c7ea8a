"""Two methods of a table, compared and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import Measure
from bench.analysis.compare import Comparison, Report, corrected, of_prompts
from bench.analysis.gate import GateResult, concluded
from bench.analysis.samplers import Side
from bench.analysis.scores.table import Cell, Scores
from bench.errors import UsageError, near
from bench.reading import shown
from bench.stats.ranks import Family

if TYPE_CHECKING:
    from bench.store import Store

PART = "table"


def compare_scores(
    scores: Scores, store: Store, a: str, b: str, ways: Mapping[str, str], metrics: Iterable[str] = ()
) -> Report:
    """Compare two methods of a table by :func:`bench.analysis.compare.compare`'s statistics.

    Args:
        store: where pictures would be; nothing is read from it.
        a, b: methods of the table.
        ways: :func:`directions`.
        metrics: only these; all there are if empty. What is tested together are all there are, for all methods.

    Raises:
        UsageError: a method or metric that is not there; methods without a prompt in common.
    """
    for name in (a, b):
        if name not in scores.numbers:
            raise UsageError(f"{scores.name} has no method {shown(name)}; {near(name, scores.numbers)}")
    wanted = list(metrics) or scores.metrics
    for name in wanted:
        if name not in scores.metrics:
            raise UsageError(f"{scores.name} has no scores of {shown(name)}; {near(name, scores.metrics)}")
    family = Family(len(scores.metrics), 1, max(2, len(scores.numbers)))
    sides = [Side(store, "", name, {}, {}, "") for name in (a, b)]
    cells = [{c for of in scores.numbers[name].values() for c in of} for name in (a, b)]
    if not {p for p, _ in cells[0]} & {p for p, _ in cells[1]}:
        here, there = (shown(min(side)[0]) for side in cells)
        raise UsageError(f"{scores.name}: {a} and {b} have no prompt in common: {a} has {here}, {b} has {there}, say")
    found = []
    for name in wanted:
        base = Comparison(PART, Measure(name, name, ways[name], "", None), family=family)
        found.append(corrected(_compared(base, [scores.numbers[s].get(name, {}) for s in (a, b)], sides)))
    made = (len(cells[0]), len(cells[1]))
    return Report(sides[0], sides[1], tuple(found), len(cells[0] | cells[1]), made, 0, of="scores")


def _compared(base: Comparison, numbers: Sequence[Mapping[Cell, float | None]], sides: Sequence[Side]) -> Comparison:
    wanted = numbers[0].keys() | numbers[1].keys()
    missing = tuple(len(wanted - of.keys()) for of in numbers)
    whole = {p for p, _ in wanted} - {p for of in numbers for p, _ in wanted - of.keys()}  # prompts that both finished

    def means(of: Mapping[Cell, float | None], loss: Any) -> dict[str, float]:
        seeds: dict[str, list[float]] = {}
        for (prompt, _), value in sorted(of.items()):
            if prompt in whole and value is not None:
                seeds.setdefault(prompt, []).append(loss(value))
        return {prompt: float(np.mean(values)) for prompt, values in seeds.items()}

    plain, lossy = ([means(of, loss) for of in numbers] for loss in (float, base.measure.loss))
    return of_prompts(base, plain, lossy, (missing[0], missing[1]), sides)


def gate_scores(
    scores: Scores,
    store: Store,
    baseline: str,
    candidate: str,
    margins: Mapping[str, float],
    ways: Mapping[str, str],
    worst: int = 3,
) -> GateResult:
    """Judge a candidate of a table by :func:`bench.analysis.gate.gate`'s rule.

    Raises:
        UsageError: as :func:`compare_scores`; a margin of a metric that has no better and worse.
    """
    report = compare_scores(scores, store, baseline, candidate, ways, margins)
    for name in margins:
        if ways[name] == "none":
            raise UsageError(f"{name}: which way is better? --better {name}=lower or {name}=higher")
    return concluded(report, margins, scores.name, worst=worst)
