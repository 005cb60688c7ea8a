"""The board of a suite to take along: Markdown, CSV, LaTeX or a page of HTML, with intervals and tie groups.

A section is one part on one backbone: a method on another network is another comparison. Inside a section a number
has the 95 % interval of its mean over prompts, and a letter: methods that share it cannot be told from their group's
best (:func:`bench.stats.ranking`). Numbers of sets (FID, KID) have neither; nor have costs, which are not ranked.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.board import ARROWS, COST, Board, Column, Line, _columns, boards
from bench.contact import number
from bench.errors import UsageError, near
from bench.index import query

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suite import Suite

GROUPS = "abcdefghijklmnopqrstuvwxyz"
NO_BACKBONE = "no backbone"  # controls, and pictures made elsewhere


@dataclass(frozen=True)
class Spot:
    """One number: its interval and tie group, where it has them; ``missing`` pictures or scores are not in it."""

    value: float
    n: int
    missing: int
    low: float | None = None
    high: float | None = None
    group: str = ""
    ranks: tuple[int, int] | None = None  # interval of its rank
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One method of a section."""

    line: Line
    adopted: bool  # made elsewhere
    lossy: bool  # brought in from files that had lost something already (JPEG)
    spots: Mapping[str, Spot] = field(default_factory=dict)

    @property
    def marks(self) -> str:
        """† descends on a metric while sampling, ‡ made elsewhere, § from lossy files."""
        return "†" * bool(self.line.optimises) + "‡" * self.adopted + "§" * self.lossy


@dataclass(frozen=True)
class Section:
    """The methods of one part on one backbone, controls last."""

    part: str
    backbone: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def export(store: Store, suite: Suite, form: str) -> str:
    """The board of a suite as text of a format: md, csv, tex or html.

    Raises:
        UsageError: an unknown format.
        StoreError: there is no index.
    """
    from bench.board_html import page

    writers: dict[str, Callable[[Suite, Sequence[Section]], str]] = {
        "md": markdown, "csv": table_csv, "tex": latex, "html": page,
    }  # fmt: skip
    if form not in writers:
        raise UsageError(f"unknown format {form!r}; {near(form, writers)}")
    return writers[form](suite, sections(store, suite))


# -- what is shown


def sections(store: Store, suite: Suite) -> list[Section]:
    """Every part of a suite on every backbone that has methods there; the suite's own backbone first."""
    where = f"where suite_digest = '{suite.digest}'"
    found = query(store, f"""
        select part, m.method, coalesce(bool_or(list_contains(flags, 'adopted')), false),
               coalesce(bool_or(list_contains(flags, 'lossy-source')), false), any_value(r.backbone)
        from picture m left join recipe r using (recipe_id) {where} group by part, m.method""")[1]  # fmt: skip
    flags: dict[tuple[str, str], tuple[bool, bool]] = {(row[0], row[1]): (row[2], row[3]) for row in found}
    backbones = {(row[0], row[1]): row[4] for row in found}
    uses = {m.label: m.backbone for m in suite.methods}
    made = []
    for b in boards(store, suite):
        values = _prompts(store, suite, b)
        groups: dict[str, list[Line]] = {}
        for line in b.lines:
            backbone = backbones[b.part, line.method] or uses.get(line.method)
            groups.setdefault(NO_BACKBONE if line.control else backbone or NO_BACKBONE, []).append(line)
        for backbone in sorted(groups, key=lambda g: (g == NO_BACKBONE, g != suite.backbone, g)):
            lines = groups[backbone]
            spots = {c.label: _spots(b, c, lines, values.get(c.label, {})) for c in b.columns}
            rows = tuple(
                Row(line, *flags[b.part, line.method],
                    {label: of[line.method] for label, of in spots.items() if line.method in of})
                for line in lines
            )  # fmt: skip
            made.append(Section(b.part, backbone, b.columns, rows))
    return made


