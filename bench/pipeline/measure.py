"""Numbers of any folder of pictures: no suite, no ids, no manifest. What each number looked at is said beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench import extractors, views
from bench.device import choose as choose_device
from bench.errors import UsageError, near
from bench.metrics.sample import Sample
from bench.progress import Progress
from bench.reading import read_csv
from bench.registry import Metric, find
from bench.stats.intervals import told
from bench.store.pictures import picture_files, read_picture
from bench.types import Canvas, Prompt

OF_PICTURES, AGAINST = ("sharpness", "gsd-dino", "gsd-lpips"), ("kid", "fid")  # where no metric is named
SETS = ("features", "reference")  # what a distance between two folders is made of


@dataclass(frozen=True)
class Reading:
    """One number of a folder.

    Attributes:
        number, value: the mean over pictures, or the distance of the whole set; None where it is undefined.
        low, high: the 95 % interval of the mean over pictures; None for sets and where so few cannot tell.
        n: pictures that have it.
        better: lower, higher, zero, one or none.
        network: what looked, empty for plain pixels.
        looks: crops and their size, the network's own size, the share of pixels seen.
    """

    number: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    better: str
    network: str
    looks: str


def evaluate(
    folder: Path | str, against: Path | str | None = None, metrics: Sequence[str] = (),
    prompts: Mapping[str, str] | Path | str | None = None, *, tier: str = "full", device: str | None = None,
    progress: Progress | None = None,
) -> list[Reading]:  # fmt: skip
    """Measure the pictures of a folder, of any sizes.

    Args:
        folder: pictures, in subfolders too.
        against: another folder, for distances between sets (kid, fid).
        metrics: NAME, NAME@VIEW, NAME[EXTRACTOR] or NAME[EXTRACTOR]@VIEW; by default sharpness, gsd-dino and gsd-lpips,
            with ``against`` kid and fid too.
        prompts: file name (below the folder) -> prompt, or a CSV file with the columns ``file`` and ``prompt``, for
            metrics that read it.
        tier: whose networks look where a metric names none; ``miniature`` has all it needs in this package.

    Raises:
        UsageError: no pictures or prompts where they are needed, an unknown metric, no second folder to compare with.
        PrerequisiteError: weights are missing; the message holds the command that fetches them.
    """
    chosen = [_use(text, tier) for text in metrics or (*OF_PICTURES, *(AGAINST if against else ()))]
    for metric, _, _ in chosen:
        if metric.scope == "set" and (metric.inputs != SETS or against is None):
            raise UsageError(f"{metric.name} compares two sets of pictures: name the other folder with --against")
        if metric.prompted and prompts is None:
            raise UsageError(f"{metric.name} reads prompts: --prompts FILE.csv with the columns file and prompt")
    for _, _, ref in chosen:
        if ref:
            extractors.find(ref)  # what is missing is said before anything is loaded
    files = _pictures(Path(folder))
    texts = _prompts(prompts, Path(folder), files) if prompts is not None else {}
    others = _pictures(Path(against)) if against is not None else []
    found: list[Reading] = []
    load = cache(lambda ref: extractors.load(ref, choose_device(device)))
    if progress:
        progress.start("measure", len(chosen))
    for metric, view, ref in chosen:
        network = load(ref) if ref else None
        if metric.scope == "set":
            found += _of_sets(metric, view, network, files, others)
        else:
            found += _of_pictures(metric, view, network, files, texts)
        if progress:
            progress.advance("measure", 1, metric.name)
    if progress:
        progress.finish("measure")
    return found


def _use(text: str, tier: str) -> tuple[Metric, str, str | None]:
    """The metric, where it looks, and the extractor it looks through."""
    parts = re.fullmatch(r"((?:.+\.py@)?[^\[\]@]+)(?:\[(.+)\])?(?:@([a-z][\w-]*(?::\d+)?))?", text)
    if not parts:
        raise UsageError(f"--metric takes NAME, NAME@VIEW or NAME[EXTRACTOR]@VIEW, got {text!r}")
    metric = find("metrics", parts[1])
    if not isinstance(metric, Metric):
        raise UsageError(f"{parts[1]!r} is not a metric: decorate it with bench.registry.metric")
    if metric.extractor == "oracle":
        raise UsageError(f"{metric.name} needs the known truth of ScrollWorld, which pictures of yours do not have")
    view = parts[3] or metric.view
    views.parse(view)
    return metric, view, (parts[2] or extractors.default(metric.extractor, tier)) if metric.extractor else None


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder of pictures")
    files = picture_files(folder)
    if not files:
        raise UsageError(f"no picture in {folder} or its subfolders")
    return files


def _prompts(given: Mapping[str, str] | Path | str, folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    if not isinstance(given, Mapping):
        table = read_csv(Path(given))
        given = {row.values.get("file", ""): row.values.get("prompt", "") for row in table.rows}
    texts = {path: given.get(str(path.relative_to(folder)), given.get(path.name, "")) for path in files}
    if lacking := [path.name for path, text in texts.items() if not text]:
        raise UsageError(f"no prompt for {len(lacking)} pictures, {lacking[0]} first; {near(lacking[0], given)}")
    return texts


def _of_pictures(
    metric: Metric, view: str, network: Any, files: Sequence[Path], texts: Mapping[Path, str]
) -> Iterator[Reading]:
    values: dict[str, list[float]] = {name: [] for name, way in metric.values.items() if way != "none"}
    canvases = []
    for turn, path in enumerate(files):
        rgb = read_picture(path)
        canvas = Canvas(rgb.shape[1], rgb.shape[0])
        canvases.append(canvas)
        prompt = Prompt(path.stem, texts.get(path, ""))
        sample = Sample(rgb, prompt, canvas, None, network, view, image_id=str(path), turn=turn)
        made: dict[str, list[tuple[int | None, float | None]]] = {}
        for value in metric.fn(sample, **metric.resolve({})):
            made.setdefault(value.name, []).append((value.index, value.value))
        for name in values:
            whole = [v for index, v in made.get(name, []) if index is None] or [v for _, v in made.get(name, [])]
            if whole and all(v is not None and np.isfinite(v) for v in whole):
                values[name].append(float(np.mean([v for v in whole if v is not None])))
    looks = _looks(view, canvases, network)
    for name, sample_of in values.items():
        low, high = told({name: sample_of}, metric.range).get(name, (None, None))
        mean = float(np.mean(sample_of)) if sample_of else None
        yield Reading(name, mean, low, high, len(sample_of), metric.values[name], _name(network), looks)


def _of_sets(
    metric: Metric, view: str, network: Any, files: Sequence[Path], others: Sequence[Path]
) -> Iterator[Reading]:
    rows, canvases = [], []
    for side in (files, others):
        features = []
        for turn, path in enumerate(side):
            rgb = read_picture(path)
            canvases.append(Canvas(rgb.shape[1], rgb.shape[0]))
            drawn_by = views.drawn_by(view, path.stem, turn)
            features.append(network.embed(views.cuts(rgb, view, canvases[-1], drawn_by)))
        rows.append(np.concatenate(features).astype(np.float64))
    looks = f"{_looks(view, canvases, network)}; {len(rows[0])} crops against {len(rows[1])}"
    for name, value in metric.fn(*rows, **metric.resolve({})).items():
        if metric.values[name] != "none":
            defined = float(value) if np.isfinite(value) else None
            yield Reading(name, defined, None, None, len(files), metric.values[name], _name(network), looks)


def _name(network: Any) -> str:
    return str(network.name) if network is not None else ""


def _looks(view: str, canvases: Sequence[Canvas], network: Any) -> str:
    """What was cut from pictures of these sizes, what the network makes of it, and how much it sees."""
    said = []
    for canvas in dict.fromkeys(canvases):
        boxes = views.boxes(view, canvas)
        sizes = ", ".join(dict.fromkeys(f"{box.w}x{box.h}" for box in boxes)) or f"{canvas.width}x{canvas.height}"
        said.append(f"{len(boxes) or 1} of {sizes} px from {canvas.width}x{canvas.height}")
    shown = said if len(said) <= 3 else [*said[:3], f"and {len(said) - 3} other sizes"]
    side = next((s for name in ("size", "side") if isinstance(s := getattr(network, name, None), int)), None)
    least = min(views.seen(view, canvas) for canvas in canvases)
    seen = f"; sees {100 * least:.0f} %" if least < 0.995 else ""
    return f"{view}: {'; '.join(shown)}{f', resized to {side}x{side}' if side else ''}{seen}"
