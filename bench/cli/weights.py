"""The verbs of ``scrollbench weights``: list, fetch and verify the models that backbones and metrics need."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench
from bench.cli import console
from bench.cli.console import App
from bench.cli.options import Json
from bench.errors import Exit

if TYPE_CHECKING:
    from bench.extractors.weights.manifest import Presence

weights_app = App(
    "weights",
    "Models that backbones and metrics need: list them, fetch them, check them.",
    "scrollbench weights list",
)
Names = Annotated[list[str], typer.Argument(help="Models by name, or suites by name or TOML file.")]


@weights_app.verb("scrollbench weights list", "list")
def weights_list(
    suite: Annotated[str | None, typer.Argument(help="Only what this suite needs; or one model.")] = None,
    json: Json = False,
) -> None:
    """List the models with size, licence and what of them is here. Asks no network."""
    models = (
        list(bench.extractors.weights.manifest.load_manifest().values())
        if suite is None
        else bench.catalogue.needs.choose([suite])
    )
    found = [bench.extractors.weights.manifest.state(model) for model in models]
    _show([_entry(f) if json else _row(f) for f in found], json, f"{suite} needs no models from outside")


@weights_app.verb("scrollbench weights fetch dinov2-vitb14 --dry-run", "fetch")
def weights_fetch(
    names: Names,
    mirror: Annotated[
        Path | None, typer.Option("--mirror", help="Take the files from this folder, not from the network.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be fetched.")] = False,
    json: Json = False,
) -> None:
    """Fetch models into the caches of their libraries and check every file; make what is made of them (LlamaGen).

    The same command again resumes.
    """
    models = bench.catalogue.needs.choose(names)
    if not dry_run:
        done = [_row(f) for f in bench.extractors.weights.fetch.fetch(models, mirror, console.note)]
        for suite in (n for n in names if n not in bench.extractors.weights.manifest.load_manifest()):
            bench.catalogue.needs.make_folders(bench.load_suite(suite), console.note)
        _show(done, json, f"{', '.join(names)}: no models from outside are needed")
        return
    absent = [f for f in map(bench.extractors.weights.manifest.state, models) if f.state != "present"]
    _show([_row(f) for f in absent], json, "nothing to fetch")
    home = next(
        p
        for p in (
            bench.extractors.weights.manifest.hub_cache(),
            *bench.extractors.weights.manifest.hub_cache().absolute().parents,
        )
        if p.exists()
    )
    wanted, free = sum(f.model.size_gb for f in absent), shutil.disk_usage(home).free / 1e9
    console.note(f"{wanted:.1f} GB at most to fetch, {free:.1f} GB free at {home}")


@weights_app.verb("scrollbench weights verify", "verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Models or suites; all that is here if empty.")] = None,
    json: Json = False,
) -> None:
    """Compute the digests of all files that are here and compare. Exit code 1 if one is damaged."""
    found = [
        bench.extractors.weights.manifest.state(model)
        for model in (
            bench.catalogue.needs.choose(names) if names else bench.extractors.weights.manifest.load_manifest().values()
        )
    ]
    rows, damaged = [], []
    for f in found if names else [f for f in found if f.files]:
        if f.files:
            console.note(f"{f.model.name}: checking {len(f.files)} files")
        files = list(bench.extractors.weights.digests.check(f))
        bad = [c for c in files if c.state == "damaged"]
        damaged += [bench.extractors.weights.digests.complaint(f.model, c) for c in bad]
        rows.append({
            "name": f.model.name, "state": "damaged" if bad else f.state, "files": len(files),
            "unchecked": sum(c.state == "unchecked" for c in files), "damaged": [str(c.path) for c in bad],
            "lacking": list(f.lacking),
        })  # fmt: skip
    _show(rows, json, "no models are here")
    for line in damaged:
        console.note(line)
    if damaged:
        raise typer.Exit(Exit.FAILED)
    if any(row["state"] != "present" for row in rows):
        raise typer.Exit(Exit.PREREQUISITE)


def _show(rows: Sequence[dict[str, Any]], json: bool, none: str) -> None:
    if rows or json:
        console.records(rows, json)
    else:
        console.note(none)


def _row(found: Presence) -> dict[str, Any]:
    m = found.model
    return {
        "name": m.name, "role": m.role, "state": found.state, "GB": m.size_gb, "licence": m.licence,
        "gated": "gated" if m.gated else "", "repository": m.repository,
    }  # fmt: skip


def _entry(found: Presence) -> dict[str, Any]:
    return {
        **found.model.model_dump(), "state": found.state, "folder": str(found.folder), "lacking": found.lacking,
        "fix": "" if found.state == "present" else found.fix,
    }  # fmt: skip
