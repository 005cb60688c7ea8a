"""What a picture or a number really runs is in its id.

The code is traced while it runs, so that a call that the digest of source cannot see (through a table, an attribute, a
name made at run time) is found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import bench
from bench import extractors, registry, source, views
from bench.extractors import catalogue
from bench.metrics.sample import Sample
from bench.noise import Noise
from bench.pipeline.plan import TO_RGB
from bench.prompts import load_prompts
from bench.source import reached
from bench.types import Canvas, Prompt

ROOT = Path(bench.__file__).parents[1]


@contextmanager
def traced() -> Iterator[set[CodeType]]:
    """The code that runs meanwhile."""
    ran: set[CodeType] = set()

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            ran.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield ran
    finally:
        sys.setprofile(None)


def definitions(ran: set[CodeType]) -> set[source.Definition]:
    """The definitions of this project that code belongs to; code at the top of a module is none."""
    ours = [c for c in ran if any(c.co_filename.startswith(f"{ROOT / top}/") for top in source.OURS)]
    return {(Path(c.co_filename), c.co_qualname.partition(".")[0]) for c in ours if not c.co_qualname.startswith("<")}


# Plain values, the reading of plug-ins, the costs that are counted, and the digests themselves: they decide no pixel.
HARNESS = {"types.py", "registry.py", "source.py", "ids.py", "meter.py", "errors.py", "features.py"}


def unseen(ran: set[CodeType], *roots: source.Root) -> set[source.Definition]:
    return {d for d in definitions(ran) - reached(*roots) if d[0].name not in HARNESS}


@pytest.fixture(scope="module")
def world_sd() -> Any:
    return registry.find("backbones", "world-sd")()


SAMPLERS = ("direct", "multidiffusion", "spotdiffusion", "mad", "msd", "bld", "gvcf", "twindiffusion", "demofusion")


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_that_a_sampler_runs_is_in_its_id(name: str, world_sd: Any) -> None:
    method = registry.find("methods", name)
    factory = registry.find("backbones", "world-sd")
    knobs = method.resolve({"steps": 2} | ({"stride": 4} if "stride" in method.params else {}))
    canvas = Canvas(64, 64) if name in ("msd", "demofusion") else Canvas(96, 32)
    with traced() as ran:
        method.fn(world_sd, Prompt("sun", "a red sun over the sea"), canvas, Noise(0, "sun"), **knobs)
    assert unseen(ran, method.fn, Noise, factory.load) == set()
    assert (Path(sys.modules["methods.backbones.network"].__file__ or ""), "LatentNetwork") in definitions(ran)


def test_what_a_sampler_runs_unseen_is_found(world_sd: Any) -> None:
    """The control: without its backbone's id, what the network runs is missing."""
    method = registry.find("methods", "direct")
    with traced() as ran:
        method.fn(world_sd, Prompt("sun", "a sun"), Canvas(32, 32), Noise(0, "sun"), **method.resolve({"steps": 1}))
    assert {name for _, name in unseen(ran, method.fn, Noise)} >= {"LatentNetwork", "StableDiffusion"}


IMAGE_METRICS = ("repeat-count", "gsd-dino", "gsd-lpips", "intra-lpips", "adjacent", "panollama", "sharpness", "grain",
                 "colour", "twins", "clip-score", "intra-style", "object-repetition", "horizon-break",
                 "caption-match")  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_all_that_a_metric_runs_is_in_its_key(name: str) -> None:
    metric = registry.find("metrics", name)
    network = extractors.load(extractors.default(metric.extractor, "miniature")) if metric.extractor else None
    rgb = np.random.default_rng(0).integers(0, 256, (32, 128, 3), dtype=np.uint8)
    sample = Sample(rgb, load_prompts("scrollworld").prompts[0], Canvas(128, 32), extractor=network, view=metric.view)
    with traced() as ran:
        metric.fn(sample, **metric.resolve({}))
    roots: list[source.Root] = [metric.fn, Sample, views.crops]
    if metric.extractor:
        found = extractors.find(extractors.default(metric.extractor, "miniature"))
        roots.append(catalogue.wrapper(found.role, found.path))
    assert unseen(ran, *roots) == set()


def test_every_picture_goes_through_pixels_that_are_in_its_id() -> None:
    module, _, name = TO_RGB.partition(":")
    assert callable(getattr(import_module(module), name))
