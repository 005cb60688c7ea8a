"""The board of a suite to take along: Markdown, CSV, LaTeX or a page of HTML, with intervals and tie groups."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.board import ARROWS, NO_BACKBONE, Column, Line, Section, Spot, sections
from bench.contact import number
from bench.errors import UsageError, near

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suite import Suite


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


# -- what is said


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
    if prompts := sorted({spot.prompts for spot in spots if spot.prompts}):
        said.append(_certainty(prompts, len(suite.seeds)))
    if any(spot.group for spot in spots):
        said.append(
            "letters: methods that share one cannot be told from their group's best (paired by prompt; Holm, 5 %)"
        )
    if any(row.line.control for row in rows):
        said.append("controls are made from the known truth to show what metrics see; they are not ranked")
    if what := sorted({w for row in rows for w in row.line.optimises}):
        said.append(f"† descends on {', '.join(what)} while sampling; not ranked")
    if any(row.adopted for row in rows):
        said.append("‡ made elsewhere and brought in; costs unknown")
    if any(row.lossy for row in rows):
        said.append("§ from files with lossy compression")
    if any(row.untidy for row in rows):
        said.append(
            "¶ the sampler left its backbone or settings changed; both were as they should be before each picture"
        )
    if any(spot.missing for spot in spots):
        said.append("* some pictures or scores are missing; not ranked")
    said += _doubts(suite, found)
    for kind in ("method", "metric", "reference"):
        if absent := [u.label for u in suite.unavailable if u.kind == kind]:
            said.append(f"{kind}s the suite names that are not here: {', '.join(absent)}")
    return said


def _doubts(suite: Suite, found: Sequence[Section]) -> list[str]:
    """Where the records do not say one thing, and the command after which they do."""
    lines = [row.line for s in found for row in s.rows]
    said = []
    if contested := sum(line.contested for line in lines):
        said.append(
            f"{contested} pictures: merged records say two things of them, and one was chosen; "
            f"`scrollbench run --suite {suite.name}` settles it"
        )
    if mixed := sorted({f"{line.method} ({line.samplers})" for line in lines if line.samplers > 1}):
        said.append(
            f"pictures of several versions of a method: {', '.join(mixed)}; `scrollbench run --suite {suite.name}` "
            "makes them of one"
        )
    if others := {c.label: c.left_out for s in found for c in s.columns if c.left_out}:
        counts = ", ".join(f"{label} ({n})" for label, n in others.items())
        said.append(
            "left out are scores by another source or version of the metric, other weights or another reference: "
            f"{counts}; `scrollbench score --suite {suite.name}` scores all in one way"
        )
    return said


def _certainty(prompts: Sequence[int], seeds: int) -> str:
    if prompts[-1] == 1:
        return "one prompt: no intervals and no ranks, both need several"
    over = f"{prompts[0]} to {prompts[-1]}" if prompts[0] < prompts[-1] else f"{prompts[0]}"
    each = f"each the mean of {seeds} seeds" if seeds > 1 else "at one seed; the spread between seeds is unknown"
    return f"intervals: 95 % of the mean over {over} prompts, {each}"


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
