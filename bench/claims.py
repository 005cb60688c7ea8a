"""Claims: the numbers that papers print, kept as printed, with where each was read. ``results/published`` holds them.

A number stays the string it is printed as, so that decimals are not lost; ``via`` says whether it was read in the
paper itself or through somebody's note. What a table means for this project (the suite that follows it, which column
stands for which, in what the two differ) is in ``tables.toml`` beside the CSV files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bench.errors import UsageError, near
from bench.reading import read_csv, read_toml, refuse, shown
from bench.suite_file import _explain, _Table

FOLDER = Path(__file__).resolve().parent.parent / "results" / "published"
COLUMNS = ("paper", "table", "method", "metric", "value", "rank", "direction", "unit", "canvas", "setting", "note",
           "via", "source")  # fmt: skip
REQUIRED = ("paper", "table", "method", "metric", "direction", "via", "source")
DIRECTIONS = ("lower", "higher", "none")
VIA = {
    "paper": "read in the paper",
    "page": "printed on the project's own page",
    "note": "read through somebody's note on the paper",
    "plot": "read off a plot",
    "code": "printed by the released code",
    "aggregator": "taken from an aggregator's page, unverified",
}
NUMBER = r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?"  # as tables print them
WORDS = ("", "OOM")  # what stands in place of a number: nothing was printed, out of memory
AVERAGE = "average rank"  # a column made of the others, not a metric


@dataclass(frozen=True)
class Claim:
    """One number of a table. ``value`` is as printed, empty where a bar has no number; ``rank`` where one is printed.

    ``canvas`` is in the paper's order of sides; ``canvas`` and ``setting`` part a table into blocks.
    """

    paper: str
    table: str
    method: str
    metric: str
    value: str
    rank: int | None
    direction: str
    unit: str
    canvas: str
    setting: str
    note: str
    via: str
    source: str

    @property
    def number(self) -> float | None:
        """The value as a number; None where there is none."""
        return None if self.value in WORDS else float(self.value)

    @property
    def gain(self) -> float | None:
        """The number oriented so that more is better."""
        return -self.number if self.number is not None and self.direction == "lower" else self.number

    @property
    def half_digit(self) -> float:
        """Half a unit of the last printed digit: what rounding may have taken away."""
        return 0.5 * 10.0 ** -len(self.value.partition(".")[2])

    @property
    def printed(self) -> str:
        """The cell of the table: the value, and the rank in brackets where one is printed."""
        return (self.value or "–") + (f" ({self.rank})" if self.rank is not None else "")


@dataclass(frozen=True)
class Order:
    """That one method is better than another on a metric, by printed numbers or by the paper's words (``stated``)."""

    metric: str
    better: str
    worse: str
    stated: bool = False


