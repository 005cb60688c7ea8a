"""From a clone to a first number: what is needed, fetched, tried, drawn, scored, and what the full suites will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import extractors
from bench.catalogue.needs import Bill, bases, bill, make_folders
from bench.catalogue.needs import extractors as seen
from bench.device import choose, takes
from bench.errors import IncompleteError, PrerequisiteError
from bench.extractors.weights.fetch import fetch
from bench.extractors.weights.manifest import offline
from bench.noise import Noise
from bench.pipeline.forecast import forecast, measured_rates
from bench.pipeline.run import Results, run
from bench.registry import find
from bench.suites.load import load_suite
from bench.types import Canvas, Prompt

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.store import Store
    from bench.suites.suite import Suite

SUITE = "start"
NEXT = ("pano-1k", "panollama-table1", "msd-fig4", "drspo-table1", "scale-dit-4k", "scrollscape-table1")
PROMPT = Prompt("start", "a lighthouse by the sea at dusk")


@dataclass(frozen=True)
class Outlook:
    """What a full suite will take on this device, as far as it is known.

    Attributes:
        suite: its name; ``bill``: what of it is still to be fetched.
        hours: of the methods whose operations could be counted, at the rate of the first pictures; None if of none.
        left: methods without a forecast.
        commands: how to run it, in order.
    """

    suite: str
    bill: Bill
    hours: float | None
    left: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    """What came of it. ``tier`` is miniature where there was no GPU."""

    suite: Suite
    device: str
    results: Results
    rate: float | None  # operations a second, of the first pictures
    outlooks: tuple[Outlook, ...]


def start(
    store: Store,
    agree: Callable[[str], bool],
    *,
    device: str | None = None,
    precision: str | None = None,
    mirror: Path | None = None,
    ahead: Sequence[str] = NEXT,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress | None = None,
) -> Started:
    """One command from a clone to a real number; the same again goes on where it was stopped.

    Args:
        store: where pictures and numbers go.
        agree: asked before a download, and before the miniature takes the place of what needs a GPU.
        device: as :func:`bench.device.choose` takes it.
        precision: instead of the suite's half precision; on a CPU it means that real weights are wanted there all the
            same, however long they take.
        mirror: a folder to fetch from instead of the network.
        ahead: full suites to say hours, GB and commands of, the first one's hours counted method by method.
        say, progress: told of every step.

    Raises:
        PrerequisiteError: not agreed to, no room, or something could not be fetched.
        IncompleteError: pictures or scores that could not be made.
    """
    place = choose(device)
    suite = load_suite(SUITE, {"precision": precision})
    if place == "cpu" and precision is None:
        say("no GPU is here: Stable Diffusion in half precision needs one")
        if not agree("Run the same on the embedded miniature instead, without a download?"):
            raise PrerequisiteError("nothing was done; with a GPU, say --device cuda")
        suite = load_suite(SUITE, {"tier": "miniature"})
    _bring(suite, agree, mirror, say)
    for line in trial(suite, place):
        say(line)
    results = run(suite, store, progress, device=place)
    if not results.complete:
        why = [f.message for f in results.made.failures] + [*results.scored.blocked.values(), *results.scored.notes]
        raise IncompleteError("not all could be made: " + "; ".join(dict.fromkeys(why)))
    rate = _rate(suite, store)
    found = tuple(outlook(name, rate, count=i == 0) for i, name in enumerate(ahead) if suite.tier == "full")
    return Started(suite, place, results, rate, found)


def _bring(suite: Suite, agree: Callable[[str], bool], mirror: Path | None, say: Callable[[str], None]) -> None:
    lacking = bill(suite)
    for f in lacking.absent:
        say(f"{f.model.name}: {f.model.size_gb:.3g} GB, licence {f.model.licence}")
    if not lacking.absent and not lacking.unmade:
        return
    if not lacking.fits:
        raise PrerequisiteError(f"{lacking.text}; set HF_HOME to a larger disk")
    if not agree(f"{lacking.text}. Fetch them?"):
        raise PrerequisiteError(f"nothing was fetched; later: scrollbench weights fetch {lacking.name}")
    fetch([f.model for f in lacking.absent], mirror, say)
    make_folders(suite, say)


def trial(suite: Suite, device: str) -> list[str]:
    """Load every network of a suite once, offline, with one small forward; a line for each.

    Raises:
        PrerequisiteError, UsageError: what does not load.
    """
    lines = []
    with offline():
        for base in bases(suite):
            factory, begun = find("backbones", base.ref), time.perf_counter()
            where = {"device": device} if takes(factory, "device") else {}
            backbone = factory(**{**base.options, **where})
            if backbone.family == "latent":
                side = backbone.window * backbone.factor
                find("methods", "direct").fn(backbone, PROMPT, Canvas(side, side), Noise(0, PROMPT.id), steps=1)
            else:
                backbone.condition(PROMPT.text)
            lines.append(f"{base.name} loads and answers on {device}: {time.perf_counter() - begun:.0f} s")
            del backbone  # before the next one is loaded
        for name in seen(suite):
            begun = time.perf_counter()
            network, grey = extractors.load(name, device), [np.full((64, 64, 3), 127, np.uint8)] * 2
            if "distances" in extractors.protocol.asked(network.role):
                network.distances(grey)
            else:
                network.embed(grey)
            lines.append(f"{name} loads and answers on {device}: {time.perf_counter() - begun:.0f} s")
    return lines


def _rate(suite: Suite, store: Store) -> float | None:
    """Operations a second of the pictures just made; None where they cannot be counted."""
    if suite.tier != "full":
        return None
    return median(measured_rates(forecast(suite), suite, store).values())


def outlook(name: str, rate: float | None, count: bool = True) -> Outlook:
    """What a full suite will take, hours at a rate of operations a second where ``count`` says so."""
    suite = load_suite(name)
    lacking = bill(suite)
    fetching = (f"scrollbench weights fetch {name}",) if lacking.absent or lacking.unmade else ()
    commands = (*fetching, f"scrollbench run --suite {name}")
    if rate is None or not count:
        return Outlook(name, lacking, None, (), commands)
    rows = forecast(suite)
    known = [replace(r, seconds=(r.attention + r.other) / rate) for r in rows if not r.problem]
    hours = sum(r.hours or 0.0 for r in known) if known else None
    return Outlook(name, lacking, hours, tuple(r.method for r in rows if r.problem), commands)


def words(found: Outlook) -> list[str]:
    """An outlook for people."""
    hours = "" if found.hours is None else f"about {found.hours:,.0f} hours on this device, "
    left = f" (without {', '.join(found.left)})" if found.left else ""
    lines = [f"{found.suite}: {hours}{found.bill.size_gb:.0f} GB to fetch{left}"]
    return lines + [f"    {command}" for command in found.commands]


def data(done: Started) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "suite": done.suite.ref, "tier": done.suite.tier, "device": done.device, "rate": done.rate,
        "index": str(done.results.index),
        "ahead": [
            {"suite": o.suite, "hours": o.hours, "gb": o.bill.size_gb, "left_out": o.left, "commands": o.commands}
            for o in done.outlooks
        ],
    }  # fmt: skip
