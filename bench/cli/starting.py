"""The verb ``start``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.options import Json, StoreAt, opened
from bench.cli.root import main


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
