"""Formats of a leaderboard: Markdown, LaTeX, CSV and one HTML page."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from bench.analysis.board import Section, Spot, sections
from bench.errors import UsageError, near
from bench.report.page import page
from bench.report.wording import (
    CSV,
    columns,
    coverage,
    heading,
    looks,
    notes,
    number,
    records,
    standing,
    subtitle,
    title,
)

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite


def export(store: Store, suite: Suite, form: str) -> str:
    """The board of a suite as text of a format: md, csv, tex or html.

    Raises:
        UsageError: an unknown format.
        StoreError: there is no index.
    """
    writers: dict[str, Callable[[Suite, Sequence[Section]], str]] = {
        "md": markdown, "csv": table_csv, "tex": latex, "html": page,
    }  # fmt: skip
    if form not in writers:
        raise UsageError(f"unknown format {form!r}; {near(form, writers)}")
    return writers[form](suite, sections(store, suite))


def markdown(suite: Suite, found: Sequence[Section]) -> str:
    """Tables for a README; bold are those that nobody is shown to be better than."""
    out = [f"## {_md(title(suite))}", "", subtitle(suite), ""]
    for s in found:
        out += [f"### {_md(s.part)}, {_md(s.backbone)}", ""]
        out.append("| method | pictures | " + " | ".join(_md(heading(c)) for c in s.columns) + " |")
        out.append("| :-- | --: |" + " --: |" * len(s.columns))
        for row in s.rows:
            cells = [_md_cell(row.spots.get(c.label)) for c in s.columns]
            out.append(f"| {_md(row.line.method)}{row.marks} | {coverage(row.line)} | " + " | ".join(cells) + " |")
        out.append("")
    out += [f"- {_md(heading(c))}: {_md(looks(c))}" for c in columns(found) if looks(c)]
    out += [f"- {_md(note)}" for note in notes(suite, found)]
    return "\n".join(out) + "\n"


def _md_cell(spot: Spot | None) -> str:
    if spot is None:
        return "–"
    value = f"**{number(spot.value)}**" if spot.best else number(spot.value)
    bounds = f" [{number(spot.low)}, {number(spot.high)}]" if spot.low is not None and spot.high is not None else ""
    return value + r"\*" * bool(spot.missing) + bounds + (f" {standing(spot)}" if spot.group else "")


def _md(text: str) -> str:
    """A text as Markdown that shows it: no marks, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(" ".join(text.split()), quote=False))


def latex(suite: Suite, found: Sequence[Section]) -> str:
    """A ``tabular`` for each section (packages booktabs and textcomp); bold is the best group."""
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
    group = standing(spot).replace(" ", r"\,")
    return value + "*" * bool(spot.missing) + bounds + (f"$^{{{group}}}$" if group else "")


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$",
    "†": r"$^\dagger$", "‡": r"$^\ddagger$", "§": r"$^\S$", "–": "--",
}  # fmt: skip


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def table_csv(suite: Suite, found: Sequence[Section]) -> str:
    """One line for each number, in full precision; a number that could not be had has no value.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV)
    writer.writerows(map(_as_text, record.values()) for record in records(suite, found))
    return out.getvalue()


def _as_text(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
