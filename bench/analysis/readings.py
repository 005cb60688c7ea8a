"""What a store knows of a paper's rows and columns: numbers with intervals, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.claims import Table
from bench.analysis.columns import SHOWN, Company, belongs, company, measure_name, run_command, text
from bench.pipeline.plan import make_plan
from bench.stats.intervals import OPEN, Span, bounds
from bench.store.index import NAME, query

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

ENOUGH = 6  # prompts; with five, differences of one sign all of them are chance at 5 %, two-sided (sign test: 2/32)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """A method's number in the paper's unit: mean over prompts and its interval (None: it has none)."""

    value: float
    interval: Interval | None
    prompts: int | None
    missing: int


@dataclass(eq=False)
class Readings:
    """What a store knows of one part of a suite, asked by the table's names."""

    table: Table
    suite: Suite
    store: Store
    columns: list[str]
    part: str = ""
    means: dict[tuple[str, str], Measured] = field(default_factory=dict)  # (column, label on the board)
    prompts: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)  # the same: prompt -> value
    made: Mapping[str, int] = field(default_factory=dict)  # label -> pictures
    no_column: dict[str, str] = field(default_factory=dict)  # column -> why it has no numbers

    def __post_init__(self) -> None:
        self.part = self.suite.parts[0].name
        self.labels = {m.label.casefold(): m.label for m in self.suite.methods}
        self.absent = {(u.kind, u.label.casefold()): u.reason for u in self.suite.unavailable}
        if not (self.store.root / NAME).exists():
            self.no_column = dict.fromkeys(self.columns, f"nothing is measured: {run_command(self.suite)} comes first")
            return
        place = {"suite_digest": self.suite.digest, "tier": self.suite.tier, "part": self.part}
        where = "where " + " and ".join(f"{k} = {text(v)}" for k, v in place.items())
        self.made = dict(query(self.store, f"select method, made from coverage {where}")[1])
        self.labels |= {m.casefold(): m for m in self.made}
        names, found = query(
            self.store,
            f"""
            select l.method, l.metric as value_name, p.metric, l.extractor, l.view, l.reference, l.params, l.value,
                   l.missing, l.protocol from leaderboard l join protocol p using (protocol) {where}""",
        )
        rows = [dict(zip(names, row)) for row in found]
        for column in dict.fromkeys(self.columns):
            matching = [row for row in rows if self._is(row, column)]
            if not matching:
                self.no_column.setdefault(column, f"no scores in this column yet: {run_command(self.suite)}")
                continue
            self._read(column, matching, self._pairs(where, matching[0]["protocol"], matching[0]["value_name"]))

    def _pairs(self, where: str, protocol: str, name: str) -> dict[str, dict[str, float]]:
        sql = f"select method, prompt_id, value from pairs {where} "
        sql += (
            f"and protocol = {text(protocol)} and metric = {text(name)} order by prompt_id"  # swaps go by their order
        )
        found: dict[str, dict[str, float]] = {}
        for method, prompt, value in query(self.store, sql)[1]:
            found.setdefault(method, {})[prompt] = value
        return found

    def _read(self, column: str, rows: list[dict[str, Any]], pairs: dict[str, dict[str, float]]) -> None:
        scale = self.scale(column)
        values = {row["method"]: row for row in rows if row["value"] is not None}
        mine = {method: {prompt: scale * v for prompt, v in pairs.get(method, {}).items()} for method in values}
        ends = tuple(None if end is None else scale * end for end in self._range(column))
        span = (ends[0], ends[1]) if scale > 0 else (ends[1], ends[0])
        bounds = dict(zip(mine, intervals([list(sample.values()) for sample in mine.values()], span)))
        for method, row in values.items():
            self.prompts[column, method] = mine[method]
            self.means[column, method] = Measured(
                scale * row["value"], bounds[method], len(mine[method]) or None, row["missing"]
            )

    def _is(self, row: dict[str, Any], column: str) -> bool:
        """Whether a row of the leaderboard belongs to a column ``LABEL`` or ``LABEL/VALUE`` of the suite."""
        label, _, name = column.partition("/")
        use = next((m for m in self.suite.metrics if m.label == label), None)
        if use is None:
            if label in SHOWN:
                return bool(row["metric"] == "cost" and row["value_name"] == label)
            why = self.absent.get(("metric", label.casefold()), "")
            self.no_column[column] = f"column {label}: {why or f'not in suite {self.suite.name}'}"
            return False
        name = name or next(iter(use.metric.values))
        return (row["value_name"], row["metric"]) == (name, use.metric.name) and belongs(row, use)

    def _range(self, column: str) -> Span:
        label = column.partition("/")[0]
        return next((m.metric.range for m in self.suite.metrics if m.label == label), OPEN)

    def number(self, column: str) -> str:
        """What comparisons call the number of a column."""
        label, _, value = column.partition("/")
        use = next((m for m in self.suite.metrics if m.label == label), None)
        if use is None or value not in ("", next(iter(use.metric.values))):
            return value or label
        return measure_name(use)

    @cached_property
    def company(self) -> Company:
        """Who is compared with whom, and how many numbers there are."""
        return company(self.store, self.suite)

    def scale(self, column: str) -> float:
        """The factor of the metric that a column stands for."""
        metric = next(m for m, columns in self.table.columns.items() if column in columns)
        return self.table.scale.get(metric, 1.0)

    def label(self, method: str) -> str:
        """What the board calls a method of the paper; the same name if it does not have it."""
        return self.labels.get(method.casefold(), method)

    def why_not(self, method: str, column: str) -> str:
        """Why a method has no number in a column."""
        label = self.label(method)
        if not column:
            return "no column of this project stands for this metric"
        if method.casefold() not in self.labels:
            return self.absent.get(("method", method.casefold()), f"not a method of suite {self.suite.name}")
        if not self.made.get(label):
            return self.blocked.get(label) or f"no pictures yet: {run_command(self.suite)}"
        return self.no_column.get(column) or f"not scored yet, or undefined here: {run_command(self.suite)}"

    @cached_property
    def blocked(self) -> Mapping[str, str]:
        """Label -> the weights it waits for. Asked only where a method has no pictures."""
        return {b.label: f"weights missing: {b.reason}" for b in make_plan(self.suite, self.store).blocked}


def intervals(samples: Sequence[Sequence[float]], span: Span = OPEN) -> list[Interval | None]:
    """The 95 % interval of each mean over prompts (:func:`bench.stats.intervals.bounds`); None for fewer than six
    prompts, and where too few of them differ to tell."""
    found: list[Interval | None] = [None] * len(samples)
    sizes: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        sizes.setdefault(len(sample), []).append(i)
    for size, which in sizes.items():  # one set of resamples serves all of a size
        if size >= ENOUGH:
            low, high = bounds(np.array([samples[i] for i in which], dtype=np.float64), span=span)
            for i, a, b in zip(which, low, high):
                found[i] = (float(a), float(b)) if np.isfinite([a, b]).all() else None
    return found
