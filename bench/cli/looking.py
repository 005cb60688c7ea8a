"""The verbs that look: ``doctor``, ``list``, ``show``, ``new``, ``check``, ``measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.options import ExecutorName, Json, Selection, selection
from bench.cli.root import main
from bench.errors import Exit
from bench.pipeline.executors.crew import Crew


@main.verb("scrollbench doctor --suite miniature")
@selection
def doctor(chosen: Selection, json: Json = False, *, ctx: typer.Context) -> None:
    """Say what can run here, and the one command that mends each thing that cannot."""
    checks = bench.examine(chosen.suite, chosen.store)
    if getattr(ctx.get_parameter_source("suite"), "name", "") == "DEFAULT":
        checks += bench.catalogue.doctor.suites()
    if json:
        console.records([vars(c) for c in checks], json)
    else:
        found = bench.catalogue.doctor.worst_first(checks)
        shown = [{k: v for k, v in vars(c).items() if k != "fix"} for c in found]
        console.records(shown, False, room=console.width())
        for command in dict.fromkeys(c.fix for c in found if c.fix):  # unbroken, to be copied
            console.say(f"\nto mend {', '.join(c.what for c in found if c.fix == command)}:\n    {command}")
    if not bench.catalogue.doctor.ready(checks):
        console.note(f"suite {chosen.suite.ref} cannot run here yet; see the rows marked missing")
        raise typer.Exit(Exit.PREREQUISITE)


@main.verb("scrollbench list methods", "list")
def list_kind(
    kind: Annotated[
        str,
        typer.Argument(help="methods, metrics, backbones, suites, prompts, views, extractors, references, protocols"),
    ],
    json: Json = False,
) -> None:
    """List what there is of a kind."""
    console.records(bench.listing(kind), json, room=console.width())


@main.verb("scrollbench show multidiffusion")
def show(
    name: Annotated[str, typer.Argument(help="Any name that `list` shows, FILE.py@NAME, or PROMPTS:SELECTION.")],
    json: Json = False,
) -> None:
    """Show what is known of a method, metric, backbone, suite, prompt set, view, extractor, reference or protocol."""
    console.sheets(bench.describe(name), json)


@main.verb("scrollbench new method mine.py")
def new(
    kind: Annotated[str, typer.Argument(help="method, metric or suite")],
    file: Annotated[Path, typer.Argument(help="A new file, .py or .toml; what it holds is named as the file is.")],
    json: Json = False,
) -> None:
    """Write a small working method, metric or suite to begin with, and say what to do with it."""
    commands = bench.write_new(kind, file)
    if json:
        console.emit({"file": str(file), "next": commands})
        return
    console.say(f"wrote {file}; next:")
    for command in commands:
        console.say(f"    {command}")


@main.verb("scrollbench check multidiffusion")
def check(
    ref: Annotated[str, typer.Argument(help="A method: FILE.py@NAME, or its name.")],
    backbone: Annotated[str | None, typer.Option("--backbone", help="Try it on this backbone.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where: auto, cpu, cuda:1.")] = None,
    executor: ExecutorName = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds for all of it; then a plug-in's process is ended.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the picture to this PNG.")] = None,
    json: Json = False,
) -> None:
    """Try a method on a tiny picture and report which of the rules of methods it keeps."""
    results = bench.check(ref, backbone, device=device, crew=Crew(executor, timeout=timeout), out=out)
    console.records([vars(r) for r in results], json, room=console.width())
    if not bench.catalogue.conformance.passed(results):
        raise typer.Exit(Exit.FAILED)


@main.verb("scrollbench measure pictures --metric sharpness --metric gsd-lpips --tier miniature")
def measure(
    folder: Annotated[Path, typer.Argument(help="Pictures, of any sizes, in subfolders too.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="Another folder, for distances between sets: kid, fid.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="NAME, NAME@VIEW or NAME[EXTRACTOR]@VIEW. Repeatable.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="CSV with the columns file and prompt, for metrics that read it.")
    ] = None,
    tier: Annotated[
        str, typer.Option("--tier", help="full: real networks; miniature: the ones that this package brings.")
    ] = "full",
    device: Annotated[str | None, typer.Option("--device", help="Where: auto, cpu, cuda:1.")] = None,
    json: Json = False,
) -> None:
    """Measure a folder of pictures: numbers, and what exactly each of them looked at. No suite, no ids, no manifest."""
    with console.progress() as progress:
        found = bench.evaluate(folder, against, metric or (), prompts, tier=tier, device=device, progress=progress)
    if json:
        console.emit([vars(r) for r in found])
        return
    rows = [{k: v for k, v in vars(r).items() if k != "looks"} for r in found]
    for row in rows:
        for key in ("value", "low", "high"):
            row[key] = bench.report.wording.number(row[key]) if row[key] is not None else None
    console.records(rows, False, room=console.width())
    for looks in dict.fromkeys(r.looks for r in found):
        console.say(f"{', '.join(r.number for r in found if r.looks == looks)}: {looks}")
