"""What stands on the leaderboard of a suite; every number comes from the index, and how it is shown is not said here.

A board is one part of a suite with all its methods. Its sections are the methods of one backbone, because a method on
another network is another comparison. Inside a section a number has the 95 % interval of its mean over prompts,
letters (two methods share one where they are not told apart, as ``compare`` would say) and the interval of its rank
(:mod:`bench.stats.ranks`). Numbers of sets (FID, KID) have none of these; nor have costs, which are not ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.analysis.columns import NO_BACKBONE as NO_BACKBONE
from bench.analysis.columns import SHOWN, Column, Company, belongs, company, measure_name, seen_by, text
from bench.stats.intervals import told
from bench.stats.ranks import ALONE, Family, ranking
from bench.store.index import query

if TYPE_CHECKING:
    from bench.stats.ranks import Ranked
    from bench.store import Store
    from bench.suites.suite import Suite
    from bench.suites.values import MetricUse

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→0", "one": "→1"}


@dataclass(frozen=True)
class Cell:
    """One number of one method; ``value`` is None where there is none. ``n`` pictures went into it."""

    value: float | None
    n: int
    missing: int


@dataclass(frozen=True)
class Line:
    """One method of the board and how far its pictures are."""

    method: str
    control: bool
    optimises: tuple[str, ...]
    wanted: int
    made: int
    failed: int
    contested: int = 0  # of those wanted, merged records tell two stories
    samplers: int = 1  # versions of the method among them


@dataclass(frozen=True)
class Board:
    """One part of a suite: its methods (controls last), its columns in order, and the cells by (method, label).

    ``sources`` says which protocol and which of its numbers a cell shows.
    """

    part: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, str], Cell]
    sources: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


def boards(store: Store, suite: Suite) -> list[Board]:
    """The board of every part of a suite, with all methods that ever ran on it.

    Where a number was computed in two ways (by another source of the metric, through new weights), the column shows
    the one that stands (table ``standing``).

    Raises:
        StoreError: there is no index.
    """
    where = f"where suite_digest = {text(suite.digest)}"
    members = query(store, f"""
        select part, method, control, any_value(optimises), sum(wanted)::int, sum(made)::int, sum(failed)::int,
               sum(contested)::int, max(samplers)::int
        from coverage
        join (select suite_digest, part, method, any_value(optimises) as optimises from member group by 1, 2, 3)
        using (suite_digest, part, method) {where} group by part, method, control order by method""")[1]  # fmt: skip
    names, found = query(store, f"""
        select l.part, l.method, l.metric, l.extractor, l.view, l.reference, l.params, l.value, l.n, l.missing, l.seen,
               l.protocol, l.left_out
        from leaderboard l {where} order by l.value is not null, l.protocol""")  # fmt: skip
    rows = [dict(zip(names, row)) for row in found]
    labels = [m.label for m in suite.methods]
    made = []
    for part in [p.name for p in suite.parts]:
        lines = [
            Line(method, control, tuple(optimises or ()), *counts)
            for of, method, control, optimises, *counts in members if of == part
        ]  # fmt: skip
        lines.sort(key=lambda line: (line.control, labels.index(line.method) if line.method in labels else len(labels)))
        columns, cells, sources = [], {}, {}
        for column, matches in _columns(suite):
            mine = [row for row in rows if row["part"] == part and matches(row)]
            if mine:
                columns.append(replace(column, seen=mine[-1]["seen"], left_out=max(row["left_out"] for row in mine)))
            for row in mine:
                at = row["method"], column.label
                cells[at] = Cell(row["value"], row["n"], row["missing"])
                sources[at] = row["protocol"], row["metric"]
        made.append(Board(part, tuple(lines), tuple(columns), cells, sources))
    return made


def _columns(suite: Suite) -> Iterator[tuple[Column, Callable[[dict[str, Any]], bool]]]:
    """The suite's metrics as columns, each with a test for the leaderboard's rows that belong to it."""
    for use in suite.metrics:
        name, direction = next(iter(use.metric.values.items()))
        label = measure_name(use)

        def matches(row: dict[str, Any], name: str = name, use: MetricUse = use) -> bool:
            return row["metric"] == name and belongs(row, use)

        how = seen_by(use)
        yield Column(
            label, direction, use.metric.unit, how["extractor"], how["view"], how["reference"], range=use.metric.range
        ), matches  # fmt: skip
    for name, unit in SHOWN.items():
        yield Column(name, "lower", unit), lambda row, name=name: row["metric"] == name and row["view"] is None  # type: ignore[misc]


@dataclass(frozen=True)
class Spot:
    """One number: its interval, letters and rank, where it has them; ``missing`` pictures or scores are not in it.

    Attributes:
        prompts: how many have the number, seeds averaged inside; 0 for numbers of sets and costs.
        low, high: None too where so many prompts do not tell.
        group: letters; two methods of a section share one where they are not told apart.
        ranks: the interval of its rank; all of a column hold together.
        best: of those ranked, none is shown to be better.
    """

    value: float
    n: int
    missing: int
    prompts: int = 0
    low: float | None = None
    high: float | None = None
    group: str = ""
    ranks: tuple[int, int] | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One method of a section."""

    line: Line
    adopted: bool  # made elsewhere
    lossy: bool  # brought in from files that had lost something already (JPEG), or resized
    untidy: bool = False  # its sampler left the backbone or settings changed
    spots: Mapping[str, Spot] = field(default_factory=dict)

    @property
    def marks(self) -> str:
        """† descends on a metric while sampling, ‡ made elsewhere, § lossy or resized, ¶ left things changed."""
        return "†" * bool(self.line.optimises) + "‡" * self.adopted + "§" * self.lossy + "¶" * self.untidy


