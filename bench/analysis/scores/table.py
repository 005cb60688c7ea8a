"""Reading tables of scores.

A table (CSV or Parquet) has the columns prompt, metric and value, and where there are several seed and method; other
columns are left alone. A table without a method column is one method's, named as its file is. An empty value is
undefined, which is not missing: a prompt counts where all seeds of both methods are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError, near
from bench.reading import Row, Table, read_bytes, read_csv, refuse, shown
from bench.store.engine import cursor

REQUIRED = ("prompt", "metric", "value")
KNOWN = ("method", "prompt", "seed", "metric", "value")
WAYS = ("lower", "higher", "zero", "one", "none")

Cell = tuple[str, str]  # prompt, seed
Numbers = Mapping[str, Mapping[str, Mapping[Cell, float | None]]]  # method -> metric -> cell -> value


@dataclass(frozen=True)
class Scores:
    """What tables hold: method -> metric -> (prompt, seed) -> value, None where undefined; ``name`` for reports."""

    name: str
    numbers: Numbers

    @property
    def metrics(self) -> list[str]:
        """All there are, in the order in which they come."""
        return list(dict.fromkeys(metric for of in self.numbers.values() for metric in of))


def read_scores(files: Sequence[Path]) -> Scores:
    """Read tables of scores and put them together.

    Raises:
        UsageError: not to be read, columns missing, values that are no finite numbers, a score that stands there twice;
            with file and line, as far as it can be told all at once.
    """
    numbers: dict[str, dict[str, dict[Cell, float | None]]] = {}
    first: dict[tuple[str, str, Cell], str] = {}
    problems: list[str] = []
    for file in files:
        table = _parquet(file) if file.suffix == ".parquet" else read_csv(file, KNOWN, REQUIRED)
        problems += table.problems
        for row in table.rows:
            method, metric = row.values.get("method", file.stem), row.values["metric"]
            cell = (row.values["prompt"], row.values.get("seed", ""))
            value, wrong = _value(row)
            if empty := [name for name in ("method", "prompt", "metric") if row.values.get(name) == ""]:
                wrong = f"{' and '.join(empty)} must not be empty"
            elif (method, metric, cell) in first:
                wrong = f"prompt {shown(cell[0])} has this score already ({first[method, metric, cell]})"
            if wrong:
                problems.append(f"{row.where}: {wrong}")
            first.setdefault((method, metric, cell), row.where)
            numbers.setdefault(method, {}).setdefault(metric, {})[cell] = value
    refuse(problems)
    if not numbers:
        raise UsageError(f"{', '.join(map(str, files))}: no scores")
    return Scores(", ".join(file.name for file in files), numbers)


def _value(row: Row) -> tuple[float | None, str]:
    said = row.values["value"]
    if said == "":
        return None, ""
    try:
        value = math.nan if "_" in said else float(said)
    except ValueError:
        value = math.nan
    return (value, "") if math.isfinite(value) else (None, f"value must be a finite number or empty, got {shown(said)}")


def _parquet(file: Path) -> Table:
    import duckdb

    read_bytes(file)  # says why it cannot
    with cursor() as base:
        try:
            found = base.execute("select * from read_parquet($1)", [str(file)])
        except duckdb.Error as error:
            raise UsageError(f"{file}: not Parquet: {str(error).splitlines()[0]}") from error
        names = tuple(column[0] for column in found.description or ())
        if lacking := [name for name in REQUIRED if name not in names]:
            raise UsageError(f"{file}: no column {lacking[0]!r}; expected {', '.join(KNOWN)}; got {', '.join(names)}")
        rows = [
            Row(f"{file}, row {i}", i, {n: "" if v is None else str(v).strip() for n, v in zip(names, values)})
            for i, values in enumerate(found.fetchall(), 1)
        ]
    return Table(names, tuple(rows), ())


def directions(told: Iterable[str], metrics: Sequence[str]) -> dict[str, str]:
    """Which way is better, of texts ``METRIC=WAY``; metrics that nothing is said of have no better and worse.

    Raises:
        UsageError: another text, a metric that no table has, an unknown way.
    """
    ways = dict.fromkeys(metrics, "none")
    for text in told:
        name, _, way = text.rpartition("=")
        if way not in WAYS or not name:
            raise UsageError(f"--better takes METRIC=WAY, a way of {', '.join(WAYS)}; got {shown(text)}")
        if name not in ways:
            raise UsageError(f"--better: no scores of {shown(name)}; {near(name, ways)}")
        ways[name] = way
    return ways
