"""The verbs of ``scrollbench world``: draw the embedded miniature, train its networks, check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.cli import console
from bench.cli.console import App
from bench.cli.options import Json, settings
from bench.errors import UsageError, near
from bench.reading import MOST

if TYPE_CHECKING:
    from bench.world.validate import Response

DRAW = 'scrollbench world render --caption "a photo of the sea by day, clear sky, one sun" --width 256 --out sea.png'

world_app = App("world", "ScrollWorld, the embedded miniature: draw it, train its networks, check its metrics.", DRAW)


@world_app.verb(DRAW)
def render(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    caption: Annotated[str | None, typer.Option("--caption", help="A caption in ScrollWorld's words.")] = None,
    scene: Annotated[str | None, typer.Option("--scene", help="A scene as JSON.")] = None,
    width: Annotated[int, typer.Option("--width", help="Pixels; the height is 32.")] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Decides all that the caption leaves open.")] = 0,
    copies: Annotated[int, typer.Option("--copies", help="How often to draw the unique thing; 1 is the truth.")] = 1,
    loop: Annotated[bool, typer.Option("--loop", help="Let the left and right edges meet.")] = False,
    json: Json = False,
) -> None:
    """Draw a caption or a scene, and print the truth about the picture."""
    console.result(bench.world.draw.draw(out, caption, scene, width, seed, copies, loop), json)


@world_app.verb("scrollbench world train world-vae --steps 200 --work build/world --out build/world-sd")
def train(
    name: Annotated[str, typer.Argument(help="A recipe of bench.world.recipes.")],
    work: Annotated[Path, typer.Option("--work", help="Checkpoints and rendered data; can be deleted.")] = Path(
        "build/world"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for weights and card; the package's, if empty.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Budget; the recipe's own by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Decides weights, data and noise.")] = 0,
    json: Json = False,
) -> None:
    """Train one of the miniature's networks from scratch. Seeded; the same command again resumes."""
    from importlib import import_module

    if name not in bench.world.recipes.RECIPES:
        raise UsageError(f"unknown training recipe {name!r}; {near(name, bench.world.recipes.RECIPES)}")
    where, folder = bench.world.recipes.RECIPES[name]
    module, _, attribute = where.partition(":")
    recipe = getattr(import_module(module), attribute)
    shipped = Path(__file__).parents[1] / "world" / "weights" / folder
    if out is None and (shipped / recipe.card).exists():
        raise UsageError(f"{shipped} holds trained weights already; give another folder with --out")
    from methods.training.loop import train as fit  # imports torch

    with console.progress() as progress:
        report = console.step_reporter(progress, f"train {name}")
        bank = bench.world.recipes.bank.load_bank(work / "bank")
        card = fit(recipe, name, work, out or shipped, bank=bank, steps=steps, seed=seed, report=report)
        progress.finish(f"train {name}")
    console.result(card, json)


@world_app.verb("scrollbench world verify --n 40", "verify")
def world_verify(
    n: Annotated[int, typer.Option("--n", min=1, help="Squares to read; below 100 the numbers say little.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Which scenes.")] = 0,
    json: Json = False,
) -> None:
    """Read fresh pictures back, sound and degraded, and report how well their truth and injected defects are found."""
    with console.progress() as progress:
        rows = bench.world.verify.verify(
            n,
            seed,
            progress,
            more={"autoencoder": bench.world.obedience.round_trip(bench.registry.find("backbones", "world-sd")())},
        )
    console.records(rows, json)


@world_app.verb("scrollbench world gates --backbone world-flux --n 100")
def gates(
    backbone: Annotated[
        str, typer.Option("--backbone", help="world-sd, world-flux, world-wan or world-llamagen.")
    ] = "world-sd",
    n: Annotated[int, typer.Option("--n", min=1, help="Pictures to make.")] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Which captions and noise.")] = 0,
    method: Annotated[str | None, typer.Option("--method", help="A method, to make panoramas, not squares.")] = None,
    width: Annotated[int, typer.Option("--width", min=32, help="Of panoramas, in px.")] = 256,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A knob of the method: NAME=VALUE. Repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Ask the base model for squares and count: exactly one thing where one is asked for, none in an empty sky."""
    draw = None
    if method is not None:
        draw = bench.world.obedience.scrolls(bench.registry.find("methods", method), width, settings(set_, "a method"))
    elif set_:
        raise UsageError("--set is for the knobs of --method; name one")
    asked = bench.registry.find("backbones", backbone)()
    console.records(bench.world.obedience.obedience(asked, n, seed, draw), json)


@world_app.verb("scrollbench world validate --n 8 --defect blur")
def validate(
    n: Annotated[int, typer.Option("--n", min=1, help="Panoramas at every strength.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST, help="Which renders.")] = 0,
    defect: Annotated[
        list[str] | None, typer.Option("--defect", help="Only defects whose name begins so; may be repeated.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only this metric; may be repeated.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for validity.csv (what is there is kept or replaced), .png and .md."),
    ] = None,
    json: Json = False,
) -> None:
    """Inject known defects of growing strength into rendered panoramas and print what every metric answers."""
    names = [d for d in bench.world.validate.DEFECTS if d.startswith(tuple(defect or ("",)))]
    if not names:
        raise UsageError(
            f"no defect begins with {', '.join(defect or ())!r}; known: {', '.join(bench.world.validate.DEFECTS)}"
        )
    with console.progress() as progress:
        progress.start("validate", bench.world.validate.total(names))
        rows = bench.world.validate.validate(n, seed, names, metric, advance=lambda: progress.advance("validate"))
        progress.finish("validate")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        bench.world.validity_page.write_responses(rows, out / "validity.csv")
        known = bench.world.validity_page.read_responses(out / "validity.csv")
        bench.world.validity_page.draw_page(known, out / "validity.png")
        (out / "validity.md").write_text(bench.world.validity_page.verdict_table(known), encoding="utf-8")
        console.note(f"wrote validity.csv, validity.png and validity.md in {out}")
    console.records([r.to_dict() if json else _line(r) for r in rows], json)


def _line(response: Response) -> dict[str, Any]:
    means = zip(response.strengths, response.means)
    return {
        "defect": response.defect, "metric": f"{response.metric}@{response.view}", "verdict": response.verdict,
        "spearman": response.spearman, "detects": response.detects,
        "means": "  ".join(f"{s:g}: {'-' if m is None else f'{m:.3g}'}" for s, m in means),
    }  # fmt: skip


@world_app.verb("scrollbench world figure --out repetition.png")
def figure(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("repetition.png"),
    prompt: Annotated[str | None, typer.Option("--prompt", help="The prompt whose pictures are shown.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")] = None,
    json: Json = False,
) -> None:
    """Draw how the number of suns grows with the canvas, from the leaderboard of the suite miniature-width."""
    console.records(bench.report.figure.draw_repetition(bench.Store(store), out, prompt_id=prompt), json)
