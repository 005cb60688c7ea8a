"""The leaderboard of one suite, as a table for the terminal. Every number on it comes from the index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contact import contact_sheet as contact_sheet
from bench.contact import number
from bench.index import query

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from bench.store import Store
    from bench.suite import Suite

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→0", "one": "→1"}
COST = {"seconds": "s", "nfe": ""}
COLUMN, LABEL = 11, 32  # characters: a number's column with its gap, the longest name of a method


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


@dataclass(frozen=True)
class Board:
    """One part of a suite: its methods (controls last), its columns in order, and the cells by (method, label)."""

    part: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    cells: dict[tuple[str, str], Cell]

    def best(self, column: Column) -> float | None:
        """The best value of those ranked: no controls, nothing that descends on a metric, nothing partial."""
        ranked = [line.method for line in self.lines if not line.control and not line.optimises]
        cells = [self.cells[m, column.label] for m in ranked if (m, column.label) in self.cells]
        values = [c.value for c in cells if c.value is not None and not c.missing]
        loss = {"lower": lambda v: v, "higher": lambda v: -v, "zero": abs, "one": lambda v: abs(v - 1)}
        return min(values, key=loss[column.direction]) if len(values) > 1 and column.direction in loss else None


def boards(store: Store, suite: Suite) -> list[Board]:
    """The board of every part of a suite, with all methods that ever ran on it.

    Where a number was computed twice by other means (new weights, say), the later one is shown.

    Raises:
        StoreError: there is no index.
    """
    where = f"where suite_digest = '{suite.digest}'"
    members = query(store, f"""
        select part, method, control, any_value(optimises), sum(wanted)::int, sum(made)::int, sum(failed)::int
        from coverage
        join (select suite_digest, part, method, any_value(optimises) as optimises from member group by 1, 2, 3)
        using (suite_digest, part, method) {where} group by part, method, control order by method""")[1]  # fmt: skip
    rows = query(store, f"""
        select l.part, l.method, l.metric, l.extractor, l.view, l.reference, l.params, l.value, l.n, l.missing, l.seen
        from leaderboard l join protocol p using (protocol) {where} order by p.last_used nulls first""")[1]  # fmt: skip
    labels = [m.label for m in suite.methods]
    made = []
    for part in [p.name for p in suite.parts]:
        lines = [
            Line(method, control, tuple(optimises or ()), *counts)
            for of, method, control, optimises, *counts in members if of == part
        ]  # fmt: skip
        lines.sort(key=lambda line: (line.control, labels.index(line.method) if line.method in labels else len(labels)))
        columns, cells = [], {}
        for column, matches in _columns(suite):
            mine = [row for row in rows if row[0] == part and matches(row)]
            if mine:
                columns.append(replace(column, seen=mine[-1][10]))
                cells.update({(row[1], column.label): Cell(*row[7:10]) for row in mine})
        made.append(Board(part, tuple(lines), tuple(columns), cells))
    return made


def _columns(suite: Suite) -> Iterator[tuple[Column, Callable[[tuple[Any, ...]], bool]]]:
    """The suite's metrics as columns, each with a test for the leaderboard's rows that belong to it."""
    from bench.suite_file import default_label

    for use in suite.metrics:
        name, direction = next(iter(use.metric.values.items()))
        label = name if use.label == default_label(use.ref, None) else use.label
        wanted = (name, network_name(use.extractor), use.view, use.reference)
        params = dict(use.params)

        def matches(row: tuple[Any, ...], wanted: tuple[Any, ...] = wanted, params: dict[str, Any] = params) -> bool:
            return row[2:6] == wanted and json.loads(row[6] or "null") == params

        yield Column(label, direction, use.metric.unit, wanted[1], use.view, use.reference), matches
    for name, unit in COST.items():
        yield Column(name, "lower", unit), lambda row, name=name: row[2] == name and row[4] is None  # type: ignore[misc]


def network_name(ref: str | None) -> str | None:
    """What records call an extractor: its name, or the name of its folder for ``ROLE@FOLDER``."""
    return Path(ref.partition("@")[2]).name if ref and "@" in ref else ref


def board(store: Store, suite: Suite, width: int = 120) -> Group:
    """The board for the terminal, ``width`` characters wide: more tables, one below the other, where one is too narrow.

    Best values are bold; controls stand below a rule.
    """
    from rich.console import Group
    from rich.text import Text

    parts = boards(store, suite)
    columns = list({c.label: c for b in parts for c in b.columns}.values())
    label = min(LABEL, max([len("method"), *(len(line.method) + 1 for b in parts for line in b.lines)]))
    room = max(1, (width - label - 2) // COLUMN)
    tables = max(1, -(-len(columns) // room))
    share = -(-len(columns) // tables)
    shown = [_table(parts, columns[i * share : (i + 1) * share], label) for i in range(tables)]
    title = Text(f"{suite.ref}  {suite.title}", style="bold")
    return Group(title, *shown, Text("\n".join(_notes(suite, parts, columns)), style="dim"))


def _table(parts: Sequence[Board], columns: Sequence[Column], label: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HORIZONTALS, padding=0, pad_edge=False)
    table.add_column(Text("method"), width=label, overflow="fold")
    for heading in _headings(columns):
        table.add_column(heading, justify="right", width=COLUMN - 1)
    for b in parts:
        if len(parts) > 1:
            table.add_row(Text(b.part, style="bold"))
        best = {c.label: b.best(c) for c in columns}
        for line, after in zip(b.lines, [*b.lines[1:], None]):
            name = Text(line.method + ("†" if line.optimises else ""), style="dim" if line.control else "")
            numbers = [_number(b.cells.get((line.method, c.label)), best[c.label], line) for c in columns]
            table.add_row(name, *numbers, end_section=after is None or after.control > line.control)
    return table


def _headings(columns: Sequence[Column]) -> list[Any]:
    """Name, direction, network and share of pixels seen, in lines that stand level across the columns."""
    from rich.text import Text

    names = [_break(c.label, COLUMN - 1) for c in columns]
    notes = [
        [(line, "dim") for line in _break(c.extractor or "", COLUMN - 1)]
        + ([(f"sees {100 * c.seen:.0f} %", "yellow")] if c.seen is not None and c.seen < 0.995 else [])
        for c in columns
    ]
    above, below = max(map(len, names), default=0), max(map(len, notes), default=0)
    texts = []
    for column, name, note in zip(columns, names, notes):
        text = Text("\n" * (above - len(name)) + "\n".join(name), justify="right")
        unit = column.unit if column.label == "seconds" else ""  # the others say it in their name
        text.append("\n" + f"{ARROWS.get(column.direction, '')} {unit}".strip())
        for line, style in note:
            text.append("\n" + line, style=style)
        texts.append(text.append("\n" * (below - len(note))))
    return texts


def _break(name: str, width: int) -> list[str]:
    """Break a name at its hyphens into lines that fit."""
    lines = [""]
    for piece in name.replace("_", "-").replace("-", "-\0").split("\0"):
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return [line for line in lines if line]


def _number(cell: Cell | None, best: float | None, line: Line) -> Any:
    from rich.text import Text

    if cell is None or cell.value is None:
        return Text("–", style="dim")
    text = Text(number(cell.value), style="dim" if line.control else "")
    if cell.value == best and not line.control and not line.optimises:
        text.stylize("bold green")
    if cell.missing:
        text.append("*", style="yellow")
    return text


def _notes(suite: Suite, parts: Sequence[Board], columns: Sequence[Column]) -> list[str]:
    lines = [line for b in parts for line in b.lines]
    wanted, made, failed = (sum(getattr(line, what) for line in lines) for what in ("wanted", "made", "failed"))
    notes = [f"pictures: {made} of {wanted}" + (f", {failed} failed" if failed else "") + f"; suite {suite.digest[:8]}"]
    if any(line.control for line in lines):
        notes.append("below the rule: controls, made from the known truth to show what the metrics see; not ranked")
    if what := sorted({w for line in lines for w in line.optimises}):
        notes.append(f"† descends on {', '.join(what)} while sampling; not ranked")
    cells = [b.cells.get((line.method, c.label)) for b in parts for line in b.lines for c in columns]
    if any(c and c.missing and c.value is not None for c in cells):
        notes.append("* some pictures or scores are missing")
    if any(c is None or c.value is None for c in cells):
        notes.append("– no number: not scored, not measurable here, or undefined")
    if others := [f"{m.label} on {m.backbone}" for m in suite.methods if m.backbone not in (None, suite.backbone)]:
        notes.append(f"on other backbones than {suite.backbone}: {', '.join(others)}")
    for kind in ("method", "metric", "reference"):
        if absent := [u.label for u in suite.unavailable if u.kind == kind]:
            notes.append(f"{kind}s the suite names that are not here, and not counted: {', '.join(absent)}")
    if suite.tier == "miniature":
        notes.append("tier miniature: tiny stand-in networks on ScrollWorld; never compare with numbers of tier full")
    return notes
