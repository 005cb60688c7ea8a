"""The board of a suite for the terminal: numbers with interval bars and tie groups, in as many tables as it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.analysis.board import ARROWS, Row, Section, Spot, sections
from bench.analysis.columns import Column
from bench.reading import visible
from bench.report.wording import columns, notes, number, standing, title

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from bench.store import Store
    from bench.suites.suite import Suite

NARROW, BAR, LABEL, GAP = 10, 10, 32, 2  # characters: a column without bars, a bar, the longest name, between columns


@dataclass(frozen=True)
class Shape:
    """How a column is set, in characters; ``scale`` holds the ends of its bars, None where it has none."""

    column: Column
    width: int
    number: int  # room for its numbers
    scale: tuple[float, float] | None

    @property
    def axis(self) -> str:
        """The ends of the bars."""
        return " to ".join(dict.fromkeys(map(number, self.scale or ())))


def board(store: Store, suite: Suite, width: int = 120) -> Group:
    """The board, ``width`` characters wide: more tables, one below the other, where one is too narrow.

    Bold are those that nobody is shown to be better than; controls come last.

    Raises:
        StoreError: there is no index.
    """
    from rich.console import Group
    from rich.text import Text

    found = sections(store, suite)
    names = [visible(row.line.method) + row.marks for s in found for row in s.rows]
    label = min(LABEL, max(map(len, ("method", *names, *(_name(s, found) for s in found)))))
    tables = _share([_shape(found, c) for c in columns(found)], width - label - 2)
    said = Text(visible("\n".join(_notes(suite, found))), style="dim")
    return Group(Text(visible(title(suite)), style="bold"), *(_table(found, shapes, label) for shapes in tables), said)


def _shape(found: Sequence[Section], c: Column) -> Shape:
    rows = [(row, row.spots[c.label]) for s in found for row in s.rows if c.label in row.spots]
    room = max((len(_said(spot)) for _, spot in rows), default=1)
    shape = Shape(c, NARROW, room, _scale(rows))
    ties = max((1 + len(standing(spot)) for _, spot in rows if spot.group), default=0)
    bars = room + 1 + BAR + ties if shape.scale else NARROW
    words = [*_pieces(visible(c.label)), *_pieces(c.extractor or ""), shape.axis]
    return replace(shape, width=max(bars, room, *map(len, words)))


def _scale(rows: Sequence[tuple[Row, Spot]]) -> tuple[float, float] | None:
    """What the bars span: the intervals of all but controls, which may lie far away, unless those have no width."""
    spans = [(row, end) for row, spot in rows for end in (spot.low, spot.high) if end is not None]
    ends = {end for row, end in spans if not row.line.control}
    ends = ends if len(ends) > 1 else {end for _, end in spans}
    return (min(ends), max(ends)) if ends else None


def _share(shapes: Sequence[Shape], room: int) -> list[list[Shape]]:
    """The columns in order, in the fewest tables that have room, and those as equally wide as can be."""

    def fill(room: int) -> list[list[Shape]]:
        tables: list[list[Shape]] = [[]]
        for shape in shapes:
            if tables[-1] and sum(s.width + GAP for s in (*tables[-1], shape)) > room:
                tables.append([])
            tables[-1].append(shape)
        return tables

    fewest = fill(room)
    return next((made for r in range(room) if len(made := fill(r)) == len(fewest)), fewest)


def _table(found: Sequence[Section], shapes: Sequence[Shape], label: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HORIZONTALS, padding=(0, 0, 0, GAP - 1), pad_edge=False)
    table.add_column(Text("method"), width=label, overflow="fold")
    for shape, heading in zip(shapes, _headings(shapes)):
        table.add_column(heading, justify="left" if shape.scale else "right", width=shape.width, no_wrap=True)
    for s in found:
        if name := _name(s, found):
            table.add_row(Text(visible(name), style="bold"))
        for row, below in zip(s.rows, [*s.rows[1:], None]):
            name_of = Text(visible(row.line.method) + row.marks, style="dim" if row.line.control else "")
            cells = [_cell(row, row.spots.get(shape.column.label), shape) for shape in shapes]
            table.add_row(name_of, *cells, end_section=below is None or below.line.control > row.line.control)
    return table


def _name(s: Section, found: Sequence[Section]) -> str:
    """What stands above a section: its part and backbone, where there are several."""
    ranked = [other for other in found if not all(row.line.control for row in other.rows)]
    if s not in ranked:
        return "controls"
    several = {"part": {other.part for other in found}, "backbone": {other.backbone for other in ranked}}
    return ", ".join(getattr(s, what) for what, those in several.items() if len(those) > 1)


def _headings(shapes: Sequence[Shape]) -> list[Text]:
    """Name, direction, network, share of pixels seen and ends of the bars, in lines that stand level."""
    from rich.text import Text

    names, notes = [], []
    for shape in shapes:
        c = shape.column
        unit = c.unit if c.label == "seconds" else ""  # the others say it in their name
        names.append([*_break(visible(c.label), shape.width), f"{ARROWS.get(c.direction, '')} {unit}".strip()])
        notes.append([(line, "dim") for line in _break(c.extractor or "", shape.width)])
        if c.seen is not None and c.seen < 0.995:
            notes[-1].append((f"sees {100 * c.seen:.0f} %", "yellow"))
        if shape.scale:
            notes[-1].append((shape.axis, "cyan"))
    above, below = max(map(len, names), default=0), max(map(len, notes), default=0)
    texts = []
    for name, note in zip(names, notes):
        text = Text("\n" * (above - len(name)) + "\n".join(name))
        for line, style in note:
            text.append(f"\n{line}", style=style)
        texts.append(text.append("\n" * (below - len(note))))
    return texts


def _break(name: str, width: int) -> list[str]:
    """Break a name at its hyphens into lines that fit."""
    lines = [""]
    for piece in _pieces(name):
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return [line for line in lines if line]


def _pieces(name: str) -> list[str]:
    return re.split(r"(?<=[-_])", name)


def _said(spot: Spot) -> str:
    return number(spot.value) + "*" * bool(spot.missing)


def _cell(row: Row, spot: Spot | None, shape: Shape) -> Text:
    from rich.text import Text

    if spot is None:
        return Text("–".rjust(shape.number), style="dim")
    plain = "dim" if row.line.control else ""
    text = Text(number(spot.value).rjust(shape.number - bool(spot.missing)))
    text.stylize("bold green" if spot.best else plain)
    if spot.missing:
        text.append("*", style="yellow")
    if shape.scale and spot.low is not None and spot.high is not None:
        text.append(f" {bar(spot.value, spot.low, spot.high, shape.scale)}", style=plain or "cyan")
    elif shape.scale and spot.prompts == 1:
        text.append(" 1 prompt", style="dim")
    elif spot.group:
        text.append(" " * (BAR + 1))
    return text.append(f" {standing(spot)}" if spot.group else "")


def bar(value: float, low: float, high: float, scale: tuple[float, float], width: int = BAR) -> str:
    """``├──●─┤`` between the ends of a scale; what lies beyond them ends in ``◂`` or ``▸``."""
    reach = scale[1] - scale[0]
    first, at, last = (round((v - scale[0]) / reach * (width - 1)) if reach else 0 for v in (low, value, high))
    marks = dict.fromkeys(range(max(first, 0), min(last, width)), "─") | {first: "├", last: "┤", at: "●"}
    if first < 0:
        marks[0] = "◂"
    if last >= width:
        marks[width - 1] = "▸"
    return "".join(marks.get(i, " ") for i in range(width))


def _notes(suite: Suite, found: Sequence[Section]) -> list[str]:
    rows = [row for s in found for row in s.rows]
    wanted, made, failed = (sum(getattr(row.line, what) for row in rows) for what in ("wanted", "made", "failed"))
    said = [f"pictures: {made} of {wanted}" + (f", {failed} failed" if failed else "") + f"; suite {suite.digest[:8]}"]
    if any(spot.low is not None for row in rows for spot in row.spots.values()):
        said.append("├─●─┤ the interval, on the scale that stands above it; ◂ and ▸ go on beyond")
    said += notes(suite, found)
    if any(c.label not in row.spots for s in found for row in s.rows for c in s.columns):
        said.append("– no number: not scored, not measurable here, or undefined")
    return said
