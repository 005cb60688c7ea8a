"""The group ``preferences``: pairs of pictures to train on, made from what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.console import App
from bench.cli.options import Json, Selection, selection, settings

preferences_app = App(
    "preferences", "Pairs of pictures, the better one first, from what is in a store.",
    "scrollbench preferences build --suite miniature --score gsd-dino --out build/preferences",
)  # fmt: skip


@preferences_app.verb("scrollbench preferences build --score clip-aesthetic-squash --out build/p --suite drspo-table1")
@selection
def build(
    chosen: Selection,
    score: Annotated[str, typer.Option("--score", help="The number that ranks, by its name on the board.")],
    out: Annotated[Path, typer.Option("--out", help="An empty or new folder.")],
    gap: Annotated[float, typer.Option("--gap", min=0, help="Least difference of a pair's scores.")] = 0.2,
    pairing: Annotated[
        str, typer.Option("--pairing", help="extremes of each prompt, all two, or all two of one method: seeds.")
    ] = "extremes",
    json: Json = False,
) -> None:
    """Rank a suite's pictures of each prompt by a score and write pairs. Nothing is made or scored anew."""
    card = bench.analysis.preferences.build(chosen.store, chosen.suite, out, score, gap=gap, pairing=pairing)
    console.result(card, json)


@preferences_app.verb("scrollbench preferences show build/preferences --sheet pairs.png")
def show(
    folder: Annotated[Path, typer.Argument(help="A folder that `preferences build` made.")],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="PNG to draw pairs side by side into.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Pairs to print and to draw.")] = 12,
    json: Json = False,
) -> None:
    """Print what preferences are made of and their pairs, from the clearest to the closest."""
    from methods.training.preferences import Preferences  # help is instant

    found = Preferences(folder)
    if sheet is not None:
        console.note(f"wrote {bench.report.pairs.pair_sheet(found, sheet, limit)}")
    rows = [
        {
            "prompt_id": p.prompt_id, "gap": p.gap, "winner": f"{p.winner_method} seed {p.winner_seed}",
            "loser": f"{p.loser_method} seed {p.loser_seed}", "scores": f"{p.winner_score:.4g} {p.loser_score:.4g}",
        }
        for p in bench.report.pairs.spread(found.pairs, limit)
    ]  # fmt: skip
    if json:
        console.emit({"card": found.card, "pairs": rows})
        return
    console.result(found.card, False)
    console.records(rows, False)


@preferences_app.verb(
    "scrollbench preferences accuracy build/preferences --stage low --weights build/low --backbone world-sd"
)
def accuracy(
    folder: Annotated[Path, typer.Argument(help="Preferences that the weights did not learn from.")],
    weights: Annotated[str, typer.Option("--weights", help="A stage's weights: a file, or the folder it lies in.")],
    stage: Annotated[str, typer.Option("--stage", help="low or high.")] = "low",
    backbone: Annotated[str, typer.Option("--backbone", help="What was trained on.")] = "sdxl",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting of the training: NAME=VALUE. Repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Repository or folder of the backbone.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1.")] = None,
    json: Json = False,
) -> None:
    """How often DRSPO's weights prefer the winner more than the network without them, with its interval."""
    options = {k: v for k, v in {"model": model, "device": device}.items() if v is not None}
    found = bench.preference_accuracy(
        folder, weights, stage, backbone, options=options, settings=settings(set_, "a training")
    )
    console.result(found, json)
