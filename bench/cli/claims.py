"""The verb ``scrollbench reproduce``: a paper's table as printed, or beside what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.cli import console
from bench.cli.options import Json

if TYPE_CHECKING:
    from bench.analysis.claims import Block, Claim, Table
    from bench.analysis.readings import Interval
    from bench.analysis.reproduce import Agreement, OrderRow, Reproduction, ValueRow

OPEN = "cannot be decided"  # bench.analysis.reproduce.OPEN, without importing it for listings
ARROWS = {"lower": " ↓", "higher": " ↑"}


def reproduce(
    table: Annotated[str | None, typer.Argument(help="PAPER:TABLE; a list of all without it.")] = None,
    published_only: Annotated[
        bool, typer.Option("--published-only", help="Print the paper's table as it is and check its ranks.")
    ] = False,
    suite: Annotated[
        str | None, typer.Option("--suite", "-s", help="Compare with this suite instead of the table's own.")
    ] = None,
    tier: Annotated[
        str | None, typer.Option("--tier", help="miniature: what the suite gave on the embedded miniature.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="The board of that many prompts.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")] = None,
    json: Json = False,
) -> None:
    """Hold a paper's table against what was measured, claim by claim; or print it as the paper does."""
    if table is None:
        console.records([_entry(t) for t in bench.analysis.claims.tables().values()], json)
        return
    found = bench.analysis.claims.find_table(table)
    if published_only or (suite or found.suite) is None:
        _published(found, json)
        if not published_only:
            console.note(f"no suite of this project follows {found.id}; --suite NAME compares with one by its names")
        return
    overrides = {k: v for k, v in (("tier", tier), ("limit", limit)) if v is not None}
    result = bench.reproduce(found, bench.load_suite(suite or str(found.suite), overrides), bench.Store(store))
    if json:
        console.emit({**asdict(result), "counts": {k: result.counts(k) for k in ("values", "orders")}})
    else:
        _say(found, result)


def _entry(table: Table) -> dict[str, Any]:
    return {
        "table": table.id, "rows": len({c.method for c in table.claims}), "numbers": sum(1 for _ in table.claims),
        "via": sorted(set(table.sources.values())), "suite": table.suite or "", "paper": table.paper_title,
        "title": table.title,
    }  # fmt: skip


# -- as printed


def printed(block: Block) -> list[dict[str, str]]:
    """A block as the paper prints it: a row for each method, a column for each metric, cells as strings."""
    heads = {c.metric: _head(c) for c in block.claims}
    columns = {metric: block.column(metric) for metric in block.metrics}
    return [
        {"method": m} | {heads[k]: column[m].printed if m in column else "" for k, column in columns.items()}
        for m in block.methods
    ]


def _head(claim: Claim) -> str:
    return claim.metric + ARROWS.get(claim.direction, "") + (f" ({claim.unit})" if claim.unit else "")


def _published(table: Table, json: bool) -> None:
    differences = bench.analysis.ranks.check_ranks(table)
    if json:
        blocks = [
            {"canvas": b.canvas, "setting": b.setting, "claims": [asdict(c) for c in b.claims],
             "average_ranks": bench.analysis.ranks.average_ranks(b)} for b in table.blocks
        ]  # fmt: skip
        console.emit({"table": table.id, "paper": table.paper_title, "title": table.title, "blocks": blocks,
                      "rank_differences": differences, "differs": table.differs})  # fmt: skip
        return
    _heading(table)
    for block in table.blocks:
        said = ", ".join(filter(None, (block.canvas, block.setting)))
        console.say(f"\n{said}" if said else "")
        console.records(printed(block), False)
        _list("notes", dict.fromkeys(f"{c.method}, {c.metric}: {c.note}" for c in block.claims if c.note))
    made = [c for c in table.claims if c.rank is not None]
    if made or table.said_ranks:
        agree = f"all {len(made)} printed ranks follow from the printed values"
        _list("ranks made again from the printed values", differences or [agree])
    _list("of this table", table.differs)


