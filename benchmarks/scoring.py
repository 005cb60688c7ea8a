"""FID, KID and Inception Score of one folder of pictures against another: our scoring against torch-fidelity.

Both read PNG files of the same pixels with the same random Inception. Ours works on a store that has adopted the
pictures, which is not timed. Every round starts without any feature or score, and loads the network.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.extractors import NAMES
from bench.store import Store
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from benchmarks.timing import Report, Settings, clocked, counted, ratio, rounds, stopwatch
from oracles import materials  # puts the tests' folder, where the pictures are made, on the path

ROUNDS = 3
PICTURES, SIDE = 32, 256
SUBSETS, SPLITS = 20, 4
TOLERANCE = 1e-4  # of a number
SUITE = """
name = "perf-scores"
version = "1"
tier = "full"
parts = [{{ name = "squares", width = {side}, height = {side}, prompts = "prompts.jsonl" }}]
references = {{ others = {{ kind = "folder", path = "others" }} }}
[[metrics]]
ref = "fid"
view = "whole"
extractor = "inception"
reference = "others"
[[metrics]]
ref = "kid"
view = "whole"
extractor = "inception"
reference = "others"
set = {{ subsets = {subsets}, subset_size = {size} }}
[[metrics]]
ref = "is"
view = "whole"
extractor = "inception"
set = {{ splits = {splits} }}
"""
NUMBERS = {  # metric -> our number, torch-fidelity's, and what it is for pictures that are all alike
    "fid": ("fid", "frechet_inception_distance", 0),
    "kid": ("kid-subset-mean", "kernel_inception_distance_mean", 0),
    "is": ("is-split-mean", "inception_score_mean", 1),
}


def inception_class() -> Any:
    """The network of both sides."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3


@dataclass(frozen=True)
class Scored:
    """Seconds of scoring, those of them inside the Inception, and the numbers under each side's own names."""

    seconds: float
    inside: float
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Material:
    """Two folders of pictures, a suite about them, a store that has adopted the first, and a random Inception."""

    root: Path
    pictures: int

    @property
    def inception(self) -> Path:
        """The weights file, under the name and in the place where the official one would be."""
        return self.root / "torch" / "hub" / "checkpoints" / NAMES["inception"].file

    def suite(self, metrics: Sequence[str] = ()) -> Suite:
        """The suite, or some of its metrics."""
        return load_suite(self.root / "perf.toml", {"metrics": list(metrics)})


def prepare(root: Path, pictures: int, side: int = SIDE) -> Material:
    """Write the pictures (as the checks against the original packages make them), the weights and the store."""
    from PIL import Image

    from bench.pipeline.adopt import adopt
    from tests.support import tiny

    # One set in many lights, or its Inception Score would be 1; the other in one, or both would be nearly the same set.
    lights = {"ours": np.linspace(0.1, 1.0, pictures), "others": np.full(pictures, 0.7)}
    for seed, (folder, light) in enumerate(lights.items()):
        (root / folder).mkdir(parents=True)
        for i, rgb in enumerate(tiny.pictures(pictures, side, side, seed)):
            Image.fromarray((light[i] * rgb).astype(np.uint8)).save(root / folder / f"p{i:05}.png")
    names = [p.stem for p in sorted((root / "ours").iterdir())]
    prompts = ({"id": n, "text": f"picture {n}", "theme": "none"} for n in names)
    (root / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts), encoding="utf-8")
    (root / "manifest.csv").write_text("file,prompt_id\n" + "".join(f"{n}.png,{n}\n" for n in names), encoding="utf-8")
    # Subsets are whole sets in other orders: our reference's rows go by ids, theirs by names of files.
    told = {"side": side, "subsets": SUBSETS, "size": pictures, "splits": SPLITS}
    (root / "perf.toml").write_text(SUITE.format(**told), encoding="utf-8")
    material = Material(root, pictures)
    material.inception.parent.mkdir(parents=True)
    materials.inception(material.inception)
    adopt(root / "ours", material.suite(), "adopted", root / "manifest.csv", Store(root / "store"))
    return material


