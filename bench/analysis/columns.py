"""Columns of a suite's leaderboard: which rows they are, what they measure, what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from bench.store.index_rows import COST
from bench.suites.tables import default_label

if TYPE_CHECKING:
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
    left_out: int = 0  # pictures that have this number in another way: by another source of the metric, other weights


def network_name(ref: str | None) -> str | None:
    """What records call an extractor: its name, or the name of its folder for ``ROLE@FOLDER``."""
    return Path(ref.partition("@")[2]).name if ref and "@" in ref else ref


def seen_by(use: MetricUse) -> dict[str, str | None]:
    """How a metric of a suite looks: the columns ``extractor``, ``view``, ``reference`` of its rows."""
    return {"extractor": network_name(use.extractor), "view": use.view, "reference": use.reference}


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

    def loss(self, value: float) -> float:
        """The number oriented so that less is better."""
        return {"higher": -value, "zero": abs(value), "one": abs(value - 1)}.get(self.direction, value)


def known(suite: Suite) -> dict[str, Measure]:
    """Every number that can be compared: the first of each metric by its name on the board, then others, then costs."""
    firsts: dict[str, Measure] = {}
    others: dict[str, Measure] = {}
    for use in suite.metrics:
        first, *rest = use.metric.values.items()
        label = first[0] if use.label == default_label(use.ref, None) else use.label
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
    tier = " --tier miniature" if suite.shrunk else ""
    return f"`scrollbench run --suite {suite.name}{tier}`"