def _heading(table: Table) -> None:
    console.say(f"{table.id}  {table.paper_title}, {table.title}", bold=True)
    for source, via in table.sources.items():
        console.say(f"{bench.analysis.claims.VIA[via]}: {source}")


def _list(title: str, lines: Any) -> None:
    if lines := list(lines):
        console.say(f"\n{title}")
        for line in lines:
            console.say(f"  - {line}")


# -- beside what was measured


def _say(table: Table, result: Reproduction) -> None:
    _heading(table)
    console.say(f"measured: suite {result.suite} ({result.suite_digest[:8]}), part {result.part}, tier {result.tier}")
    if result.tier == "miniature":
        console.say("tier miniature: tiny stand-in networks on ScrollWorld. Its numbers never stand for the paper's")
    reasons: dict[str, int] = {}  # why -> number of the footnote
    by_metric: dict[str, list[ValueRow]] = {}
    for row in result.values:
        by_metric.setdefault(row.claim.metric, []).append(row)
    for metric, rows in by_metric.items():
        console.say(f"\n{_head(rows[0].claim)}")
        lines: dict[str, dict[str, Any]] = {}
        for row in rows:
            line = lines.setdefault(row.claim.method, {"method": row.claim.method, "claimed": row.claim.printed})
            line |= _measured(row, reasons)
        console.records(list(lines.values()), False)
        for found in result.agreement:
            if found.metric == metric and found.methods:
                console.say(_correlation(found))
    _list("numbers: " + _count(result.counts("values")), (f"[{i}] {why}" for why, i in reasons.items()))
    decided = [_decided(row) for row in result.orders if row.verdict.verdict != OPEN]
    _list("orders: " + _count(result.counts("orders")), [*decided, *_undecided(result.orders)])
    assumed = [f"column {label}, {field}: {why}" for label, of in result.assumed.items() for field, why in of.items()]
    _list("what the suite does otherwise than the paper, or had to assume", [*result.differs, *assumed])


def _correlation(found: Agreement) -> str:
    start = f"order of {found.methods} methods as {found.column}: "
    if found.spearman is None or found.kendall is None:
        return start + "too few for a rank correlation"
    return start + f"rank correlation {found.spearman:.2f} (Spearman), {found.kendall:.2f} (Kendall)"


def _measured(row: ValueRow, reasons: dict[str, int]) -> dict[str, str]:
    """The cells of one reading: the number with its interval, and the verdict with the number of its footnote."""
    m, column = row.measured, row.column or "measured"
    said = "–"
    if m:
        said = (
            bench.report.wording.number(m.value)
            + ("*" if m.missing else "")
            + (f" ({_interval(m.interval)})" if m.interval else "")
        )
    note = reasons.setdefault(row.verdict.why, len(reasons) + 1)
    return {column: said, f"by {column}": f"{row.verdict.verdict} [{note}]"}


def _interval(bounds: Interval) -> str:
    return f"{bench.report.wording.number(bounds[0])} to {bench.report.wording.number(bounds[1])}"


def _count(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def _decided(row: OrderRow) -> str:
    o = row.order
    by = f"{bench.report.wording.number(row.gain or 0)} ({_interval(row.interval)})" if row.interval else ""
    claim = f"{o.better} better than {o.worse} on {o.metric} as {row.column}"
    tests = f"; p {row.p:.2g}, corrected {row.corrected:.2g}" if row.p is not None and row.corrected is not None else ""
    return f"{row.verdict.verdict}: {claim}: {row.verdict.why}, by {by}{tests}"


def _undecided(rows: Sequence[OrderRow]) -> list[str]:
    """The undecided claims of order by reason, each with how many it keeps open."""
    kept = Counter(row.verdict.why for row in rows if row.verdict.verdict == OPEN)
    return [f"{OPEN}, {count} of {len(rows)}: {why}" for why, count in kept.items()]
