"""The verb that trains: ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.options import Json, settings
from bench.cli.root import main
from bench.reading import MOST


@main.verb("scrollbench train scale-dit --data world --backbone world-flux --out build/bridge --steps 2 --work build/a")
def train(
    method: Annotated[str, typer.Argument(help="A method with weights of its own, such as scale-dit.")],
    data: Annotated[
        str, typer.Option("--data", help="Folder of pictures with captions (a.jpg, a.txt), of preferences, or world.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for weights and card.")],
    backbone: Annotated[str, typer.Option("--backbone", help="What is trained on.")] = "flux-dev",
    work: Annotated[Path, typer.Option("--work", help="Checkpoints; can be deleted.")] = Path("build/train"),
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Budget; the training's own by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Decides weights, order and noise.")] = 0,
    rank: Annotated[int | None, typer.Option("--rank", help="Of low-rank pairs.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="The optimiser's rate.")] = None,
    optimiser: Annotated[str | None, typer.Option("--optimiser", help="prodigy or adamw.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting of the training: NAME=VALUE. Repeatable.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Repository or folder of the backbone.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="Of the backbone: fp32, bf16.")] = None,
    json: Json = False,
) -> None:
    """Train the weights that a method needs. Seeded; the same command again resumes.

    On several GPUs: accelerate launch --num_processes N $(which scrollbench) train ... --device cuda
    """
    flags = {"rank": rank, "lr": lr, "optimiser": optimiser}
    options = {"model": model, "device": device, "precision": precision}
    with console.progress() as progress:
        card = bench.train(
            method, data, backbone, out, work=work, steps=steps, seed=seed,
            options={k: v for k, v in options.items() if v is not None},
            settings={**settings(set_, "a training"), **{k: v for k, v in flags.items() if v is not None}},
            report=console.step_reporter(progress, f"train {method}"),
        )  # fmt: skip
        progress.finish(f"train {method}")
    if card:  # empty in all processes of several but the first
        console.result(card, json)
