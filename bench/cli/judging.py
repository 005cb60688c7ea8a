"""The verbs that compare: ``compare``, ``gate``, ``calibrate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import bench
from bench.cli import console
from bench.cli.options import Json, Selection, selection
from bench.cli.root import main
from bench.errors import UsageError
from bench.pipeline.executors.crew import Crew

if TYPE_CHECKING:
    from bench.analysis.gate import GateResult


Tables = Annotated[
    list[Path] | None,
    typer.Option(
        "--scores", help="Anybody's table instead of a suite, CSV or .parquet: prompt, metric, value, seed, method."
    ),
]
Better = Annotated[
    list[str] | None,
    typer.Option("--better", help="Of --scores, METRIC=WAY: lower, higher, zero, one. Repeatable."),
]


def _refuse_better(told: list[str] | None) -> None:
    if told:
        raise UsageError("--better is for --scores; a suite's metrics say which way is better")


@main.verb("scrollbench compare direct multidiffusion --suite miniature --limit 4")
@selection
def compare(
    chosen: Selection,
    a: Annotated[str, typer.Argument(help="A method's name on the board.")],
    b: Annotated[str, typer.Argument(help="Another one, to be held against it.")],
    every: Annotated[bool, typer.Option("--all", help="Every number, not only the first of each metric.")] = False,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Prompts to name where B is worse.")] = 3,
    scores: Tables = None,
    better: Better = None,
    json: Json = False,
) -> None:
    """Compare two methods prompt by prompt: differences, intervals, tests, and what could not have been seen."""
    if scores:
        found = bench.analysis.scores.table.read_scores(scores)
        ways = bench.analysis.scores.table.directions(better or (), found.metrics)
        report = bench.analysis.scores.judge.compare_scores(found, chosen.store, a, b, ways)
    else:
        _refuse_better(better)
        numbers = bench.analysis.columns.known(chosen.suite) if every else ()
        report = bench.compare(chosen.store, chosen.suite, a, b, numbers)
    if json:
        console.emit(bench.analysis.compare.plain(report, worst))
        return
    console.records(bench.report.compare.table(report), False)
    console.say("")
    for line in bench.report.compare.lines(report, worst):
        console.say(line)


@main.verb("scrollbench gate --baseline direct --candidate multidiffusion --limit 4 --run")
@partial(selection, suite="miniature-gate")
def gate(
    chosen: Selection,
    crew: Crew,
    baseline: Annotated[
        str, typer.Option("--baseline", help="A method's name on the board, or a pinned one: NAME or FILE.toml.")
    ],
    candidate: Annotated[str, typer.Option("--candidate", help="A method: its name on the board, or FILE.py@NAME.")],
    run: Annotated[bool, typer.Option("--run", help="First make and score the pictures that are missing.")] = False,
    margins: Annotated[
        Path | None, typer.Option("--margins", help="Margins of this TOML file, as `calibrate --write` makes it.")
    ] = None,
    own_seeds: Annotated[
        bool, typer.Option("--own-seeds", help="Margins from the baseline's own seeds in the store; draws nothing.")
    ] = False,
    speed: Annotated[
        float | None, typer.Option("--speed", help="Also time both in turn, here; fail above this ratio, e.g. 1.10.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Pin the candidate as the baseline in the file and print the change.")
    ] = False,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Prompts to name for a number that did not pass.")] = 3,
    scores: Tables = None,
    better: Better = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Append a summary to this file.")] = None,
    json: Json = False,
) -> None:
    """Judge whether a candidate is worse than a baseline by more than the suite's margins.

    Exit codes: 0 pass, 1 regressed, 2 usage, 3 something to fetch, 4 inconclusive, 5 incomplete, 70 a fault of ours.
    """
    suite, store = chosen.suite, chosen.store
    if scores:
        if margins is None or own_seeds or run or update or speed is not None:
            raise UsageError(
                "a gate on --scores takes --margins FILE.toml, with a table [gate.margins], and no pictures"
            )
        table = bench.analysis.scores.table.read_scores(scores)
        ways = bench.analysis.scores.table.directions(better or (), table.metrics)
        limits = bench.analysis.gate.margins_of(suite, margins)
        judged = bench.analysis.scores.judge.gate_scores(table, store, baseline, candidate, limits, ways, worst)
        _tell(judged, candidate, junit, markdown, json)
    _refuse_better(better)
    if own_seeds:
        if margins is not None:
            raise UsageError("--own-seeds and --margins both say where margins come from; give one of them")
        noise = bench.analysis.calibrate.from_seeds(store, suite, bench.suites.load.label_of(suite, baseline))
        limits = bench.analysis.calibrate.margins(noise)
    else:
        limits = bench.analysis.gate.margins_of(suite, margins)
    label = bench.suites.load.label_of(suite, candidate)
    pin = (
        None if update and not bench.analysis.pin.pin_path(baseline).exists() else bench.analysis.pin.find_pin(baseline)
    )
    base = pin or baseline
    if speed is not None and pin is not None:
        raise UsageError("--speed draws both samplers now: name a method as --baseline, a pinned one has no code here")
    if run:
        with console.progress() as progress:
            done = bench.analysis.gate.prepare(
                store, suite, candidate if update else base, candidate, progress, chosen.device, crew
            )
        console.require_complete(done.made, done.scored)
    if update:
        path = bench.analysis.pin.pin_path(baseline)
        change = bench.analysis.pin.write_pin(
            path, suite, bench.analysis.samplers.labelled(store, suite, label), limits
        )
        console.emit({"file": str(path), "change": change}) if json else console.say(change or f"{path}: no change")
        return
    timed = None
    if speed is not None:
        with console.progress() as progress:
            timed = bench.analysis.speed.measure(
                suite, baseline, candidate, speed, progress=progress, device=chosen.device, crew=crew
            )
    result = bench.gate(store, suite, pin or bench.suites.load.label_of(suite, baseline), label, limits, timed, worst)
    _tell(result, label, junit, markdown, json)


def _tell(result: GateResult, label: str, junit: Path | None, markdown: Path | None, json: bool) -> NoReturn:
    """Write and print a verdict, and leave with its exit code."""
    if junit:
        junit.write_text(bench.report.gate.junit(result), encoding="utf-8")
    if markdown:
        with markdown.open("a", encoding="utf-8") as file:
            file.write(bench.report.gate.markdown(result))
    if json:
        console.emit(bench.report.gate.data(result))
    else:
        console.records(bench.report.gate.table(result), False)
        for line in (*bench.report.gate.failures(result), *result.notes):
            console.say(line)
        console.say(f"{result.verdict}: {label} against {result.report.a.name} on {result.suite}")
    raise typer.Exit(result.exit_code)


@main.verb("scrollbench calibrate --method multidiffusion --limit 4")
@partial(selection, suite="miniature-gate")
def calibrate(
    chosen: Selection,
    seeds: Annotated[int, typer.Option("--other-seeds", help="Draw everything so often with other seeds.")] = 2,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="Also draw at this precision. Repeatable.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option("--threads", help="Also draw with so many threads. Repeatable.")
    ] = None,
    write: Annotated[Path | None, typer.Option("--write", help="Write the margins to this TOML file.")] = None,
    json: Json = False,
) -> None:
    """Measure how far a method is from itself, and propose margins for gates: at least twice that noise."""
    asked: dict[str, Any] = {"other_seeds": seeds, "precisions": precision or (), "threads": threads or ()}
    console.note(bench.analysis.calibrate.ahead(chosen.store, chosen.suite, **asked))
    with console.progress() as progress:
        found = bench.calibrate(chosen.store, chosen.suite, **asked, progress=progress, device=chosen.device)
    if write:
        write.write_text(bench.analysis.calibrate.snippet(found), encoding="utf-8")
    if json:
        console.emit(bench.analysis.calibrate.plain(found))
        return
    console.records(bench.analysis.calibrate.rows(found), False)
    console.say("\n" + bench.analysis.calibrate.snippet(found))


@main.verb("scrollbench calibrate-gsd --suite scrollscape-table1 --tier miniature --store build/gsd", "calibrate-gsd")
@partial(selection, suite="scrollscape-table1")
def calibrate_gsd(chosen: Selection, json: Json = False) -> None:
    """Try every reading of ScrollScape's GSD on pictures of MultiDiffusion and SyncDiffusion: which fits its table?"""
    with console.progress() as progress:
        found = bench.calibrate_gsd(chosen.store, chosen.suite, progress=progress, device=chosen.device)
    if json:
        console.emit(bench.analysis.calibrate_gsd.plain(found))
        return
    console.records(bench.analysis.calibrate_gsd.rows(found), False)
    for network, why in found.absent.items():
        console.note(f"not tried: {network}: {why}")
    console.say("\n" + "\n".join(bench.analysis.calibrate_gsd.verdict(found)))
