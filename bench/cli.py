"""The command line: thin calls of documented functions. Data goes to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 something must be installed or fetched, 5 work is left undone.
Heavy libraries are imported inside the verbs that need them, so that help and listings are instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import cli_gate, console
from bench.cli_prompts import prompts_app
from bench.cli_reproduce import reproduce
from bench.cli_weights import weights_app
from bench.cli_world import world_app
from bench.console import App, Json, selection

if TYPE_CHECKING:
    from bench.store import Store


main = App(
    "scrollbench",
    "Benchmark of panoramic and long-scroll text-to-image generation.",
    "scrollbench run --suite miniature --limit 2",
)
main.add_typer(weights_app, name="weights")
main.add_typer(prompts_app, name="prompts")
main.add_typer(world_app, name="world")
cli_gate.mount(main)
store_app = main.group(
    "store", "Look after the store: pictures, records and the leaderboard made of them.", "scrollbench store verify"
)


Retry = Annotated[bool, typer.Option("--retry", help="Try pictures again that failed too often before.")]
StoreAt = Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")]


def _store(root: Path | None) -> Store:
    from bench.store import Store

    return Store(root)


@main.verb("scrollbench doctor --suite miniature")
@selection
def doctor(chosen: console.Selection, json: Json = False, *, ctx: typer.Context) -> None:
    """Say what can run here, and the one command that mends each thing that cannot."""
    from bench.doctor import examine, ready, suites

    checks = examine(chosen.suite, chosen.store)
    if getattr(ctx.get_parameter_source("suite"), "name", "") == "DEFAULT":
        checks += suites()
    console.records([vars(c) for c in checks], json)
    if not ready(checks):
        console.note(f"suite {chosen.suite.ref} cannot run here yet; see the rows marked missing")
        raise typer.Exit(3)


@main.verb("scrollbench list methods", "list")
def list_kind(
    kind: Annotated[
        str,
        typer.Argument(help="methods, metrics, backbones, suites, prompts, views, extractors, references, protocols"),
    ],
    json: Json = False,
) -> None:
    """List what there is of a kind."""
    from bench.catalogue import listing

    console.records(listing(kind), json)


@main.verb("scrollbench show multidiffusion")
def show(
    name: Annotated[str, typer.Argument(help="Any name that `list` shows, FILE.py@NAME, or PROMPTS:SELECTION.")],
    json: Json = False,
) -> None:
    """Show what is known of a method, metric, backbone, suite, prompt set, view, extractor, reference or protocol."""
    from bench.catalogue import describe

    console.sheets(describe(name), json)


@main.verb("scrollbench check multidiffusion")
def check(
    ref: Annotated[str, typer.Argument(help="A method: FILE.py@NAME, or its name.")],
    backbone: Annotated[str | None, typer.Option("--backbone", help="Try it on this backbone.")] = None,
    json: Json = False,
) -> None:
    """Try a method on a tiny picture and report which of the rules of methods it keeps."""
    from bench.check import check as try_method
    from bench.check import passed

    results = try_method(ref, backbone)
    console.records([vars(r) for r in results], json)
    if not passed(results):
        raise typer.Exit(1)


@main.verb("scrollbench plan --suite miniature --limit 4")
@selection
def plan(
    chosen: console.Selection,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Also what it will cost; runs every method once, on shapes alone.")
    ] = False,
    gpu: Annotated[
        str, typer.Option("--gpu", help="Forecast for this GPU; `measured`: at the rate of pictures made here.")
    ] = "h100",
    efficiency: Annotated[float, typer.Option("--efficiency", help="Share of the GPU's peak that is reached.")] = 0.4,
    price: Annotated[float | None, typer.Option("--price", help="Dollars an hour, instead of the table's.")] = None,
    json: Json = False,
) -> None:
    """Say what a run would do: what is wanted, what is done, what cannot be, and what it costs. Changes nothing."""
    from bench.plan import make_plan

    suite = chosen.suite
    made = make_plan(suite, chosen.store, chosen.shard)
    rows, absent = console.plan_rows(made), [vars(u) for u in suite.unavailable]
    costs: list[dict[str, Any]] = []
    if forecast:
        from bench.forecast import forecast as predict
        from bench.forecast import sheet
        from bench.natives import drawn

        with console.progress() as progress:
            progress.start("forecast", sum(not u.control for s in drawn(suite) for u in s.methods) * len(suite.parts))
            found = predict(suite, gpu, efficiency, chosen.store, lambda: progress.advance("forecast"))
            progress.finish("forecast")
        costs = sheet(found, gpu, price)
    if json:
        console.emit({"pictures": rows, "unavailable": absent, "forecast": costs})
        return
    console.records(rows, False)
    for title, table in (("not in this project yet", absent), (f"forecast, {gpu}", costs)):
        if table:
            console.say(f"\n{title}")
            console.records(table, False)


@main.verb("scrollbench generate --suite miniature --method direct --limit 2")
@selection
def generate(chosen: console.Selection, retry: Retry = False, json: Json = False) -> None:
    """Make the pictures that are not there yet. The same command again resumes."""
    from bench.plan import make_plan
    from bench.run import generate as make

    with console.progress() as progress:
        result = make(make_plan(chosen.suite, chosen.store, chosen.shard, retry), chosen.store, progress)
    console.result(console.plain(result), json)
    console.require_complete(result)


@main.verb("scrollbench score --suite miniature --metric gsd-dino --limit 2")
@selection
def score(chosen: console.Selection, json: Json = False) -> None:
    """Score the pictures there are and rebuild the leaderboard. Needs no generator."""
    from bench.index import build
    from bench.score import score as compute

    with console.progress() as progress:
        result = compute(chosen.suite, chosen.store, progress, device=chosen.device)
    console.result({**console.plain(result), "index": str(build(chosen.store))}, json)
    console.require_complete(None, result)


@main.verb("scrollbench adopt pictures --suite miniature --propose")
@selection
def adopt(
    chosen: console.Selection,
    folder: Annotated[Path, typer.Argument(help="Where the pictures are.")],
    label: Annotated[str, typer.Option("--as", help="What they are called on the board.")] = "",
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="CSV: file, prompt_id, and where there are several seed, part.")
    ] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Print a manifest made from file names instead.")] = False,
    json: Json = False,
) -> None:
    """Take in pictures made elsewhere, to be scored beside the methods of a suite. Then: `scrollbench score`."""
    from bench.adopt import adopt as take
    from bench.adopt import propose as match
    from bench.errors import UsageError

    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    if propose:
        text, lost = match(folder, chosen.suite)
        typer.echo(text, nl=False)
        for name in lost:
            console.note(f"left out: {name}")
        return
    if manifest is None or not label:
        raise UsageError("adopt needs --as NAME and --manifest FILE.csv; --propose prints a manifest to start from")
    console.result(console.plain(take(folder, chosen.suite, label, manifest, chosen.store)), json)


@main.verb("scrollbench run --suite miniature --limit 2")
@selection
def run(chosen: console.Selection, retry: Retry = False, json: Json = False) -> None:
    """Generate, score, and print the leaderboard; writes the DuckDB file and a contact sheet of the pictures."""
    from bench.board import boards
    from bench.board_terminal import board as table
    from bench.contact import contact_sheet, sheet_name
    from bench.index import build
    from bench.plan import make_plan
    from bench.run import generate as make
    from bench.score import score as compute

    suite, store = chosen.suite, chosen.store
    plan = make_plan(suite, store, chosen.shard, retry)
    with console.progress() as progress:
        made = make(plan, store, progress)
        scored = compute(suite, store, progress, device=chosen.device)
    index = build(store)
    if not json:
        console.show(table(store, suite, console.width()))
        console.say(f"leaderboard    {index}")
    sheet = contact_sheet(store, suite, store.root / sheet_name(suite))
    if not json:
        console.say(f"contact sheet  {sheet}")
    else:
        console.emit(
            {
                "suite": suite.ref,
                "digest": suite.digest,
                "generate": console.plain(made),
                "score": console.plain(scored),
                "board": [console.board_json(b) for b in boards(store, suite)],
                "index": str(index),
                "contact_sheet": str(sheet),
            }
        )
    console.require_complete(made, scored)


@main.verb("scrollbench board --suite miniature")
@selection
def board(
    chosen: console.Selection,
    form: Annotated[
        str | None, typer.Option("--format", help="md, csv, tex or html, with intervals and tie groups.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the leaderboard of a suite as it stands."""
    from bench.board import boards
    from bench.board_terminal import board as table

    if form:
        from bench.board_export import export

        typer.echo(export(chosen.store, chosen.suite, form), nl=False)
    elif json:
        console.emit([console.board_json(b) for b in boards(chosen.store, chosen.suite)])
    else:
        console.show(table(chosen.store, chosen.suite, console.width()))


