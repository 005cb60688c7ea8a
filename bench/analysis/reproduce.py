"""Claimed beside measured: a paper's table against the suite that follows its protocol.

Numbers are measured by the suite's own columns and never taken from another suite, tier or protocol. Two kinds of
claims get a verdict: that a method has a value, and that one method is better than another on a metric. A verdict is
about this suite's protocol; where that differs from the paper's is listed beside it (:attr:`Table.differs`). Intervals
are of 95 % over prompts, each for itself. An order is decided by the test that the board and ``compare`` make,
corrected for all that they compare (:func:`bench.analysis.columns.company`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.claims import Block, Claim, Order, Table
from bench.analysis.compare import compare
from bench.analysis.readings import ENOUGH, Interval, Measured, Readings, intervals
from bench.errors import ScrollBenchError, UsageError
from bench.stats.means import paired, swap_test
from bench.stats.ranks import shown
from bench.suites.protocols import load_protocol

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

REPRODUCED, REFUTED, OPEN = "reproduced", "not reproduced", "cannot be decided"


@dataclass(frozen=True)
class Verdict:
    """``reproduced``, ``not reproduced`` or ``cannot be decided``, and why."""

    verdict: str
    why: str


@dataclass(frozen=True)
class ValueRow:
    """One printed number, what was measured of it in ``column``, and the verdict."""

    claim: Claim
    column: str  # of the suite, LABEL or LABEL/VALUE; empty where none stands for the metric
    measured: Measured | None
    verdict: Verdict


@dataclass(frozen=True)
class OrderRow:
    """One claim of order; ``gain`` is how much better the better method was measured, in the paper's unit.

    ``p`` is the swap test's, ``corrected`` for all that is compared together.
    """

    order: Order
    column: str
    gain: float | None
    interval: Interval | None
    prompts: int
    verdict: Verdict
    p: float | None = None
    corrected: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Rank correlation between the printed and the measured values of the methods that have both."""

    metric: str
    column: str
    methods: int
    spearman: float | None  # None: fewer than three methods, or one side is constant
    kendall: float | None


@dataclass(frozen=True)
class Reproduction:
    """A table beside its suite."""

    table: str
    suite: str
    suite_digest: str
    tier: str
    part: str
    values: tuple[ValueRow, ...]
    orders: tuple[OrderRow, ...]
    agreement: tuple[Agreement, ...]
    differs: tuple[str, ...]
    assumed: Mapping[str, Mapping[str, str]]  # column -> what the suite's protocol assumes -> why

    def counts(self, kind: str) -> dict[str, int]:
        """How many ``values`` or ``orders`` got each verdict."""
        found = Counter(row.verdict.verdict for row in getattr(self, kind))
        return {v: found[v] for v in (REPRODUCED, REFUTED, OPEN)}


def reproduce(table: Table, suite: Suite, store: Store) -> Reproduction:
    """Hold every claim of a table against what a store has of a suite.

    Args:
        table: of :func:`bench.analysis.claims.find_table`.
        suite: resolved; its first part is the table's canvas. Claims are matched by the table's ``columns`` and by
            the methods' names on the board, letter case aside.
        store: what was measured; an empty one leaves everything undecided.

    Raises:
        UsageError: the table has more than one canvas or setting: a suite measures one.
    """
    if len(table.blocks) != 1:
        said = "; ".join(", ".join(filter(None, (b.canvas, b.setting))) for b in table.blocks)
        raise UsageError(
            f"{table.id} prints {len(table.blocks)} blocks ({said}), a suite measures one: see --published-only"
        )
    block = table.blocks[0]
    asked = [(m, column) for m in block.ranked for column in table.columns.get(m, [""])]
    readings = Readings(table, suite, store, [c for _, c in asked if c])
    values, orders, agreement = [], [], []
    claimed = [*block.orders(), *table.stated]
    for metric, column in asked:
        rows = _values(readings, block, metric, column)
        values += rows
        orders += _orders(readings, [o for o in claimed if o.metric == metric], column)
        if column:
            agreement.append(_agreement(rows, metric, column))
    return Reproduction(
        table.id, suite.ref, suite.digest, suite.tier, readings.part, tuple(values), tuple(orders), tuple(agreement),
        table.differs, _assumed(suite, [column for _, column in asked]),
    )  # fmt: skip


