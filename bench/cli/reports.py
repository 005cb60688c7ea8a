"""The verbs that report: ``board``, ``report``, ``votes``, ``curves``, ``reproduce``, ``sql``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.claims import reproduce
from bench.cli.options import Json, Selection, StoreAt, opened, selection
from bench.cli.root import main
from bench.errors import UsageError


@main.verb("scrollbench board --suite miniature")
@selection
def board(
    chosen: Selection,
    form: Annotated[
        str | None, typer.Option("--format", help="md, csv, tex or html, with intervals and tie groups.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the leaderboard of a suite as it stands."""
    if form and json:
        raise UsageError("--format and --json are two forms of the board; give one")
    if form:
        typer.echo(bench.export(chosen.store, chosen.suite, form), nl=False)
    elif json:
        console.emit([console.board_json(b) for b in bench.boards(chosen.store, chosen.suite)])
    else:
        console.show(bench.report.terminal.board(chosen.store, chosen.suite, console.width()))


@main.verb("scrollbench report --suite miniature --out build/report")
@selection
def report(
    chosen: Selection,
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder, or an earlier report.")] = Path("report"),
    previews: Annotated[bool, typer.Option("--previews", help="Leave out the pictures themselves.")] = False,
    json: Json = False,
) -> None:
    """Write a report with all pictures as a folder of pages that opens from disk, without a server."""
    with console.progress() as progress:
        site = bench.write_site(chosen.store, chosen.suite, out, progress, whole=not previews)
    console.result(vars(site), json)


@main.verb("scrollbench votes votes-ann.csv votes-ben.csv --suite miniature")
@selection
def votes(
    chosen: Selection,
    files: Annotated[list[Path], typer.Argument(help="CSV files that the report's page Vote saved.")],
    json: Json = False,
) -> None:
    """Merge votes of people, leave out who did not look, rank the methods, and hold each number against the votes."""
    console.verdict(bench.weigh(bench.read_votes(files, chosen.suite), chosen.suite, chosen.store), json)


@main.verb("scrollbench curves --suite panollama-fig4 --tier miniature --out fig4.png")
@selection
def curves(
    chosen: Selection,
    number: Annotated[
        list[str] | None, typer.Option("--number", help="Only these numbers, any that the metrics give. Repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("curves.png"),
    json: Json = False,
) -> None:
    """Draw the numbers of a suite that varies one thing, against it, with the intervals of the means."""
    console.records(bench.report.curves.draw(chosen.store, chosen.suite, out, number or ()), json)


main.verb("scrollbench reproduce drspo:table1 --published-only")(reproduce)


@main.verb('scrollbench sql "select method, label, view, value, low, high from leaderboard"')
def sql(
    statement: Annotated[str, typer.Argument(help="SQL for DuckDB; `show tables` lists tables and views.")],
    store: StoreAt = None,
    json: Json = False,
) -> None:
    """Ask the leaderboard something. Nothing else can be read or written."""
    columns, rows = bench.query(opened(store), statement, locked=True)
    console.records([dict(zip(columns, row)) for row in rows], json, columns)