@dataclass(frozen=True)
class Block:
    """The part of a table on one canvas and in one setting: methods down, metrics across, both in printed order."""

    canvas: str
    setting: str
    claims: tuple[Claim, ...]

    @property
    def methods(self) -> list[str]:
        """Rows."""
        return list(dict.fromkeys(c.method for c in self.claims))

    @property
    def metrics(self) -> list[str]:
        """Columns."""
        return list(dict.fromkeys(c.metric for c in self.claims))

    def column(self, metric: str) -> dict[str, Claim]:
        """The claims on a metric by method."""
        return {c.method: c for c in self.claims if c.metric == metric}

    @property
    def ranked(self) -> list[str]:
        """Metrics with a direction, the average of ranks left out."""
        directed = {c.metric for c in self.claims if c.direction != "none"}
        return [m for m in self.metrics if m in directed and m != AVERAGE]

    def orders(self) -> list[Order]:
        """Every pair of methods whose printed numbers differ, the better one first."""
        found = []
        for metric in self.ranked:
            column = [(c.gain, c.method) for c in self.column(metric).values() if c.gain is not None]
            for i, a in enumerate(column):
                for b in column[i + 1 :]:
                    (worse_gain, worse), (gain, better) = sorted((a, b), key=lambda pair: pair[0])
                    if gain > worse_gain:
                        found.append(Order(metric, better, worse))
        return found


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        id: ``paper:table``.
        title, paper_title: what it is called.
        own: the paper's own method; empty where it is none of the rows.
        blocks: the numbers.
        suite: the suite that follows the table's protocol; None if there is none.
        columns: metric -> the suite's columns that stand for it, ``LABEL`` or ``LABEL/VALUE``; several where the paper
            can be read several ways.
        scale: metric -> what a measured number is multiplied by to stand in the paper's unit.
        orders_only: metric -> why its numbers cannot be compared, only their order.
        said_ranks: metric -> rank of the own method by the paper's text, to be checked against the table.
        stated: orders that the paper claims in words or bars, without numbers.
        differs: what the suite does otherwise than the paper, or had to assume.
    """

    id: str
    title: str
    paper_title: str
    own: str
    blocks: tuple[Block, ...]
    suite: str | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    orders_only: Mapping[str, str] = field(default_factory=dict)
    said_ranks: Mapping[str, int] = field(default_factory=dict)
    stated: tuple[Order, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def claims(self) -> Iterator[Claim]:
        """All numbers."""
        return (c for b in self.blocks for c in b.claims)

    @property
    def sources(self) -> dict[str, str]:
        """Where the numbers were read -> by what way, a key of ``VIA``."""
        return {c.source: c.via for c in self.claims}


# -- reading


class _PaperFile(_Table):
    title: str
    own: str = ""


class _TableFile(_Table):
    title: str
    suite: str | None = None
    columns: dict[str, list[str]] = Field(default_factory=dict)
    scale: dict[str, float] = Field(default_factory=dict)
    orders_only: dict[str, str] = Field(default_factory=dict)
    said_ranks: dict[str, int] = Field(default_factory=dict)
    stated: list[Annotated[list[str], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    differs: list[str] = Field(default_factory=list)


def find_table(ref: str, folder: Path = FOLDER) -> Table:
    """A table by its id, ``paper:table``; the paper alone where it has one table.

    Raises:
        UsageError: no such table, with near misses, or files that :func:`tables` refuses.
    """
    known = tables(folder)
    if ref in known:
        return known[ref]
    of_paper = [t for t in known if t.partition(":")[0] == ref]
    if len(of_paper) == 1:
        return known[of_paper[0]]
    hint = "its tables: " + ", ".join(of_paper) if of_paper else near(ref, known)
    raise UsageError(f"no single table {ref!r}; {hint}. `scrollbench reproduce` lists all")


@lru_cache
def tables(folder: Path = FOLDER) -> Mapping[str, Table]:
    """All tables of a folder by id, in the order of ``tables.toml``, then of the CSV files.

    Raises:
        UsageError: no folder; a CSV file with a wrong cell, named by file, line and column; a wrong key in the TOML.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise UsageError(f"no published numbers in {folder}: it belongs to the project's repository")
    claims: dict[str, dict[tuple[str, str], list[Claim]]] = {}
    for file in files:
        for claim in read_claims(file):
            parted = claims.setdefault(f"{claim.paper}:{claim.table}", {})
            parted.setdefault((claim.canvas, claim.setting), []).append(claim)
    papers, said = _read_index(folder / "tables.toml")
    for ref in said:
        if ref not in claims:
            raise UsageError(f"{folder / 'tables.toml'}: {ref!r}: no CSV file has this table; {near(ref, claims)}")
    made = {}
    for ref in [*said, *(r for r in claims if r not in said)]:
        paper, _, name = ref.partition(":")
        if paper not in papers:
            raise UsageError(f"{folder / 'tables.toml'}: papers.{paper}: missing; {near(paper, papers)}")
        blocks = tuple(Block(canvas, setting, tuple(rows)) for (canvas, setting), rows in claims[ref].items())
        spec = said.get(ref, _TableFile(title=name))
        made[ref] = _table(ref, blocks, papers[paper], spec, folder / "tables.toml")
    return made