def _prompts(store: Store, suite: Suite, b: Board) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> method -> prompt -> value, seeds averaged; no costs and no numbers of sets."""
    where = f"where suite_digest = '{suite.digest}' and part = '{b.part}'"
    rows = query(store, f"""
        select l.part, l.method, l.metric, l.extractor, l.view, l.reference, l.params, l.protocol
        from leaderboard l join protocol p using (protocol) {where} order by p.last_used nulls first""")[1]  # fmt: skip
    shown = {
        (row[1], column.label): (row[1], row[7], row[2])  # the later of two protocols, as on the board
        for column, matches in _columns(suite) if column.label not in COST for row in rows if matches(row)
    }  # fmt: skip
    labels = {key: label for (_, label), key in shown.items()}
    names = ", ".join(f"'{name}'" for name in {name for _, _, name in labels})
    found: dict[str, dict[str, dict[str, float]]] = {}
    if names:
        sql = f"select method, protocol, metric, prompt_id, value from pairs {where} and metric in ({names})"
        for method, protocol, name, prompt, value in query(store, sql)[1]:
            if label := labels.get((method, protocol, name)):
                found.setdefault(label, {}).setdefault(method, {})[prompt] = value
    return found


def _spots(
    b: Board, column: Column, lines: Sequence[Line], values: Mapping[str, Mapping[str, float]]
) -> dict[str, Spot]:
    """The numbers of a column in one section: method -> number."""
    from bench.stats import bounds

    cells = {line.method: b.cells.get((line.method, column.label)) for line in lines}
    best = Board(b.part, tuple(lines), (column,), b.cells).best(column)
    places = _places(column, lines, cells, values)
    spots = {}
    for line in lines:
        cell = cells[line.method]
        if cell is None or cell.value is None:
            continue
        low, high = None, None
        sample = np.array(list(values.get(line.method, {}).values()), dtype=np.float64)
        if len(sample) > 1:
            low, high = (float(end) for end in bounds(sample))
        group, ranks = places.get(line.method, ("", None))
        ranked = not (line.control or line.optimises or cell.missing)
        spots[line.method] = Spot(
            cell.value, cell.n, cell.missing, low, high, group, ranks, ranked and cell.value == best
        )
    return spots


def _places(
    column: Column, lines: Sequence[Line], cells: Mapping[str, Any], values: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[str, tuple[int, int]]]:
    """Tie group and interval of the rank, of the methods that are ranked and complete."""
    from bench.stats import ranking

    sign = {"lower": -1.0, "higher": 1.0}.get(column.direction)
    ranked = [
        line.method for line in lines
        if not (line.control or line.optimises) and line.method in values
        and cells[line.method] and not cells[line.method].missing
    ]  # fmt: skip
    if sign is None or len(ranked) < 2:
        return {}
    prompts = [p for p in values[ranked[0]] if all(p in values[m] for m in ranked)]
    if len(prompts) < 2:
        return {}
    table = {m: sign * np.array([values[m][p] for p in prompts], dtype=np.float64) for m in ranked}
    return {r.method: (GROUPS[min(r.group, len(GROUPS)) - 1], (r.low, r.high)) for r in ranking(table)}


def heading(column: Column) -> str:
    """Name and direction, and the unit where the name does not say it."""
    unit = f" ({column.unit})" if column.unit and column.label == "seconds" else ""
    return f"{column.label}{unit} {ARROWS.get(column.direction, '')}".strip()


def looks(column: Column) -> str:
    """What a column looks at: network, view, reference, and the share of pixels seen where it is not all."""
    seen = f"sees {100 * column.seen:.0f} %" if column.seen is not None and column.seen < 0.995 else ""
    against = f"against {column.reference}" if column.reference else ""
    return ", ".join(filter(None, (column.extractor, column.view, against, seen)))


def notes(suite: Suite, found: Sequence[Section]) -> list[str]:
    """What the marks mean, as far as they occur, and what is not here."""
    rows = [row for s in found for row in s.rows]
    spots = [spot for row in rows for spot in row.spots.values()]
    said = []
    if suite.tier == "miniature":
        said.append("tier miniature: tiny stand-in networks on ScrollWorld; never compare with numbers of tier full")
    if len({s.backbone for s in found} - {NO_BACKBONE}) > 1:
        said.append("compare methods within their backbone: another network is another comparison")
    if any(spot.low is not None for spot in spots):
        said.append("intervals: 95 % of the mean over prompts")
    if any(spot.group for spot in spots):
        said.append("letters: methods that share one cannot be told from the best of their group (Holm, 5 %)")
    if any(row.line.control for row in rows):
        said.append("controls are made from the known truth to show what metrics see; they are not ranked")
    if what := sorted({w for row in rows for w in row.line.optimises}):
        said.append(f"† descends on {', '.join(what)} while sampling; not ranked")
    if any(row.adopted for row in rows):
        said.append("‡ made elsewhere and brought in; costs unknown")
    if any(row.lossy for row in rows):
        said.append("§ from files with lossy compression")
    if any(spot.missing for spot in spots):
        said.append("* some pictures or scores are missing; not ranked")
    for kind in ("method", "metric", "reference"):
        if absent := [u.label for u in suite.unavailable if u.kind == kind]:
            said.append(f"{kind}s the suite names that are not here: {', '.join(absent)}")
    return said


def coverage(line: Line) -> str:
    """Pictures made of those wanted."""
    return f"{line.made}/{line.wanted}" + (f", {line.failed} failed" if line.failed else "")


def title(suite: Suite) -> str:
    """One line that says which board this is."""
    return f"{suite.ref}: {suite.title}" if suite.title else suite.ref


def subtitle(suite: Suite) -> str:
    """Tier and identity: boards with another one must not be compared."""
    return f"tier {suite.tier}, suite {suite.digest[:8]}"


# -- formats


def markdown(suite: Suite, found: Sequence[Section]) -> str:
    """Tables for a README; the best number of a column is bold."""
    out = [f"## {_md(title(suite))}", "", subtitle(suite), ""]
    for s in found:
        out += [f"### {_md(s.part)}, {_md(s.backbone)}", ""]
        out.append("| method | pictures | " + " | ".join(_md(heading(c)) for c in s.columns) + " |")
        out.append("| :-- | --: |" + " --: |" * len(s.columns))
        for row in s.rows:
            cells = [_md_cell(row.spots.get(c.label)) for c in s.columns]
            out.append(f"| {_md(row.line.method)}{row.marks} | {coverage(row.line)} | " + " | ".join(cells) + " |")
        out.append("")
    out += [f"- {_md(heading(c))}: {looks(c)}" for c in columns(found) if looks(c)]
    out += [f"- {_md(note)}" for note in notes(suite, found)]
    return "\n".join(out) + "\n"


def columns(found: Sequence[Section]) -> list[Column]:
    """The columns of all sections, each once."""
    return list({c.label: c for s in found for c in s.columns}.values())


def _md_cell(spot: Spot | None) -> str:
    if spot is None:
        return "–"
    value = f"**{number(spot.value)}**" if spot.best else number(spot.value)
    bounds = f" [{number(spot.low)}, {number(spot.high)}]" if spot.low is not None and spot.high is not None else ""
    return value + r"\*" * bool(spot.missing) + bounds + (f" {spot.group}" if spot.group else "")


def _md(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")


def latex(suite: Suite, found: Sequence[Section]) -> str:
    """A ``tabular`` for each section (packages booktabs and textcomp); the best number of a column is bold."""
    out = [f"% {_tex(title(suite))}; {_tex(subtitle(suite))}"]
    for s in found:
        out += [
            "", f"% {_tex(s.part)}, {_tex(s.backbone)}", rf"\begin{{tabular}}{{l{'r' * len(s.columns)}}}", r"\toprule",
            "method & " + " & ".join(_tex(heading(c)) for c in s.columns) + r" \\", r"\midrule",
        ]  # fmt: skip
        for row, before in zip(s.rows, [None, *s.rows]):
            if before is not None and row.line.control > before.line.control:
                out.append(r"\midrule")
            cells = [_tex_cell(row.spots.get(c.label)) for c in s.columns]
            out.append(f"{_tex(row.line.method + row.marks)} & " + " & ".join(cells) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}"]
    out += ["", *(f"% {_tex(note)}" for note in notes(suite, found))]
    return "\n".join(out) + "\n"


def _tex_cell(spot: Spot | None) -> str:
    if spot is None:
        return "--"
    value = rf"\textbf{{{number(spot.value)}}}" if spot.best else number(spot.value)
    bounds = ""
    if spot.low is not None and spot.high is not None:
        bounds = rf"{{\tiny\,[{number(spot.low)}, {number(spot.high)}]}}"
    return value + "*" * bool(spot.missing) + bounds + (f"$^{{{spot.group}}}$" if spot.group else "")


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "–": "--",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


CSV = ("suite", "suite_digest", "tier", "part", "backbone", "method", "control", "optimises", "adopted", "lossy",
       "wanted", "made", "failed", "column", "direction", "unit", "extractor", "view", "reference", "seen", "value",
       "low", "high", "group", "rank_low", "rank_high", "n", "missing")  # fmt: skip


def table_csv(suite: Suite, found: Sequence[Section]) -> str:
    """One line for each number, in full precision; a number that could not be had has no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV)
    writer.writerows(record.values() for record in records(suite, found))
    return out.getvalue()


def records(suite: Suite, found: Sequence[Section]) -> list[dict[str, Any]]:
    """The board as flat records, one for each number, with the columns of ``CSV``."""
    made = []
    for s in found:
        for row in s.rows:
            for c in s.columns:
                spot, line = row.spots.get(c.label), row.line
                low, high = spot.ranks if spot and spot.ranks else (None, None)
                values = (
                    suite.ref, suite.digest, suite.tier, s.part, s.backbone, line.method, line.control,
                    " ".join(line.optimises), row.adopted, row.lossy, line.wanted, line.made, line.failed, c.label,
                    c.direction, c.unit, c.extractor, c.view, c.reference, c.seen,
                    *((spot.value, spot.low, spot.high, spot.group) if spot else (None, None, None, "")), low, high,
                    *((spot.n, spot.missing) if spot else (0, None)),
                )  # fmt: skip
                made.append(dict(zip(CSV, values)))
    return made