@dataclass(frozen=True)
class Section:
    """The methods of one part on one backbone, controls last."""

    part: str
    backbone: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    family: Family = ALONE  # what its primary numbers are tested together with

    @property
    def mute(self) -> bool:
        """Whether it has methods to rank and so few prompts that none could ever be told from another."""
        methods = [row for row in self.rows if not (row.line.control or row.line.optimises)]
        most = max((spot.prompts for row in methods for spot in row.spots.values()), default=0)
        return len(methods) > 1 and 0 < most < self.family.least


def sections(store: Store, suite: Suite) -> list[Section]:
    """Every part of a suite on every backbone that has methods there; the suite's own backbone first."""
    where = f"where suite_digest = {text(suite.digest)}"
    found = query(store, f"""
        select part, m.method, coalesce(bool_or(list_contains(flags, 'adopted')), false),
               coalesce(bool_or(list_has_any(flags, ['lossy-source', 'resized'])), false),
               coalesce(bool_or(list_has_any(flags, ['changed-backbone', 'changed-settings'])), false)
        from picture m {where} group by part, m.method""")[1]  # fmt: skip
    flags = {(part, method): (adopted, lossy, untidy) for part, method, adopted, lossy, untidy in found}
    together = company(store, suite)
    made = []
    for b in boards(store, suite):
        values = _prompts(store, suite, b)
        groups: dict[str, list[Line]] = {}
        for line in b.lines:
            groups.setdefault(together.backbones[b.part, line.method], []).append(line)
        for backbone in sorted(groups, key=lambda g: (g == NO_BACKBONE, g != suite.backbone, g)):
            lines = groups[backbone]
            families = {c.label: together.section(c.label, backbone) for c in b.columns}
            spots = {c.label: _spots(b, c, lines, values.get(c.label, {}), families[c.label]) for c in b.columns}
            of = {line.method: {k: s[line.method] for k, s in spots.items() if line.method in s} for line in lines}
            rows = tuple(Row(line, *flags[b.part, line.method], of[line.method]) for line in lines)
            made.append(Section(b.part, backbone, b.columns, rows, _primary(together, backbone)))
    return made


def _primary(together: Company, backbone: str) -> Family:
    return together.section(next(iter(together.first), ""), backbone)


def _prompts(store: Store, suite: Suite, b: Board) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> method -> prompt -> value, seeds averaged; no costs and no numbers of sets."""
    sources = {key: of for key, of in b.sources.items() if key[1] not in SHOWN}
    if not sources:
        return {}
    names = ", ".join(text(name) for name in sorted({name for _, name in sources.values()}))
    rows = query(store, f"""
        select method, protocol, metric, list(prompt_id order by prompt_id), list(value order by prompt_id)
        from pairs where suite_digest = {text(suite.digest)} and part = {text(b.part)} and metric in ({names})
        group by method, protocol, metric""")[1]  # fmt: skip
    read = {(method, (protocol, name)): (prompts, values) for method, protocol, name, prompts, values in rows}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (method, label), of in sources.items():
        if (method, of) in read:
            found.setdefault(label, {})[method] = dict(zip(*read[method, of]))
    return found


def _spots(
    b: Board, column: Column, lines: Sequence[Line], values: Mapping[str, Mapping[str, float]], family: Family
) -> dict[str, Spot]:
    """The numbers of a column in one section: method -> number."""
    cells = {line.method: b.cells.get((line.method, column.label)) for line in lines}
    places = _places(column, lines, cells, values, family)
    samples = {m: list(of.values()) for m, of in values.items() if m in cells}
    intervals = told(samples, column.range)
    spots = {}
    for line in lines:
        cell = cells[line.method]
        if cell is None or cell.value is None:
            continue
        low, high = intervals.get(line.method, (None, None))
        place = places.get(line.method)
        spots[line.method] = Spot(
            cell.value, cell.n, cell.missing, len(samples.get(line.method, ())), low, high,
            place.group if place else "", (place.low, place.high) if place else None, bool(place and place.best),
        )  # fmt: skip
    return spots


def _places(
    column: Column, lines: Sequence[Line], cells: Mapping[str, Any], values: Mapping[str, Mapping[str, float]],
    family: Family,
) -> dict[str, Ranked]:  # fmt: skip
    """Letters and ranks of the methods that are ranked and complete; none where so few prompts could tell nothing."""
    sign = {"lower": -1.0, "higher": 1.0}.get(column.direction)
    ranked = [
        line.method for line in lines
        if not (line.control or line.optimises) and line.method in values
        and cells[line.method] and not cells[line.method].missing
    ]  # fmt: skip
    if sign is None or len(ranked) < 2:
        return {}
    if max(len(values[m]) for m in ranked) < family.least:
        return {}
    table = {m: {p: sign * v for p, v in values[m].items()} for m in ranked}
    return {r.method: r for r in ranking(table, family)}
