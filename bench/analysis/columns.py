"""Columns of a suite's leaderboard: which rows they are, what they measure, what they cost, what is tested together.

What is compared together is said once (:func:`company`), for the board, ``compare``, ``reproduce``, gates and the
leaderboard: every primary number of a suite (the first of each metric of its file, the same number under two names
once), on each of its parts, for each two methods that a board ranks together: those of one backbone. Which of the
numbers a command was asked for changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from bench.stats.intervals import OPEN, Span
from bench.stats.ranks import Family
from bench.store.index import query
from bench.store.index_rows import COST
from bench.suites.values import measure_name as measure_name
from bench.suites.values import numbers
from bench.suites.values import seen_by as seen_by

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite
    from bench.suites.values import MetricUse

SHOWN = {"seconds": COST["seconds"], "nfe": ""}  # costs that are columns; a bare number of evaluations says it
COMPARED = ("nfe", "peak_bytes")  # seconds are compared by bench.analysis.speed alone


@dataclass(frozen=True)
class Column:
    """A number on the board: the first value of one of the suite's metrics, or a cost."""

    label: str
    direction: str
    unit: str = ""
    extractor: str | None = None
    view: str | None = None
    reference: str | None = None
    seen: float | None = None  # share of the pixels that the view looked at
    range: Span = OPEN  # of single values
    left_out: int = 0  # pictures that have this number in another way: by another source of the metric, other weights


def belongs(row: Mapping[str, Any], use: MetricUse) -> bool:
    """Whether a row, by column, is of a metric of a suite as the suite uses it: network, view, reference, knobs.

    Which of the metric's values it is, is not asked.
    """
    same = all(row[name] == value for name, value in seen_by(use).items())
    return same and json.loads(row["params"] or "null") == dict(use.params)


@dataclass(frozen=True)
class Measure:
    """A number to compare: ``name`` is what the board calls it, ``value`` its name in the records."""

    name: str
    value: str
    direction: str  # lower, higher, zero, one (closest is best) or none
    unit: str
    use: MetricUse | None  # None: a cost

    @property
    def of_set(self) -> bool:
        """Whether it is one number of all pictures together."""
        return self.use is not None and self.use.metric.scope == "set"

    @property
    def range(self) -> Span:
        """What its metric declares of single values."""
        return self.use.metric.range if self.use is not None else OPEN

    def loss(self, value: float) -> float:
        """The number oriented so that less is better."""
        return {"higher": -value, "zero": abs(value), "one": abs(value - 1)}.get(self.direction, value)


def known(suite: Suite) -> dict[str, Measure]:
    """Every number that can be compared: the first of each metric by its name on the board, then others, then costs."""
    firsts: dict[str, Measure] = {}
    others: dict[str, Measure] = {}
    for use in suite.metrics:
        first, *rest = use.metric.values.items()
        label = measure_name(use)
        firsts[label] = Measure(label, *first, use.metric.unit, use)
        others |= {name: Measure(name, name, way, use.metric.unit, use) for name, way in rest if name not in others}
    costs = {name: Measure(name, name, "lower", COST[name], None) for name in COMPARED}
    return {**firsts, **{n: m for n, m in {**others, **costs}.items() if n not in firsts}}


def measures(suite: Suite, names: Iterable[str] = ()) -> list[Measure]:
    """The first number of each of the suite's metrics, as on the board; or those named (:func:`known`).

    Raises:
        UsageError: a name that no metric of the suite has; the message holds near misses.
    """
    have, wanted = known(suite), list(names)
    for name in wanted:
        if name == "seconds":
            raise UsageError("seconds of different hours do not compare; `scrollbench gate --speed 1.10` times both")
        if name not in have:
            raise UsageError(f"suite {suite.ref} measures no {name!r}; {near(name, have)}")
    if wanted:
        return [have[name] for name in wanted]
    first = {next(iter(use.metric.values)) for use in suite.metrics}
    return [m for m in have.values() if m.value in first]


def text(value: Any) -> str:
    """A value as SQL text."""
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def run_command(suite: Suite) -> str:
    """The command that makes a suite's pictures and numbers, for messages."""
    return f"`scrollbench run {suite.command}`"


# -- what is tested together

NO_BACKBONE = "no backbone"  # controls, and pictures made elsewhere


@dataclass(frozen=True)
class Company:
    """Who stands on a suite's board, and how many numbers there are.

    Attributes:
        backbones: (part, method) -> what it runs on.
        ranked: backbone -> its methods that are ranked: no controls, nothing that descends on a metric.
        first: names of the primary numbers.
        numbers, others: how many different primary numbers there are, and how many others a suite knows.
        parts: of the suite.
    """

    backbones: Mapping[tuple[str, str], str]
    ranked: Mapping[str, frozenset[str]]
    first: frozenset[str]
    numbers: int
    others: int
    parts: int

    def section(self, number: str, backbone: str) -> Family:
        """The family of a number on the board of a backbone; a number that is not primary counts with all there are."""
        count = self.numbers if number in self.first else self.numbers + self.others
        return Family(count, self.parts, max(2, len(self.ranked.get(backbone, ()))))

    def pair(self, number: str, a: str, b: str) -> Family:
        """The family of two methods: of their backbone, or of every ranked method where they do not share one."""
        for backbone, methods in self.ranked.items():
            if {a, b} <= methods:
                return self.section(number, backbone)
        everyone = {a, b}.union(*self.ranked.values())
        count = self.numbers if number in self.first else self.numbers + self.others
        return Family(count, self.parts, max(2, len(everyone)))


def company(store: Store, suite: Suite, asked: Iterable[Measure] = ()) -> Company:
    """Read who stands together on a suite's board; ``asked`` are numbers that its file may not have.

    Raises:
        StoreError: there is no index.
    """
    rows = query(store, f"""
        select part, m.method, bool_or(m.control), bool_or(len(coalesce(m.optimises, [])) > 0), any_value(r.backbone)
        from member m left join recipe r using (recipe_id) where suite_digest = {text(suite.digest)}
        group by part, m.method order by all""")[1]  # fmt: skip
    uses: Mapping[str, str | None] = {}
    if any(backbone is None and not control for _, _, control, _, backbone in rows):
        with suppress(UsageError):  # no picture yet, and no such method here
            uses = {m.label: m.backbone for m in suite.methods}
    backbones = {
        (part, method): NO_BACKBONE if control else backbone or uses.get(method) or NO_BACKBONE
        for part, method, control, _, backbone in rows
    }
    ranked: dict[str, set[str]] = {}
    for part, method, control, optimises, _ in rows:
        if not (control or optimises):
            ranked.setdefault(backbones[part, method], set()).add(method)
    whole = suite.whole
    first = {m.name for m in measures(whole)}
    others = {*known(whole), *(m.name for m in asked)} - first
    return Company(
        backbones, {b: frozenset(methods) for b, methods in ranked.items()}, frozenset(first), numbers(whole.metrics),
        len(others), len(suite.parts),
    )  # fmt: skip
