"""Bringing in pictures made elsewhere, so that they are scored and stand on the board beside the methods'.

A manifest says which file answers which prompt. Nothing is believed beyond that: the records call such a picture
``adopted``, know no cost of it, and mark lossy sources and resizing. What a manifest tells of closed models (``ABOUT``)
is kept with the picture as it was told. All files are checked before the first is taken.
"""

from __future__ import annotations

import csv
import datetime
import io
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from bench.errors import UsageError, near
from bench.ids import digest, file_digest, recipe_id
from bench.pipeline.environment import environment
from bench.pipeline.plan import recipe_record
from bench.reading import is_file, read_csv, refuse, shown
from bench.store import Store
from bench.store.ledger import asked_id
from bench.store.pictures import nothing_on, picture_files, read_head, read_picture
from bench.store.records import Record
from bench.suites.suite import Suite
from bench.suites.values import Part
from bench.types import Canvas, Prompt, Recipe

ABOUT = ("model", "date", "cost_usd")  # of pictures from an API: the model's id, YYYY-MM-DD, dollars a picture
COLUMNS = ("file", "prompt_id", "seed", "part", *ABOUT)
RATIO = 0.01  # how far an aspect ratio may be from the canvas's: 1 %, a few pixels of a model's own rounding


@dataclass(frozen=True)
class AdoptResult:
    """How many pictures were taken in, and how many were there already."""

    label: str
    adopted: int
    known: int


@dataclass(frozen=True)
class Row:
    """One checked line of a manifest."""

    path: Path
    prompt: Prompt
    seed: int
    part: Part
    about: Mapping[str, str] = field(default_factory=dict)


def adopt(folder: Path, suite: Suite, label: str, manifest: Path, store: Store, resize: bool = False) -> AdoptResult:
    """Copy the pictures of a manifest into the store as a method of a suite. The same call again changes nothing.

    Args:
        folder: where the manifest's files are.
        suite: whose prompts they answer; sizes must be its canvases', or with ``resize`` their aspect ratios.
        label: what they are called on the board.
        manifest: CSV with columns file, prompt_id, and where the suite has several: seed, part; ``ABOUT`` as known.
        store: where they go.
        resize: make pictures of another size the canvas's, by Lanczos filtering: flag ``resized``, and the recipe says
            from what size. Numbers of seams, blur and repetition see the filter too.

    Raises:
        UsageError: a label that a method of the suite has, or anything wrong with the manifest or a file; all
            faults are named at once, and then nothing is taken.
        StoreError: the store cannot be written.
    """
    taken = {use.label for use in suite.methods}
    if label in taken or not re.fullmatch(r"[\w.:+-]+", label):
        raise UsageError(
            f"--as needs a name of letters, digits and ._:+- that no method of suite {suite.ref} has "
            f"({', '.join(sorted(taken))}), got {label!r}"
        )
    rows = read_manifest(manifest, folder, suite)
    problems = [p for row in rows if (p := _wrong(row, resize))]
    refuse(problems, f"{manifest}: nothing was adopted.")
    ledger, run = store.ledger(), uuid.uuid4().hex[:12]
    new = 0
    for row in rows:
        rgb, size = _fitted(read_picture(row.path), row.part.canvas)
        image_id = store.write_image(rgb)
        recipe = _recipe(row, label, {"image_id": image_id, **row.about, **({"resized_from": size} if size else {})})
        cell: Record = {
            "suite": suite.ref, "suite_digest": suite.digest, "tier": suite.tier, "part": row.part.name, "label": label,
            "recipe_id": recipe_id(recipe), "prompt_set": f"{row.part.prompts.name}@{row.part.prompts.version}",
            "prompt_id": row.prompt.id, "seed": row.seed, "preset": None, "control": False, "optimises": [],
            "adopted": True, "asked": asked_id(row.prompt), "turn": _turn(row, suite),
            "sampler": digest(["adopted", label]),
        }  # fmt: skip
        if cell["recipe_id"] not in ledger.images:
            if not new:
                store.append(_run(run, suite, manifest))
            marks = ["lossy-source"] * read_head(row.path).lossy + ["resized"] * bool(size)
            flags = ["adopted", *marks, *nothing_on(rgb)]
            store.append(ledger.replacing({
                "kind": "image", **cell, "recipe": recipe_record(recipe), "run_id": run, "image_id": image_id,
                "width": rgb.shape[1], "height": rgb.shape[0], "flags": flags, "cost": None,
            }))  # fmt: skip
            new += 1
        if not ledger.holds(member := {"kind": "member", **cell}):
            store.append(ledger.replacing(member))
    return AdoptResult(label, new, len(rows) - new)


def read_manifest(manifest: Path, folder: Path, suite: Suite) -> list[Row]:
    """The lines of a manifest, looked up in the suite; files are only checked for being there.

    Raises:
        UsageError: all wrong lines at once, with line and column.
    """
    table = read_csv(manifest, COLUMNS, ("file", "prompt_id"))
    rows: list[Row] = []
    problems = list(table.problems)
    seen: dict[tuple[str, str, int], int] = {}
    for line in table.rows:
        try:
            row = _look_up(line.values, folder, suite)
        except UsageError as error:
            problems.append(f"{line.where}, {error}")
            continue
        key = (row.part.name, row.prompt.id, row.seed)
        if key in seen:
            problems.append(f"{line.where}: prompt {key[1]} seed {key[2]} is in line {seen[key]} already")
        seen[key] = line.line
        rows.append(row)
    if not rows and not problems:
        problems.append(f"{manifest} has no lines below its header")
    refuse(problems, f"{manifest}: nothing was adopted.")
    return rows


