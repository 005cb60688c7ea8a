"""The verb that measures any folder of pictures: ``measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.options import Json
from bench.cli.root import main


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