def _assumed(suite: Suite, columns: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    if suite.spec.protocol is None:
        return {}
    protocol = load_protocol(suite.spec.protocol)
    given = {str(m.get("label", m["ref"])): m for m in protocol.metrics}
    return {
        label: {f"{name} {given[label][name]}": why for name, why in fields.items()}
        for label, fields in protocol.assumed.items()
        if label in {column.partition("/")[0] for column in columns}
    }


# -- verdicts


def _values(readings: Readings, block: Block, metric: str, column: str) -> list[ValueRow]:
    claims = block.column(metric)
    numbers = [c.number for c in claims.values() if c.number is not None]
    spread = max(numbers) - min(numbers) if len(numbers) > 1 else None
    rows = []
    for method, claim in claims.items():
        measured = readings.means.get((column, readings.label(method)))
        if measured is None:
            verdict = Verdict(OPEN, readings.why_not(method, column))
        else:
            verdict = value_verdict(
                claim, measured, spread, readings.suite.tier, readings.table.orders_only.get(metric, "")
            )
        rows.append(ValueRow(claim, column, measured, verdict))
    return rows


def value_verdict(claim: Claim, measured: Measured, spread: float | None, tier: str, incomparable: str = "") -> Verdict:
    """Whether a printed number was measured again.

    It was if the interval holds it, up to the rounding of its last digit. An interval as wide as the ``spread`` of
    the paper's column (best to worst) would hold almost anything, and decides nothing.
    """
    if claim.number is None:
        return Verdict(OPEN, f"the paper prints {claim.value or 'no number'}")
    if incomparable:
        return Verdict(OPEN, incomparable)
    if tier == "miniature":
        return Verdict(OPEN, "tier miniature: its numbers stand for orders only")
    if measured.missing:
        return Verdict(OPEN, f"partial: {measured.missing} pictures or scores are missing")
    if measured.interval is None:
        return Verdict(OPEN, _no_interval(measured.prompts))
    low, high = measured.interval
    if spread is not None and high - low >= spread > 0:
        return Verdict(OPEN, "sample too small: the interval is as wide as the paper's whole column")
    if low - claim.half_digit <= claim.number <= high + claim.half_digit:
        return Verdict(REPRODUCED, "the interval holds it")
    return Verdict(REFUTED, f"{'below' if high < claim.number else 'above'} it by this suite's protocol")


def _no_interval(prompts: int | None) -> str:
    if prompts is None:
        return "one number over all pictures, without an interval"
    return f"sample too small: {prompts} prompts, {ENOUGH} at least"


def _orders(readings: Readings, orders: Sequence[Order], column: str) -> list[OrderRow]:
    """Each claim of order by the paired differences over the prompts that both methods have."""
    gains = [_gains(readings, order, column) for order in orders]
    rows = []
    for order, mine, bounds in zip(orders, gains, intervals([g or [] for g in gains])):
        pair = [(column, readings.label(m)) for m in (order.better, order.worse)]
        if mine is None:
            absent = order.better if pair[0] not in readings.means else order.worse
            rows.append(OrderRow(order, column, None, None, 0, Verdict(OPEN, readings.why_not(absent, column))))
        elif not any(readings.prompts[key] for key in pair):
            rows.append(_set_order(readings, order, column))
        else:
            rows.append(_image_order(readings, order, column, mine, bounds))
    return rows


def _image_order(
    readings: Readings, order: Order, column: str, gains: Sequence[float], bounds: Interval | None
) -> OrderRow:
    """A claim of order on numbers of single pictures."""
    gain = float(np.mean(gains)) if gains else None
    methods = readings.label(order.better), readings.label(order.worse)
    family = readings.company.pair(readings.number(column), *methods)
    p = swap_test(np.array(gains, dtype=np.float64), family.swaps) if gains else None
    corrected = family.corrected(p) if p is not None else None
    verdict = order_verdict(gain, corrected, len(gains), readings.suite.tier)
    return OrderRow(order, column, gain, bounds, len(gains), verdict, p, corrected)


def _set_order(readings: Readings, order: Order, column: str) -> OrderRow:
    """A claim of order on a number of all pictures together, by the jackknife over prompts that compares them."""
    label, _, value = column.partition("/")
    worse, better = readings.label(order.worse), readings.label(order.better)
    try:
        found = compare(readings.store, readings.suite, worse, better, [value or label]).comparisons
    except ScrollBenchError as error:
        return OrderRow(order, column, None, None, 0, Verdict(OPEN, str(error)))
    (mine,) = [c for c in found if c.part == readings.part]
    if mine.gain is None:
        return OrderRow(order, column, None, None, 0, Verdict(OPEN, mine.note))
    scale, gain = readings.scale(column), mine.gain
    bounds = (scale * gain.low, scale * gain.high) if gain.n >= ENOUGH else None
    verdict = order_verdict(gain.value, mine.adjusted, gain.n, readings.suite.tier)
    return OrderRow(order, column, scale * gain.value, bounds, gain.n, verdict, gain.p, mine.adjusted)


def _gains(readings: Readings, order: Order, column: str) -> list[float] | None:
    """How much better the claimed one is, prompt by prompt; None where one of the two has no number."""
    keys = (column, readings.label(order.better)), (column, readings.label(order.worse))
    if not all(key in readings.means for key in keys):
        return None
    direction = next(c.direction for c in readings.table.claims if c.metric == order.metric)
    _, worse_minus_better = paired(*(readings.prompts[key] for key in keys))
    return [float(d) if direction == "lower" else -float(d) for d in worse_minus_better]


def order_verdict(gain: float | None, corrected: float | None, prompts: int, tier: str) -> Verdict:
    """Whether one method was measured better than another: by the corrected p of the paired differences."""
    if gain is None or corrected is None or prompts < ENOUGH:
        return Verdict(OPEN, _no_interval(prompts))
    where = " on the miniature" if tier == "miniature" else ""
    if not shown(corrected):
        return Verdict(OPEN, f"sample too small: no difference shown over {prompts} prompts{where}, all tests counted")
    if gain > 0:
        return Verdict(REPRODUCED, f"better over {prompts} prompts{where}")
    return Verdict(REFUTED, f"worse over {prompts} prompts{where}")


def _agreement(rows: list[ValueRow], metric: str, column: str) -> Agreement:
    from scipy.stats import kendalltau, spearmanr

    pairs = [(r.claim.number, r.measured.value) for r in rows if r.measured and r.claim.number is not None]
    claimed, measured = [p[0] for p in pairs], [p[1] for p in pairs]
    if len(pairs) < 3 or len(set(claimed)) < 2 or len(set(measured)) < 2:
        return Agreement(metric, column, len(pairs), None, None)
    return Agreement(metric, column, len(pairs), float(spearmanr(claimed, measured).statistic),
                     float(kendalltau(claimed, measured).statistic))  # fmt: skip
