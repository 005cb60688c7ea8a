"""The verbs that make: ``start``, ``plan``, ``generate``, ``score``, ``adopt``, ``run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import bench
from bench.cli import console
from bench.cli.options import Json, Retry, Selection, StoreAt, opened, selection
from bench.cli.root import main
from bench.errors import UsageError
from bench.pipeline.executors.crew import Crew


@main.verb("scrollbench start --yes")
def start(
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: agree to download, or miniature.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="auto, cuda, cuda:1, cpu.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Instead of fp16; bf16 or fp32 draws real weights on a CPU, too.")
    ] = None,
    mirror: Annotated[Path | None, typer.Option("--mirror", help="Fetch from this folder, not the network.")] = None,
    store: StoreAt = None,
    json: Json = False,
) -> None:
    """From a clone to a first number: find, fetch, try, draw two prompts, score them, and say what comes next."""
    kept = opened(store)

    def agree(question: str) -> bool:
        console.note(question)
        return yes or typer.confirm("Go on?", err=True)

    with console.progress() as progress:
        done = bench.start(
            kept, agree, device=device, precision=precision, mirror=mirror, say=console.note, progress=progress
        )
    sheet = bench.contact_sheet(kept, done.suite, kept.root / bench.report.contact.sheet_name(done.suite))
    if json:
        console.emit({**bench.catalogue.start.data(done), "contact_sheet": str(sheet)})
        return
    console.show(bench.report.terminal.board(kept, done.suite, console.width()))
    console.say(f"leaderboard    {done.results.index}")
    console.say(f"contact sheet  {sheet}")
    for found in done.outlooks:
        for line in bench.catalogue.start.words(found):
            console.say(line)


@main.verb("scrollbench plan --suite miniature --limit 4")
@selection
def plan(
    chosen: Selection,
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
    suite = chosen.suite
    made = bench.make_plan(suite, chosen.store, chosen.shard)
    bench.pipeline.executors.preflight.preflight(made, chosen.device, here=not forecast)
    rows, absent = console.plan_rows(made), [vars(u) for u in suite.unavailable]
    costs: list[dict[str, Any]] = []
    if forecast:
        with console.progress() as progress:
            progress.start(
                "forecast",
                sum(not u.control for s in bench.suites.natives.drawn(suite) for u in s.methods) * len(suite.parts),
            )
            found = bench.forecast(suite, gpu, efficiency, chosen.store, lambda: progress.advance("forecast"))
            progress.finish("forecast")
        costs = bench.pipeline.forecast.sheet(found, gpu, price)
    if json:
        console.emit({"pictures": rows, "unavailable": absent, "forecast": costs})
        return
    console.records([{k: v for k, v in row.items() if k != "why"} for row in rows], False)
    for line in console.blocked_lines(made):
        console.say(line)
    for title, table in (("not in this project yet", absent), (f"forecast, {gpu}", costs)):
        if table:
            console.say(f"\n{title}")
            console.records(table, False)


@main.verb("scrollbench generate --suite miniature --method direct --limit 2")
@selection
def generate(chosen: Selection, crew: Crew, retry: Retry = False, json: Json = False) -> None:
    """Make the pictures that are not there yet. The same command again resumes."""
    bench.pipeline.executors.try_plugins(chosen.suite, crew)
    with console.progress() as progress:
        result = bench.generate(
            bench.make_plan(chosen.suite, chosen.store, chosen.shard, retry), chosen.store, progress, crew=crew
        )
    console.result(console.plain(result), json)
    console.require_complete(result)


@main.verb("scrollbench score --suite miniature --metric gsd-dino --limit 2")
@selection
def score(chosen: Selection, crew: Crew, json: Json = False) -> None:
    """Score the pictures there are and rebuild the leaderboard. Needs no generator."""
    bench.pipeline.executors.try_plugins(chosen.suite, crew)
    with console.progress() as progress:
        result = bench.score(chosen.suite, chosen.store, progress, device=chosen.device, crew=crew)
    console.result({**console.plain(result), "index": str(bench.build(chosen.store))}, json)
    console.require_complete(None, result)


@main.verb("scrollbench adopt pictures --suite miniature --propose")
@selection
def adopt(
    chosen: Selection,
    folder: Annotated[Path, typer.Argument(help="Where the pictures are.")],
    label: Annotated[str, typer.Option("--as", help="What they are called on the board.")] = "",
    manifest: Annotated[
        Path | None, typer.Option("--manifest", help="CSV: file, prompt_id, and where there are several seed, part.")
    ] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Print a manifest made from file names instead.")] = False,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize pictures of the canvas's aspect ratio; recorded and marked.")
    ] = False,
    json: Json = False,
) -> None:
    """Take in pictures made elsewhere, to be scored beside the methods of a suite. Then: `scrollbench score`."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    if propose:
        text, lost = bench.propose(folder, chosen.suite)
        if json:
            console.emit({"manifest": text, "left_out": lost})
            return
        typer.echo(text, nl=False)
        for name in lost:
            console.note(f"left out: {name}")
        return
    if manifest is None or not label:
        raise UsageError("adopt needs --as NAME and --manifest FILE.csv; --propose prints a manifest to start from")
    console.result(console.plain(bench.adopt(folder, chosen.suite, label, manifest, chosen.store, resize)), json)


@main.verb("scrollbench run --suite miniature --limit 2")
@selection
def run(
    chosen: Selection,
    crew: Crew,
    retry: Retry = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write the report, pages and pictures, into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Generate, score, and print the leaderboard; writes the DuckDB file and a contact sheet of the pictures."""
    suite, store = chosen.suite, chosen.store
    with console.progress() as progress:
        done = bench.run(suite, store, progress, shard=chosen.shard, retry=retry, device=chosen.device, crew=crew)
        sheet = bench.contact_sheet(store, suite, store.root / bench.report.contact.sheet_name(suite))
        site = bench.write_site(store, suite, report, progress) if report is not None else None
    if not json:
        console.show(bench.report.terminal.board(store, suite, console.width()))
        console.say(f"leaderboard    {done.index}")
        console.say(f"contact sheet  {sheet}")
        if site:
            console.say(f"report         {site.index}")
    else:
        console.emit(
            {
                "suite": suite.ref,
                "digest": suite.digest,
                "generate": console.plain(done.made),
                "score": console.plain(done.scored),
                "board": [console.board_json(b) for b in bench.boards(store, suite)],
                "index": str(done.index),
                "contact_sheet": str(sheet),
                **({"report": str(site.index)} if site else {}),
            }
        )
    console.require_complete(done.made, done.scored)
