"""The board as one page of HTML that opens from disk: tables with interval bars, and the data embedded as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from bench.analysis.board import Row, Section, Spot
from bench.analysis.columns import Column
from bench.report.wording import columns, coverage, heading, looks, notes, number, records, standing, subtitle, title

if TYPE_CHECKING:
    from bench.suites.suite import Suite

Scales = dict[str, tuple[float, float] | None]  # column -> ends of its bars
WIDTH, HEIGHT = 88, 10  # px of an interval bar

STYLE = """
:root { --ink: #1c1c1e; --soft: #6e6e72; --line: #d6d4ce; --paper: #fcfbf8;
  --tint: #f3f1ea; --best: #0a6b3b; --bar: #4a7fb5; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #9a9a9e; --line: #3c3c40; --paper: #18181a;
  --tint: #222226; --best: #6fd39b; --bar: #7fb0e0; } }
body { margin: 2rem auto; padding: 0 1.5rem; max-width: 96rem; background: var(--paper); color: var(--ink);
  font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.sub, .looks, footer { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--ink); font-weight: 600; cursor: pointer; }
thead .looks { display: block; font-weight: 400; font-size: 11px; white-space: normal;
  max-width: 9.5rem; margin-left: auto; }
tbody tr:last-child td { border-bottom: 1.5px solid var(--ink); }
tr.rule td { border-top: 1px solid var(--line); }
tr.control td { color: var(--soft); }
.best { color: var(--best); font-weight: 700; }
.group { color: var(--soft); font-size: 11px; padding-left: .25rem; }
.bounds { display: block; color: var(--soft); font-size: 11px; }
.unranked { background: repeating-linear-gradient(135deg, transparent 0 6px, var(--tint) 6px 9px); }
svg { display: block; margin-left: auto; }
svg line { stroke: var(--bar); stroke-width: 2; }
svg circle { fill: var(--bar); }
svg .track { stroke: var(--line); stroke-width: 1; }
tr.control svg line:not(.track) { stroke: var(--soft); } tr.control svg circle { fill: var(--soft); }
"""

# a click on a heading sorts its table; controls stay below, empty cells last
SCRIPT = """
for (const head of document.querySelectorAll("thead th")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex, up = head.dataset.up !== "1";
  head.dataset.up = up ? "1" : "0";
  const key = row => {
    const value = row.cells[at].dataset.value;
    return value === undefined ? row.cells[at].textContent : value === "" ? null : +value;
  };
  const order = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * (up ? 1 : -1);
  const control = row => row.classList.contains("control");
  const rows = [...body.rows].sort((a, b) => control(a) - control(b) || order(key(a), key(b)));
  rows.forEach((row, i) => {
    row.classList.toggle("rule", i > 0 && control(row) && !control(rows[i - 1]));
    body.append(row);
  });
});
"""


def page(suite: Suite, found: Sequence[Section]) -> str:
    """The whole page. Nothing is loaded from elsewhere; the data stands in it as JSON, element ``board``."""
    data = json.dumps(records(suite, found), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    scales = {c.label: _scale(found, c) for c in columns(found)}
    body = "\n".join(_section(s, scales) for s in found)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(suite, found))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title(suite))}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title(suite))}</h1>
<div class="sub">{escape(subtitle(suite))}</div>
{body}
<footer><ul>{said}</ul></footer>
<script type="application/json" id="board">{data}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _section(s: Section, scales: Scales) -> str:
    heads = "".join(f'<th>{escape(heading(c))}<span class="looks">{escape(looks(c))}</span></th>' for c in s.columns)
    rows = "\n".join(_row(row, before, s, scales) for row, before in zip(s.rows, [None, *s.rows]))
    return f"""<h2>{escape(s.part)}, {escape(s.backbone)}</h2>
<div class="scroll"><table>
<thead><tr><th>method</th><th>pictures</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _row(row: Row, before: Row | None, s: Section, scales: Scales) -> str:
    line = row.line
    kinds = ["control"] * line.control + ["rule"] * bool(before and line.control > before.line.control)
    cells = "".join(_cell(row.spots.get(c.label), row, scales[c.label]) for c in s.columns)
    name = f"<td>{escape(line.method)}{row.marks}</td>"
    return f'<tr class="{" ".join(kinds)}">{name}<td data-value="{line.made}">{escape(coverage(line))}</td>{cells}</tr>'


def _cell(spot: Spot | None, row: Row, scale: tuple[float, float] | None) -> str:
    if spot is None:
        return '<td data-value="">–</td>'
    unranked = bool(row.line.optimises or row.lossy or spot.missing)
    value = f'<span class="{"best" if spot.best else ""}">{number(spot.value)}</span>' + "*" * bool(spot.missing)
    group = f'<span class="group">{standing(spot)}</span>' if spot.group else ""
    hint, bar = "", ""
    if spot.low is not None and spot.high is not None and scale:
        hint = f'<span class="bounds">{number(spot.low)} to {number(spot.high)}</span>'
        bar = _bar(spot.value, spot.low, spot.high, scale)
    kind = ' class="unranked"' if unranked else ""
    return f'<td{kind} data-value="{spot.value!r}" title="{_title(spot)}">{value}{group}{hint}{bar}</td>'


def _title(spot: Spot) -> str:
    said = f"{spot.n} pictures" + (f", {spot.missing} missing" if spot.missing else "")
    return said + (f"; rank {spot.ranks[0]} to {spot.ranks[1]}" if spot.ranks else "")


def _scale(found: Sequence[Section], c: Column) -> tuple[float, float] | None:
    """What a column's bars span in all sections: from the lowest to the highest end of its intervals."""
    spots = [row.spots[c.label] for s in found for row in s.rows if c.label in row.spots]
    ends = [end for spot in spots for end in (spot.low, spot.high) if end is not None]
    return (min(ends), max(ends)) if ends else None


def _bar(value: float, low: float, high: float, scale: tuple[float, float]) -> str:
    reach = (scale[1] - scale[0]) or 1.0

    def x(v: float) -> str:
        return f"{3 + (v - scale[0]) / reach * (WIDTH - 6):.1f}"

    y = HEIGHT // 2
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f'<line class="track" x1="3" x2="{WIDTH - 3}" y1="{y}" y2="{y}"/>'
        f'<line x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/><circle cx="{x(value)}" cy="{y}" r="3"/></svg>'
    )