def ours(material: Material, device: str, metrics: Sequence[str] = ()) -> Scored:
    """Score the pictures by all or some metrics, in a copy of the store that nothing has been scored in."""
    from bench.pipeline.score import score

    fresh = material.root / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(material.root / "store", fresh / "store")
    # A path not seen before, so that the weights are hashed as in a new process.
    home = fresh / f"torch-{time.monotonic_ns()}"
    shutil.copytree(material.root / "torch", home, copy_function=os.link)
    store, suite = Store(fresh / "store"), material.suite(metrics)
    with patch.dict(os.environ, TORCH_HOME=str(home)), stopwatch([(inception_class(), "forward")], device) as inside:
        seconds = clocked(lambda: score(suite, store, device=device), device)
    records = [r for r in store.records() if r["kind"] == "set_score"]
    return Scored(seconds, sum(inside), {name: value for r in records for name, value in r["values"].items()})


def theirs(material: Material, device: str, batch: int) -> Scored:
    """The same by torch-fidelity, without its cache."""
    from torch_fidelity import calculate_metrics

    said: dict[str, float] = {}

    def work() -> None:
        said.update(calculate_metrics(
            input1=str(material.root / "ours"), input2=str(material.root / "others"), batch_size=batch,
            cuda=device.startswith("cuda"), isc=True, fid=True, kid=True, isc_splits=SPLITS, kid_subsets=SUBSETS,
            kid_subset_size=material.pictures, feature_extractor_weights_path=str(material.inception),
            cache=False, verbose=False,
        ))  # fmt: skip

    with warnings.catch_warnings(), stopwatch([(inception_class(), "forward")], device) as inside:
        warnings.simplefilter("ignore")
        seconds = clocked(work, device)
    return Scored(seconds, sum(inside), said)


def compared(mine: Mapping[str, float], said: Mapping[str, float]) -> dict[str, tuple[float, float, float]]:
    """By metric: our number, torch-fidelity's, and their difference relative to how far theirs is from its floor."""
    pairs = {metric: (mine[a], said[b], floor) for metric, (a, b, floor) in NUMBERS.items()}
    return {metric: (a, b, abs(a - b) / abs(b - floor)) for metric, (a, b, floor) in pairs.items()}


def scoring(told: Settings) -> Report:
    """Seconds of our scoring over those of torch-fidelity, at our batch (one picture a call) and at its default."""
    n = told.pictures or (8 if told.quick else PICTURES)
    material = prepare(told.work, n, 64 if told.quick else SIDE)
    sides: dict[str, Callable[[], Scored]] = {
        "ours": lambda: ours(material, told.device),
        "torch-fidelity, batch 1": lambda: theirs(material, told.device, 1),
        "torch-fidelity, batch 64": lambda: theirs(material, told.device, 64),
    }
    report = Report(facts={"pictures": f"{n} against {n}"})
    numbers: dict[str, Mapping[str, float]] = {}
    for name, side in sides.items():
        with counted(inception_class()) as count:
            numbers[name] = side().numbers
        report.facts[f"network calls, samples: {name}"] = f"{count.calls}, {count.samples}"
    for metric, (a, b, off) in compared(numbers["ours"], numbers["torch-fidelity, batch 1"]).items():
        report.facts[f"{metric}: ours, theirs, relative difference"] = f"{a:.9g}, {b:.9g}, {off:.1g}"
        if not off <= TOLERANCE:
            report.faults.append(f"{metric}: {a:.9g} against torch-fidelity's {b:.9g}, allowed is {TOLERANCE:g}")
    inside: dict[str, list[float]] = {name: [] for name in sides}

    def timed(name: str) -> float:
        found = sides[name]()
        inside[name].append(found.inside)
        return found.seconds

    times = rounds({name: partial(timed, name) for name in sides}, told.repeats or ROUNDS)
    for name in list(sides)[1:]:
        report.ratios.append(ratio(f"ours / {name}", times["ours"], times[name]))
        report.ratios.append(ratio(f"ours / {name}, inside the Inception", inside["ours"], inside[name]))
    for name in sides:
        report.facts[f"pictures a second, both sets: {name}"] = 2 * n / median(times[name])
        rest = [a - b for a, b in zip(times[name], inside[name], strict=True)]
        report.facts[f"seconds outside the Inception: {name}"] = median(rest)
    return report