def propose(folder: Path, suite: Suite) -> tuple[str, list[str]]:
    """A manifest (CSV text) made by matching file names, and the files that match nothing or cannot be read, with why.

    A file answers the longest prompt id in its name; its seed is the number after ``seed``, or the last number
    that is not part of the id; its part is the one whose canvas has its size.
    """
    prompts = {p.id: None for part in suite.parts for p in part.prompts.prompts}
    out, lost = io.StringIO(), []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS[:4])
    for path in picture_files(folder):
        name, where = path.stem, str(path.relative_to(folder))
        ids = [i for i in prompts if re.search(rf"(?<![a-z0-9]){re.escape(i)}(?![a-z0-9])", name)]
        best = max(ids, key=len, default=None)
        try:
            head = read_head(path)
        except UsageError as error:
            lost.append(f"{where}: {error}")
            continue
        sizes = (p for p in suite.parts if (p.canvas.width, p.canvas.height) == (head.width, head.height))
        part = next(sizes, None)
        if best is None or part is None:
            size = f"no part is {head.width}x{head.height}"
            lost.append(f"{where}: {size if best else 'no id of a prompt is in its name'}")
            continue
        rest = name.replace(best, " ")
        told = re.search(r"seed\D?(\d+)", rest) or re.search(r"(\d+)\D*$", rest)
        writer.writerow([where, best, told[1] if told else suite.seeds[0], part.name])
    return out.getvalue(), lost


def _look_up(line: Mapping[str, str], folder: Path, suite: Suite) -> Row:
    parts = {p.name: p for p in suite.parts}
    named = line.get("part") or (next(iter(parts)) if len(parts) == 1 else "")
    if named not in parts:
        raise UsageError(f"column part: suite {suite.ref} has no part {shown(named)}; {near(named, parts)}")
    part = parts[named]
    prompts = {p.id: p for p in part.prompts.prompts}
    wanted = line["prompt_id"]
    if wanted not in prompts:
        raise UsageError(f"column prompt_id: part {named} asks for no prompt {shown(wanted)}; {near(wanted, prompts)}")
    seed = line.get("seed") or (str(suite.seeds[0]) if len(suite.seeds) == 1 else "")
    if seed not in map(str, suite.seeds):
        known = ", ".join(map(str, suite.seeds))
        raise UsageError(f"column seed: suite {suite.ref} has seeds {shown(known)[1:-1]}, got {shown(seed)}")
    path = folder / line["file"]
    if not line["file"] or not is_file(path):
        raise UsageError(f"column file: no file {shown(str(path))[1:-1]}")
    return Row(path, prompts[wanted], int(seed), part, _about(line))


def _about(line: Mapping[str, str]) -> dict[str, str]:
    """What is told of a closed model; empty cells say nothing."""
    about = {name: line[name] for name in ABOUT if line.get(name)}
    if date := about.get("date"):
        try:
            about["date"] = datetime.date.fromisoformat(date).isoformat()
        except ValueError:
            raise UsageError(f"column date: expected a day as 2026-01-31, got {shown(date)}") from None
    if (cost := about.get("cost_usd")) and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", cost):
        raise UsageError(f"column cost_usd: expected dollars as 0.19, got {shown(cost)}")
    return about


def _wrong(row: Row, resize: bool) -> str:
    """What is wrong with a file, empty if nothing is."""
    canvas = row.part.canvas
    try:
        head = read_head(row.path)
        alike = abs(head.width * canvas.height / (head.height * canvas.width) - 1) <= RATIO
        if (head.width, head.height) != (canvas.width, canvas.height) and not (resize and alike):
            what = f"{row.path} is {head.width}x{head.height}, part {row.part.name} is {canvas}"
            hint = "; its aspect ratio is the canvas's, and --resize does it by Lanczos filtering, recorded and marked"
            return f"{what}: make it that size yourself, because how decides the scores{hint if alike else ''}"
        read_picture(row.path)
    except UsageError as error:
        return str(error)
    return ""


def _fitted(rgb: np.ndarray, canvas: Canvas) -> tuple[np.ndarray, str]:
    """A picture in the canvas's size, and the size that it had, empty where it is the same."""
    height, width = rgb.shape[:2]
    if (width, height) == (canvas.width, canvas.height):
        return rgb, ""
    made = Image.fromarray(rgb).resize((canvas.width, canvas.height), Image.Resampling.LANCZOS)
    return np.asarray(made), f"{width}x{height}"


def _turn(row: Row, suite: Suite) -> int:
    """The place of a picture among those of its part and label."""
    prompts = row.part.prompts.prompts
    return suite.seeds.index(row.seed) * len(prompts) + prompts.index(row.prompt)


def _recipe(row: Row, label: str, told: Mapping[str, str]) -> Recipe:
    """Stands for work we have not seen: the picture itself, and what is told of it, are its parameters."""
    p = row.prompt
    return Recipe(p.id, p.text, p.negative, row.part.canvas, row.seed, f"adopted:{label}", "1", "", told)


def _run(run: str, suite: Suite, manifest: Path) -> Record:
    return {
        "kind": "run", "run_id": run, "suite": suite.ref, "suite_digest": suite.digest, "status": "finished",
        "argv": sys.argv, "environment": environment({}), "manifest": file_digest(manifest),
    }  # fmt: skip
