"""What the harness adds to its networks: seconds of a run that makes pictures over seconds inside denoiser and decoder.

A run is what ``scrollbench generate`` does: load the suite, plan, draw, write pictures and records. Loading the network
is timed apart, for it is paid once whatever the number of pictures; scoring is another command.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.suites.load import load_suite
from benchmarks import checkpoint
from benchmarks.timing import Report, Settings, await_device, ratio, stopwatch

ROUNDS = 3
TARGET = 1.05  # on windows of real size
SUITE = """
name = "perf"
version = "1"
tier = "full"
backbone = "diffusers"
backbone_options = {{ model = {model} }}
parts = [{{ name = "wide", width = {width}, height = 512, prompts = "prompts.jsonl" }}]
methods = [{{ ref = "multidiffusion", set = {{ steps = {steps} }} }}]
"""


@dataclass(frozen=True)
class Run:
    """Seconds of one run: all of it, planning, loading the backbone, inside denoiser and decoder; and its pictures."""

    wall: float
    plan: float
    load: float
    inside: float
    pictures: int

    @property
    def drawing(self) -> float:
        """Seconds of the harness after planning: what neither loading nor a network took."""
        return self.wall - self.plan - self.load - self.inside


def run(suite: str | Path, overrides: Mapping[str, Any], store: Path, device: str = "cpu") -> Run:
    """Make the pictures of a suite in a new store.

    Raises:
        RuntimeError: a picture could not be made, or no network was called: then there is nothing to measure.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from methods.backbones import Factory

    inside, load = [(UNet2DConditionModel, "forward"), (AutoencoderKL, "decode")], [(Factory, "__call__")]
    with stopwatch(inside, device) as networks, stopwatch(load, device) as loading:
        await_device(device)
        start = time.perf_counter()
        asked = load_suite(suite, overrides)
        kept = Store(store)
        plan = make_plan(asked, kept)
        planned = time.perf_counter() - start
        made = generate(plan, kept, device=device)
        await_device(device)
        wall = time.perf_counter() - start
    if not made.complete or not networks:
        raise RuntimeError(f"suite {suite}: {made.made} pictures made, {len(networks)} network calls: {made.failures}")
    return Run(wall, planned, sum(loading), sum(networks), made.made)


def write_suite(folder: Path, model: Path, width: int, steps: int, pictures: int) -> Path:
    """A suite of one method on a checkpoint; returns its file."""
    prompts = ({"id": f"p{i}", "text": f"a calm sea, {i} boats", "theme": "sea"} for i in range(pictures))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts), encoding="utf-8")
    file = folder / "perf.toml"
    file.write_text(SUITE.format(model=json.dumps(str(model)), width=width, steps=steps), encoding="utf-8")
    return file


def overhead(told: Settings) -> Report:
    """Seconds of a run without loading over seconds inside its networks, real-size windows and miniature."""
    written = checkpoint.write(told.work / "sd", told.size)
    width, steps, pictures = (576, 2, 1) if told.quick else (640, 2, 2)

    def real(store: Path) -> Run:
        model = told.work / f"model-{store.name}"
        shutil.copytree(written, model, copy_function=os.link)  # a path not seen before is hashed, as in a new process
        return run(write_suite(told.work, model, width, steps, pictures), {}, store, told.device)

    def small(store: Path) -> Run:
        chosen = {"methods": ["multidiffusion"], "limit": 1 if told.quick else 2}
        return run("miniature", chosen, store, told.device)

    report = Report()
    kinds = {"real-size windows": real, "miniature": small}
    for name, work in kinds.items():
        work(told.work / f"warm-{name}")  # imports and first calls
        runs = [work(told.work / f"{name}-{i}") for i in range(told.repeats or ROUNDS)]
        report.ratios.append(
            ratio(f"run / networks, {name}", [r.wall - r.load for r in runs], [r.inside for r in runs])
        )
        facts = {
            "pictures": runs[0].pictures,
            "seconds of loading, once a run": statistics.median(r.load for r in runs),
            "seconds of planning, once a run": statistics.median(r.plan for r in runs),
            "seconds of harness a picture": statistics.median(r.drawing / r.pictures for r in runs),
            "seconds in networks a picture": statistics.median(r.inside / r.pictures for r in runs),
        }
        report.facts |= {f"{name}: {k}": v for k, v in facts.items()}
    report.facts["target on real-size windows"] = f"at most {TARGET}"
    return report
