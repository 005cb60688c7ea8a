"""The verbs that report: ``board``, ``reproduce``, ``sql``."""

from __future__ import annotations

from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.claims import reproduce
from bench.cli.options import Json, Selection, StoreAt, opened, selection
from bench.cli.root import main


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
    if form:
        typer.echo(bench.export(chosen.store, chosen.suite, form), nl=False)
    elif json:
        console.emit([console.board_json(b) for b in bench.boards(chosen.store, chosen.suite)])
    else:
        console.show(bench.report.terminal.board(chosen.store, chosen.suite, console.width()))


main.verb("scrollbench reproduce drspo:table1 --published-only")(reproduce)


@main.verb('scrollbench sql "select method, metric, value from leaderboard"')
def sql(
    statement: Annotated[str, typer.Argument(help="SQL for DuckDB; `show tables` lists tables and views.")],
    store: StoreAt = None,
    json: Json = False,
) -> None:
    """Ask the leaderboard something. It is opened read-only."""
    columns, rows = bench.query(opened(store), statement)
    console.records([dict(zip(columns, row)) for row in rows], json, columns)