main.verb("scrollbench reproduce drspo:table1 --published-only")(reproduce)


@main.verb('scrollbench sql "select method, metric, value from leaderboard"')
def sql(
    statement: Annotated[str, typer.Argument(help="SQL for DuckDB; `show tables` lists tables and views.")],
    store: StoreAt = None,
    json: Json = False,
) -> None:
    """Ask the leaderboard something. It is opened read-only."""
    from bench.index import query

    columns, rows = query(_store(store), statement)
    console.records([dict(zip(columns, row)) for row in rows], json, columns)


@store_app.verb("scrollbench store verify")
def verify(
    store: StoreAt = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set unreadable records aside (records/*.bad), keep all others.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every record and every picture and report what is damaged."""
    report = _store(store).verify(repair=repair)
    console.result(console.plain(report), json)
    if not report.ok:
        raise typer.Exit(5)


@store_app.verb("scrollbench store prune --dry-run")
def prune(
    store: StoreAt = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Delete pictures and temporary files that no record names."""
    console.result(console.plain(_store(store).prune(dry_run=dry_run)), json)


@store_app.verb("scrollbench store index")
def index(store: StoreAt = None, json: Json = False) -> None:
    """Build the leaderboard again from the records."""
    from bench.index import build

    console.result({"index": str(build(_store(store)))}, json)


@store_app.verb("scrollbench store path")
def path(store: StoreAt = None, json: Json = False) -> None:
    """Print where the store and its leaderboard are."""
    from bench.index import NAME

    root = Path(_store(store).root)
    console.result({"store": str(root), "leaderboard": str(root / NAME)}, json)