def _table(ref: str, blocks: tuple[Block, ...], paper: _PaperFile, spec: _TableFile, file: Path) -> Table:
    metrics = {c.metric for b in blocks for c in b.claims}
    for key in ("columns", "scale", "orders_only", "said_ranks"):
        for metric in getattr(spec, key):
            if metric not in metrics:
                raise UsageError(f"{file}: {ref}.{key}: unknown metric {metric!r}; {near(metric, metrics)}")
    methods = {c.method for b in blocks for c in b.claims}
    stated = tuple(Order(metric, better, worse, stated=True) for metric, better, worse in spec.stated)
    for order in stated:
        for name, known in ((order.metric, metrics), (order.better, methods), (order.worse, methods)):
            if name not in known:
                raise UsageError(f"{file}: {ref}.stated: unknown {name!r}; {near(name, known)}")
    return Table(
        ref, spec.title, paper.title, paper.own if paper.own in methods else "", blocks, spec.suite, spec.columns,
        spec.scale, spec.orders_only, spec.said_ranks, stated, tuple(spec.differs),
    )  # fmt: skip


def _read_index(file: Path) -> tuple[dict[str, _PaperFile], dict[str, _TableFile]]:
    data = read_toml(file)
    papers: dict[str, _PaperFile] = {}
    said: dict[str, _TableFile] = {}
    for key, value in data.items():
        try:
            if key == "papers":
                if not isinstance(value, dict):
                    raise UsageError(f"{file}: papers must be a table, got {shown(value)}")
                papers = {name: _PaperFile.model_validate(paper) for name, paper in value.items()}
            else:
                said[key] = _TableFile.model_validate(value)
        except ValidationError as error:
            raise UsageError("\n".join(f"{file}: {key}: {_explain(e)}" for e in error.errors())) from error
    return papers, said


def read_claims(file: Path) -> list[Claim]:
    """The rows of one CSV file.

    Raises:
        UsageError: every wrong cell, as ``FILE, line LINE: column COLUMN: what is wrong``.
    """
    table = read_csv(file, COLUMNS, COLUMNS, trim=False)
    if table.columns != COLUMNS:
        raise UsageError(f"{file}, line 1: columns must be {','.join(COLUMNS)}; got {','.join(table.columns)}")
    problems = list(table.problems)
    claims: list[Claim] = []
    cells: dict[tuple[str, ...], int] = {}
    for row in table.rows:
        values: dict[str, Any] = dict(row.values)
        wrong = _problems(row.values)
        problems += [f"{row.where}: {p}" for p in wrong]
        if wrong:
            continue
        cell = tuple(values[c] for c in ("paper", "table", "canvas", "setting", "method", "metric"))
        if cell in cells:
            problems.append(f"{row.where}: column metric: {values['metric']!r} of {values['method']!r} stands in "
                            f"line {cells[cell]} already")  # fmt: skip
        cells[cell] = row.line
        claims.append(Claim(**{**values, "rank": int(values["rank"]) if values["rank"] else None}))
    refuse(problems)
    return claims


def _problems(cells: Mapping[str, str]) -> list[str]:
    """What is wrong with a row, each with its column."""
    found = [f"column {c}: empty" for c in REQUIRED if not cells[c]]
    found += [f"column {c}: spaces around {v!r}" for c, v in cells.items() if v != v.strip()]
    if not (cells["value"] in WORDS or re.fullmatch(NUMBER, cells["value"])):
        found.append(f"column value: a number as printed, or one of {WORDS}; got {shown(cells['value'])}")
    if cells["rank"] and not re.fullmatch("[1-9][0-9]{0,8}", cells["rank"]):
        found.append(f"column rank: a whole number from 1 or nothing; got {shown(cells['rank'])}")
    for column, known in (("direction", DIRECTIONS), ("via", VIA)):
        if cells[column] and cells[column] not in known:
            found.append(f"column {column}: {shown(cells[column])}; {near(cells[column], known)}")
    return found
