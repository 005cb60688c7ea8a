"""The command line: thin calls of documented functions. Data goes to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 something must be installed or fetched, 5 work is left undone.
Heavy libraries are imported inside the verbs that need them, so that help and listings are instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import console
from bench.console import App, selection
from bench.errors import UsageError, near

if TYPE_CHECKING:
    from bench.store import Store

DRAW = 'scrollbench world render --caption "a photo of the sea by day, clear sky, one sun" --width 256 --out sea.png'

main = App(
    "scrollbench",
    "Benchmark of panoramic and long-scroll text-to-image generation.",
    "scrollbench run --suite miniature --limit 2",
)
store_app = main.group(
    "store", "Look after the store: pictures, records and the leaderboard made of them.", "scrollbench store verify"
)
world_app = main.group("world", "ScrollWorld, the embedded miniature: draw it, train it, verify what reads it.", DRAW)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try pictures again that failed too often before.")]
StoreAt = Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")]


def _store(root: Path | None) -> Store:
    from bench.store import Store

    return Store(root)


@main.verb("scrollbench doctor --suite miniature")
@selection
def doctor(chosen: console.Selection, json: Json = False) -> None:
    """Say what can run here, and the one command that mends each thing that cannot."""
    from bench.doctor import examine, ready

    checks = examine(chosen.suite, chosen.store)
    console.records([vars(c) for c in checks], json)
    if not ready(checks):
        console.note(f"suite {chosen.suite.ref} cannot run here yet; see the rows marked missing")
        raise typer.Exit(3)


@main.verb("scrollbench list methods", "list")
def list_kind(
    kind: Annotated[
        str, typer.Argument(help="methods, metrics, backbones, suites, prompts, views, extractors, references")
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
    """Show all that is known of a method, metric, backbone, suite, prompt set, view, extractor or reference."""
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
def plan(chosen: console.Selection, json: Json = False) -> None:
    """Say what a run would do: what is wanted, what is done, what was given up. Changes nothing."""
    from bench.plan import make_plan

    console.records(console.plan_rows(make_plan(chosen.suite, chosen.store, chosen.shard)), json)


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


@main.verb("scrollbench run --suite miniature --limit 2")
@selection
def run(chosen: console.Selection, retry: Retry = False, json: Json = False) -> None:
    """Generate, score, and print the leaderboard; writes the DuckDB file and a contact sheet of the pictures."""
    from bench.board import board as table
    from bench.board import boards, contact_sheet
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
    sheet = contact_sheet(store, suite, store.root / f"{suite.name}-contact.png")
    if json:
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
    else:
        console.show(table(store, suite, console.width()))
        console.say(f"leaderboard    {index}\ncontact sheet  {sheet}")
    console.require_complete(made, scored)


@main.verb("scrollbench board --suite miniature")
@selection
def board(chosen: console.Selection, json: Json = False) -> None:
    """Print the leaderboard of a suite as it stands."""
    from bench.board import board as table
    from bench.board import boards

    if json:
        console.emit([console.board_json(b) for b in boards(chosen.store, chosen.suite)])
    else:
        console.show(table(chosen.store, chosen.suite, console.width()))


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


@world_app.verb(DRAW)
def render(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    caption: Annotated[str | None, typer.Option("--caption", help="A caption in ScrollWorld's words.")] = None,
    scene: Annotated[str | None, typer.Option("--scene", help="A scene as JSON.")] = None,
    width: Annotated[int, typer.Option("--width", help="Pixels; the height is 32.")] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Decides all that the caption leaves open.")] = 0,
    copies: Annotated[int, typer.Option("--copies", help="How often to draw the unique thing; 1 is the truth.")] = 1,
    loop: Annotated[bool, typer.Option("--loop", help="Let the left and right edges meet.")] = False,
    json: Json = False,
) -> None:
    """Draw a caption or a scene, and print the truth about the picture."""
    from bench.world.draw import draw

    console.result(draw(out, caption, scene, width, seed, copies, loop), json)


@world_app.verb("scrollbench world train world-vae --steps 200 --work build/world --out build/world-sd")
def train(
    name: Annotated[str, typer.Argument(help="A recipe of bench.world.recipes.")],
    work: Annotated[Path, typer.Option("--work", help="Checkpoints and rendered data; can be deleted.")] = Path(
        "build/world"
    ),
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for weights and card; the package's, if empty.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Budget; the recipe's own by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides weights, data and noise.")] = 0,
    json: Json = False,
) -> None:
    """Train one of the miniature's networks from scratch. Seeded; the same command again resumes."""
    from importlib import import_module

    from bench.world.recipes import RECIPES

    if name not in RECIPES:
        raise UsageError(f"unknown training recipe {name!r}; {near(name, RECIPES)}")
    where, folder = RECIPES[name]
    module, _, attribute = where.partition(":")
    recipe = getattr(import_module(module), attribute)
    shipped = Path(__file__).parent / "world" / "weights" / folder
    if out is None and (shipped / recipe.card).exists():
        raise UsageError(f"{shipped} holds trained weights already; give another folder with --out")
    from bench.world.train import train as fit

    with console.progress() as progress:
        report = console.step_reporter(progress, f"train {name}")
        card = fit(recipe, name, work, out or shipped, steps=steps, seed=seed, report=report)
        progress.finish(f"train {name}")
    console.result(card, json)


@world_app.verb("scrollbench world verify --n 40", "verify")
def world_verify(
    n: Annotated[int, typer.Option("--n", help="Squares to read; below 100 the numbers say little.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Which scenes.")] = 0,
    json: Json = False,
) -> None:
    """Read fresh pictures back, sound and degraded, and report how well their truth and injected defects are found."""
    from bench.world.verify import verify as examine

    with console.progress() as progress:
        rows = examine(n, seed, progress)
    console.records(rows, json)
