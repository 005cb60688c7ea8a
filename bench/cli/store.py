"""The verbs of ``scrollbench store``: verify, prune, index, copy, path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli import console
from bench.cli.console import App
from bench.cli.options import Json, StoreAt, opened

store_app = App(
    "store", "Look after the store: pictures, records and the leaderboard made of them.", "scrollbench store verify"
)


@store_app.verb("scrollbench store verify")
def verify(
    store: StoreAt = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set unreadable records aside (records/*.bad), keep all others.")
    ] = False,
    json: Json = False,
) -> None:
    """Read every record and every picture and report what is damaged."""
    report = opened(store).verify(repair=repair)
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
    console.result(console.plain(opened(store).prune(dry_run=dry_run)), json)


@store_app.verb("scrollbench store index")
def index(store: StoreAt = None, json: Json = False) -> None:
    """Build the leaderboard again from the records."""
    console.result({"index": str(bench.build(opened(store)))}, json)


@store_app.verb("scrollbench store copy 0123456789abcdef01234567 --out scroll.tif")
def copy(
    image: Annotated[str, typer.Argument(help="The picture's id, as records and the leaderboard have it.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.png, or FILE.tif for a tiled BigTIFF.")],
    store: StoreAt = None,
    json: Json = False,
) -> None:
    """Write a picture out of the store, where viewers look for it."""
    console.result({"written": str(opened(store).copy_image(image, out))}, json)


@store_app.verb("scrollbench store path")
def path(store: StoreAt = None, json: Json = False) -> None:
    """Print where the store and its leaderboard are."""
    root = Path(opened(store).root)
    console.result({"store": str(root), "leaderboard": str(root / bench.store.index.NAME)}, json)
