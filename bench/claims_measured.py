"""What a store knows of a paper's rows and columns: numbers with intervals, or why there are none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.board import network_name
from bench.claims import Table
from bench.index import NAME, query

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suite import Suite

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
class Bench:
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
            self.no_column = dict.fromkeys(self.columns, f"nothing is measured: {self._run()} comes first")
            return
        where = f"where suite_digest = '{self.suite.digest}' and tier = '{self.suite.tier}' and part = '{self.part}'"
        self.made = dict(query(self.store, f"select method, made from coverage {where}")[1])
        self.labels |= {m.casefold(): m for m in self.made}
        rows = query(
            self.store,
            f"""
            select l.method, l.metric, p.metric, l.extractor, l.view, l.reference, l.params, l.value, l.missing,
                   l.protocol from leaderboard l join protocol p using (protocol) {where}""",
        )[1]
        for column in dict.fromkeys(self.columns):
            matching = [row for row in rows if self._is(row, column)]
            if not matching:
                self.no_column.setdefault(column, f"no scores in this column yet: {self._run()}")
                continue
            self._read(column, matching, self._pairs(where, matching[0][9], matching[0][1]))

    def _run(self) -> str:
        tier = " --tier miniature" if self.suite.shrunk else ""
        return f"`scrollbench run --suite {self.suite.name}{tier}`"

    def _pairs(self, where: str, protocol: str, name: str) -> dict[str, dict[str, float]]:
        sql = f"select method, prompt_id, value from pairs {where} and protocol = '{protocol}' and metric = '{name}'"
        found: dict[str, dict[str, float]] = {}
        for method, prompt, value in query(self.store, sql)[1]:
            found.setdefault(method, {})[prompt] = value
        return found

    def _read(self, column: str, rows: list[tuple[Any, ...]], pairs: dict[str, dict[str, float]]) -> None:
        scale = self.scale(column)
        rows = [row for row in rows if row[7] is not None]
        mine = {row[0]: {prompt: scale * v for prompt, v in pairs.get(row[0], {}).items()} for row in rows}
        bounds = dict(zip(mine, intervals([list(values.values()) for values in mine.values()])))
        for method, *_, value, missing, _ in rows:
            self.prompts[column, method] = mine[method]
            self.means[column, method] = Measured(scale * value, bounds[method], len(mine[method]) or None, missing)

    def _is(self, row: tuple[Any, ...], column: str) -> bool:
        """Whether a row of the leaderboard belongs to a column ``LABEL`` or ``LABEL/VALUE`` of the suite."""
        label, _, name = column.partition("/")
        use = next((m for m in self.suite.metrics if m.label == label), None)
        if use is None:
            if label in ("seconds", "nfe"):
                return bool(row[2] == "cost" and row[1] == label)
            why = self.absent.get(("metric", label.casefold()), "")
            self.no_column[column] = f"column {label}: {why or f'not in suite {self.suite.name}'}"
            return False
        name = name or next(iter(use.metric.values))
        wanted = (name, use.metric.name, network_name(use.extractor), use.view, use.reference)
        return row[1:6] == wanted and json.loads(row[6] or "null") == dict(use.params)

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
            return self.blocked.get(label) or f"no pictures yet: {self._run()}"
        return self.no_column.get(column) or f"not scored yet, or undefined here: {self._run()}"

    @cached_property
    def blocked(self) -> Mapping[str, str]:
        """Label -> the weights it waits for. Asked only where a method has no pictures."""
        from bench.plan import make_plan

        return {b.label: f"weights missing: {b.reason}" for b in make_plan(self.suite, self.store).blocked}


def intervals(samples: Sequence[Sequence[float]]) -> list[Interval | None]:
    """The 95 % interval of each mean over prompts (:func:`bench.stats.bounds`); None for fewer than six prompts."""
    from bench.stats import bounds

    found: list[Interval | None] = [None] * len(samples)
    sizes: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        sizes.setdefault(len(sample), []).append(i)
    for size, which in sizes.items():  # one set of resamples serves all of a size
        if size >= ENOUGH:
            low, high = bounds(np.array([samples[i] for i in which], dtype=np.float64))
            for i, a, b in zip(which, low, high):
                found[i] = (float(a), float(b))
    return found
