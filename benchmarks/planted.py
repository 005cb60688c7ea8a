"""``python -m benchmarks.planted FOLDER``: which planted defects does a gate see, and whom does it blame wrongly?

    --suite          miniature-gate, or a file with one part
    --draw           draw what is missing into FOLDER, and stop (the same command again goes on)
    --sampler        multidiffusion, or world-truth: renders, which take milliseconds and have no sampling to break
    --prompts 100    of how many prompts, in turn
    --numbers        only these of the gate's numbers
    --same-noise     candidates are made from the baseline's own pictures, as of a sampler that broke
    --calibrate      margins from the sampler's own sets of seeds instead of the suite's, and print them

The verdicts on :mod:`benchmarks.defects` are those of :func:`bench.analysis.gate.judge`. The baseline's pictures are
of seed 0, a candidate's of seed 77, and ``--calibrate`` takes seeds 0 and two others. At 12 and 24 prompts as many
disjoint groups of prompts are judged as the 100 hold. For a candidate without a defect two different seeds of those
that are there are drawn for every prompt anew in each of 20 repeats (for the same noise: one). So repeats share
pictures and are not independent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from bench import extractors
from bench.analysis.calibrate import APART, TIMES, round_up
from bench.analysis.columns import Measure, measures
from bench.analysis.compare import Comparison, PromptGain, span_of
from bench.analysis.gate import judge, margins_of
from bench.metrics.sample import Sample
from bench.noise import Noise
from bench.registry import find
from bench.source import source_digest
from bench.stats.intervals import bounds
from bench.stats.means import Estimate
from bench.store.pictures import levels, nothing_on, read_picture
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from bench.types import Canvas, Prompt
from benchmarks.__main__ import lines
from benchmarks.defects import GIVEN, NULLS, OTHERS, RGB, UNFINISHED, Candidate, Drawn

BASE, OTHER, REPEATS, EARLY = 0, 77, 20, 16
SEEDS = (OTHER, BASE, APART, 2 * APART)
NEEDS = {"guidance 1": "guidance-1", "half the steps": "half-steps", UNFINISHED: "early"}  # what must have been drawn
BROKEN: Mapping[str, Mapping[str, Any]] = {"guidance-1": {"guidance": 1.0}, "half-steps": {"steps": 10}}


@dataclass(frozen=True)
class Shelf:
    """Pictures in a folder, one of its own for each set, a file for each prompt of the suite's one part."""

    folder: Path
    suite: Suite
    sampler: str

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """Every fourth of 100 prompts first (24 are spread over the whole set), then those after them, and so on."""
        (part,) = self.suite.parts
        every = part.prompts.prompts
        stride = max(1, len(every) // 24)
        return tuple(p for i in range(stride) for p in every[i::stride])

    def path(self, name: str, prompt: Prompt) -> Path:
        """Where a picture lies."""
        return self.folder / self.sampler / name / f"{prompt.id}.png"

    def whole(self, name: str, count: int) -> bool:
        """Whether the first prompts have all pictures of a set."""
        return all(self.path(name, p).is_file() for p in self.prompts[:count])

    def read(self, name: str, prompts: Sequence[Prompt]) -> list[RGB]:
        """Pictures of a set."""
        return [_read(self.path(name, p)) for p in prompts]

    def keep(self, name: str, prompt: Prompt, values: Any) -> None:
        """Write a picture (3, h, w) in [0, 1]; half a file never stands there."""
        from PIL import Image

        path = self.path(name, prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        Image.fromarray(levels(values).transpose(1, 2, 0)).save(half, "png")
        half.replace(path)


@cache
def _read(path: Path) -> RGB:
    return read_picture(path)


# -- drawing


def draw(shelf: Shelf, count: int) -> None:
    """Draw what is missing of the first prompts; the first 24 in all sets, then the others."""
    (part,) = shelf.suite.parts
    (use,) = [m for m in shelf.suite.methods if m.label == shelf.sampler]
    sets = {f"seed-{seed}": seed for seed in SEEDS} | ({} if use.control else dict.fromkeys(BROKEN, OTHER))
    backbone = cache(lambda: find("backbones", use.backbone)(**use.backbone_options))
    for group in (shelf.prompts[: min(24, count)], shelf.prompts[24:count]):
        for name, seed in sets.items():
            for prompt in (p for p in group if not shelf.path(name, p).is_file()):
                noise, knobs = Noise(seed, prompt.id), {**use.params, **BROKEN.get(name, {})}
                if use.control:
                    shelf.keep(name, prompt, use.method.fn(prompt, part.canvas, noise, **knobs))
                    continue
                last, early = _sampled(backbone(), prompt, part.canvas, noise, knobs)
                if seed == OTHER and name not in BROKEN:
                    shelf.keep("early", prompt, early)
                shelf.keep(name, prompt, last)
                print(name, prompt.id, flush=True)


def _sampled(backbone: Any, prompt: Prompt, canvas: Canvas, noise: Noise, knobs: Mapping[str, Any]) -> tuple[Any, Any]:
    """MultiDiffusion's picture, and what it looked like after 16 steps."""
    import torch

    from methods.multidiffusion import multidiffusion_latents
    from methods.shared.canvas import cells, picture, start
    from methods.shared.windows import grid

    size, side, kept = cells(backbone, canvas), backbone.window, dict[int, Any]()
    scheduler = backbone.scheduler(knobs["steps"], (side, side))
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        last = multidiffusion_latents(
            lambda views, t: backbone.guided(views, t, conditioning, knobs["guidance"]),
            scheduler,
            start(backbone, scheduler, noise, size),
            grid(*size, side, knobs["stride"], loop=canvas.loop, factor=backbone.factor),
            lambda i, latents: kept.update({i + 1: latents}) if i + 1 == EARLY else None,
        )
        return picture(backbone, last), picture(backbone, kept[EARLY]) if EARLY in kept else None


# -- numbers


class Numbers:
    """The suite's numbers of pictures, kept in a file by the picture, the prompt and the metric's source."""

    def __init__(self, shelf: Shelf, wanted: Sequence[Measure]) -> None:
        self.canvas, self.wanted, self.file = shelf.suite.parts[0].canvas, wanted, shelf.folder / "numbers.jsonl"
        rows = self.file.read_text().splitlines() if self.file.is_file() else []
        self.known: dict[str, dict[str, float | None]] = dict(map(json.loads, rows))

    def of(self, rgb: RGB, prompt: Prompt) -> dict[str, float | None]:
        """Number -> value, None where it is undefined."""
        found: dict[str, float | None] = {}
        for use in dict.fromkeys(m.use for m in self.wanted):
            assert use is not None
            look = [prompt.id, use.metric.name, use.view, use.extractor, sorted(use.params.items())]
            key = f"{_digest(rgb)}-{hashlib.sha256(repr([look, _source(use.metric.fn)]).encode()).hexdigest()[:16]}"
            if key not in self.known:
                sample = Sample(rgb, prompt, self.canvas, extractor=_network(use.extractor), view=use.view)
                values = use.metric.fn(sample, **use.params)
                self.known[key] = {v.name: v.value for v in values if v.index is None}
                with self.file.open("a") as out:
                    out.write(json.dumps([key, self.known[key]]) + "\n")
            found |= {m.name: self.known[key][m.value] for m in self.wanted if m.use is use}
        return found


_source = cache(source_digest)


@cache
def _network(ref: str | None) -> Any:
    return extractors.load(ref) if ref else None


def _digest(rgb: RGB) -> str:
    return hashlib.sha256(rgb.tobytes()).hexdigest()[:16]


def compared(
    wanted: Sequence[Measure], old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> list[Comparison]:
    """Both sides' numbers prompt by prompt, as a gate is given them."""
    found = []
    for m in wanted:
        both = [(a[m.name], b[m.name]) for a, b in zip(old, new, strict=True)]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        sign = 1.0 if m.direction == "none" else -1.0
        losses = np.array([[m.loss(a), m.loss(b)] for a, b in known]).reshape(-1, 2)
        gains = sign * (losses[:, 1] - losses[:, 0])
        span = span_of(m, losses[:, 0].tolist(), float(np.abs(gains).max()))
        n = len(gains)
        mean = Estimate(float(gains.mean()), -np.inf, np.inf, float(gains.std(ddof=1) / np.sqrt(n)), 1.0, n)
        prompts = tuple(PromptGain(str(i), *known[i], float(gains[i]), "", "") for i in np.argsort(gains))
        unpaired = sum((a is None) != (b is None) for a, b in both)
        found.append(Comparison("", m, gain=mean, losses=prompts, span=span, unpaired=unpaired))
    return found


def floors(wanted: Sequence[Measure], base: Sequence[Mapping[str, Any]], others: Sequence[Any]) -> dict[str, float]:
    """Margins as :mod:`bench.analysis.calibrate` measures them, from further sets of seeds."""
    found: dict[str, float] = {}
    for other in others:
        for c in compared(wanted, base, other):
            low, high = bounds(np.array([p.gain for p in c.losses]), span=c.span)
            found[c.measure.name] = max(found.get(c.measure.name, 0.0), abs(float(low)), abs(float(high)))
    return {name: round_up(TIMES * floor) if floor else 0.0 for name, floor in found.items()}


# -- verdicts


@dataclass(frozen=True)
class Bench:
    """What candidates are judged by."""

    shelf: Shelf
    numbers: Numbers
    margins: Mapping[str, float]
    base: int = BASE  # the seed of the baseline's pictures

    def verdict(self, prompts: Sequence[Prompt], old: Sequence[RGB], new: Sequence[RGB]) -> tuple[str, list[str]]:
        """The gate's, and the numbers that found a regression."""
        scored = [[self.numbers.of(rgb, p) for rgb, p in zip(side, prompts, strict=True)] for side in (old, new)]
        checks = judge(compared(self.numbers.wanted, *scored), self.margins)
        guilty = [c.name for c in checks if c.verdict == "regressed"]
        guilty += ["empty pictures"] if _empty(new) > _empty(old) else []
        if guilty:
            return "caught", guilty
        return "passed" if all(c.verdict == "pass" for c in checks) else "undecided", []

    def defect(self, candidate: Candidate, n: int, count: int) -> tuple[Counter[str], Counter[str]]:
        """Verdicts on disjoint groups of n of the first ``count`` prompts, and the numbers that caught it."""
        verdicts, guilty = Counter[str](), Counter[str]()
        for start in range(0, count - n + 1, n):
            prompts = self.shelf.prompts[start : start + n]
            verdict, by = self.verdict(
                prompts, self.shelf.read(f"seed-{self.base}", prompts), self.pictures(candidate, prompts)
            )
            verdicts[verdict] += 1
            guilty.update(by)
        return verdicts, guilty

    def pictures(self, candidate: Candidate, prompts: Sequence[Prompt]) -> list[RGB]:
        """A candidate's, made from those of the other seed."""
        return candidate(Drawn([p.id for p in prompts], _Sets(self.shelf, prompts)))

    def null(self, candidate: Candidate, n: int, seeds: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
        """Verdicts on a candidate without a defect, in repeats with seeds drawn for every prompt."""
        verdicts, guilty, prompts = Counter[str](), Counter[str](), self.shelf.prompts[:n]
        for repeat in range(REPEATS):
            rng = np.random.default_rng([repeat, n])
            both = [rng.choice(seeds, 2, replace=False) for _ in prompts]
            old = [self.shelf.read(a, [p])[0] for (a, _), p in zip(both, prompts, strict=True)]
            plain = [self.shelf.read(b, [p])[0] for (_, b), p in zip(both, prompts, strict=True)]
            new = candidate(Drawn([p.id for p in prompts], {"plain": plain, "same": old}))
            verdict, by = self.verdict(prompts, old, new)
            verdicts[verdict] += 1
            guilty.update(by)
        return verdicts, guilty


class _Sets(Mapping[str, Sequence[RGB]]):
    """The sets of a shelf, read when they are asked for."""

    def __init__(self, shelf: Shelf, prompts: Sequence[Prompt]) -> None:
        self.shelf, self.prompts = shelf, prompts

    def __getitem__(self, name: str) -> list[RGB]:
        return self.shelf.read(f"seed-{OTHER}" if name == "plain" else name, self.prompts)

    def __iter__(self) -> Iterator[str]:
        return iter(("plain", "early", *BROKEN))

    def __len__(self) -> int:
        return 2 + len(BROKEN)


def _empty(pictures: Sequence[RGB]) -> int:
    """How many show nothing, or what another prompt's picture shows."""
    times = Counter(map(_digest, pictures))
    return sum(bool(nothing_on(rgb)) or times[_digest(rgb)] > 1 for rgb in pictures)


# -- the tables


def tables(bench: Bench, count: int, sizes: Sequence[int]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Given defects, others, nulls."""
    for title, candidates in (("tried first", GIVEN), ("others", OTHERS)):
        rows = []
        for name, candidate in candidates.items():
            row: dict[str, Any] = {title: name}
            for n in sizes:
                there = next((k for k in (count, n) if name not in NEEDS or bench.shelf.whole(NEEDS[name], k)), 0)
                verdicts, guilty = bench.defect(candidate, n, there)
                row[f"{n} prompts"] = _told(verdicts)
            row["by"] = ", ".join(name for name, _ in guilty.most_common(3))
            rows.append(row)
        yield title, rows
    seeds = [f"seed-{s}" for s in SEEDS if bench.shelf.whole(f"seed-{s}", max(sizes))]
    rows = []
    for name, candidate in NULLS.items():
        row = {f"no defect, {REPEATS} repeats": name}
        for n in sizes:
            verdicts, guilty = bench.null(candidate, n, seeds)
            row[f"{n} prompts"] = _told(verdicts)
        row["by"] = ", ".join(name for name, _ in guilty.most_common(3))
        rows.append(row)
    yield "nulls", rows


def _told(verdicts: Counter[str]) -> str:
    total = sum(verdicts.values())
    if not total:
        return "not drawn"
    if len(verdicts) == 1:
        return f"{next(iter(verdicts))} {total}/{total}"
    return ", ".join(f"{v} {n}/{total}" for v, n in verdicts.most_common())


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planted")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", default="miniature-gate")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--sampler", choices=("multidiffusion", "world-truth"), default="multidiffusion")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 24, 100])
    parser.add_argument("--numbers", nargs="+", metavar="NAME")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--same-noise", action="store_true")
    told = parser.parse_args()
    suite = load_suite(told.suite)
    shelf = Shelf(told.folder, suite, told.sampler)
    if told.draw:
        draw(shelf, told.prompts)
        return
    margins = margins_of(suite)
    wanted = measures(suite, told.numbers or margins)
    numbers = Numbers(shelf, wanted)
    if told.calibrate:
        prompts = shelf.prompts[: told.prompts]
        sets = [f"seed-{s}" for s in (BASE, *SEEDS[2:]) if shelf.whole(f"seed-{s}", told.prompts)]
        base, *others = (
            [numbers.of(rgb, p) for rgb, p in zip(shelf.read(name, prompts), prompts, strict=True)] for name in sets
        )
        margins = floors(wanted, base, others)
        print("[gate.margins]", *(f"{name} = {margin:g}" for name, margin in margins.items()), sep="\n", flush=True)
    bench = Bench(shelf, numbers, margins, OTHER if told.same_noise else BASE)
    for title, rows in tables(bench, told.prompts, [n for n in told.sizes if n <= told.prompts]):
        print(f"\n{title}\n{lines(rows)}", flush=True)


if __name__ == "__main__":
    main()
