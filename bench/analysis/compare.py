"""Two samplers on one suite: paired differences by prompt, each with its interval, its test and its blind spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import COMPARED, Measure, company, measures
from bench.analysis.samplers import Side, Values, labelled, values
from bench.analysis.set_rows import SetReader
from bench.errors import ScrollBenchError
from bench.stats.intervals import LEVEL, OPEN, Span, detectable, finite
from bench.stats.means import Array, Estimate, estimate, paired
from bench.stats.ranks import ALONE, Family, shown
from bench.stats.sets import kernel_gains, kernel_sums, one_by_one, set_difference

if TYPE_CHECKING:
    from pathlib import Path

    from bench.store import Store
    from bench.store.features import Features
    from bench.suites.suite import Suite

KERNEL = ("kid", "kd-dino")  # values that kernel_sums computes


@dataclass(frozen=True)
class PromptGain:
    """One prompt's part in a difference, with one picture of each side at its first seed."""

    prompt_id: str
    a: float
    b: float
    gain: float
    picture_a: str
    picture_b: str


@dataclass(frozen=True)
class Comparison:
    """B against A in one number on one part of a suite.

    Attributes:
        a, b: means over the common prompts (of sets: the number itself); None where there is nothing in common.
        gain: the estimated gain of B over A, positive where B is better, in the number's unit. Where closest to 0
            or 1 is best it is what B comes closer. For numbers without a direction it is b - a.
        losses: gains prompt by prompt, the worst first; empty for sets.
        family: what it is tested together with.
        adjusted: p for the whole family.
        detectable: the smallest true difference that this many prompts would show after that correction, with power
            80 %.
        span: what a single prompt's gain can be, as far as the number's range or the values here tell.
        exact: nothing was left to chance, because all pictures are equal or a cost is the same on every prompt; the
            interval has no width.
        unpaired: prompts that only one side has.
        missing: pictures without this number, of A and of B, that the suite wants.
        note: why there is no number.
    """

    part: str
    measure: Measure
    a: float | None = None
    b: float | None = None
    gain: Estimate | None = None
    losses: tuple[PromptGain, ...] = ()
    family: Family = ALONE
    adjusted: float | None = None
    span: Span = OPEN
    exact: bool = False
    detectable: float | None = None
    unpaired: int = 0
    missing: tuple[int, int] = (0, 0)
    note: str = ""

    @property
    def said(self) -> str:
        """``better``, ``worse``, ``differs``, ``not shown``, or a dash where there is nothing to compare."""
        if self.gain is None or self.adjusted is None:
            return "–"
        if not shown(self.adjusted):
            return "not shown"
        if self.measure.direction == "none":
            return "differs"
        return "better" if self.gain.value > 0 else "worse"


@dataclass(frozen=True)
class Report:
    """What :func:`compare` found. ``equal`` counts the cells where both sides have the very same picture."""

    a: Side
    b: Side
    comparisons: tuple[Comparison, ...]
    cells: int  # pictures the suite wants of a sampler
    made: tuple[int, int]
    equal: int
    of: str = "pictures"  # what is counted


def compare(
    store: Store,
    suite: Suite,
    a: str | Side,
    b: str | Side,
    metrics: Iterable[str] = (),
    read: Callable[[Side, Sequence[Measure]], Values] = values,
) -> Report:
    """Compare two samplers on the pictures and scores there are. Reads the leaderboard; computes no picture, no score.

    Args:
        a, b: labels on the suite's board, or sides already read.
        metrics: names of numbers (:func:`bench.analysis.columns.measures`); by default the first of each metric of the
        suite.
        read: gives the numbers of a side; who compares many sides keeps what was read of each.

    Raises:
        UsageError: unknown labels or numbers.
        StoreError: there is no leaderboard.
        IncompleteError: a label's pictures are of several versions of a sampler.
    """
    one = labelled(store, suite, a) if isinstance(a, str) else a
    two = labelled(store, suite, b) if isinstance(b, str) else b
    wanted = measures(suite, metrics)
    numbers = read(one, wanted), read(two, wanted)
    together = company(store, suite, wanted)
    both = [(one.cells[k], two.cells[k]) for k in one.cells if k in two.cells]
    equal = sum(x.image_id is not None and x.image_id == y.image_id for x, y in both)
    cells = sum(len(p.prompts.prompts) for p in suite.parts) * len(suite.seeds)
    found: list[Comparison] = []
    caches: dict[Path, Features] = {}
    for measure in wanted:
        for part in suite.parts:
            family = together.pair(measure.name, one.name, two.name)
            base = Comparison(part.name, measure, family=family, exact=equal == cells)
            c = _sets(suite, base, one, two, caches) if measure.of_set else _images(suite, base, one, two, numbers)
            found.append(corrected(c))
    return Report(
        one, two,
        tuple(found),
        cells,
        (_made(one), _made(two)),
        equal,
    )  # fmt: skip


def _made(side: Side) -> int:
    return sum(c.image_id is not None for c in side.cells.values())


def corrected(c: Comparison) -> Comparison:
    """With the p of the whole family, and what so many prompts would show after its correction."""
    if c.gain is None:
        return c
    level = 1 - (1 - LEVEL) / (2 * c.family.tests)
    least = detectable(c.gain.se * np.sqrt(c.gain.n), c.gain.n, level) if c.gain.n > 1 else None
    return replace(c, adjusted=c.family.corrected(c.gain.p), detectable=least)


def _images(suite: Suite, base: Comparison, a: Side, b: Side, numbers: tuple[Values, Values]) -> Comparison:
    measure, part = base.measure, base.part
    (place,) = [p for p in suite.parts if p.name == part]
    wanted = [(part, q.id, seed) for q in place.prompts.prompts for seed in suite.seeds]
    sides = [n[measure.name] for n in numbers]
    missing = tuple(sum(key not in n for key in wanted) for n in sides)
    plain, lossy = ([_by_prompt(n, part, len(suite.seeds), of) for n in sides] for of in (float, measure.loss))
    return of_prompts(base, plain, lossy, (missing[0], missing[1]), (a, b))


def of_prompts(
    base: Comparison,
    plain: Sequence[Mapping[str, float]],
    lossy: Sequence[Mapping[str, float]],
    missing: tuple[int, int],
    sides: Sequence[Side],
) -> Comparison:
    """The comparison of two sides by a number of each prompt.

    Args:
        base: what is compared.
        plain: prompt -> number, of both sides.
        lossy: the same, oriented so that less is better (:meth:`bench.analysis.columns.Measure.loss`).
        missing: pictures without the number.
        sides: whose pictures are named.
    """
    measure, part = base.measure, base.part
    common, growth = paired(*lossy)
    base = replace(
        base, missing=missing, unpaired=len(set(lossy[0]) ^ set(lossy[1])),
        note="" if common else "not scored" if any(missing) else "undefined on every prompt",
    )  # fmt: skip
    if not common:
        return base
    sign = 1.0 if measure.direction == "none" else -1.0
    gains = dict(zip(common, map(float, sign * growth)))
    span = span_of(measure, [float(lossy[0][p]) for p in common], float(np.abs(growth).max()))
    gain = estimate(sign * growth, swaps=base.family.swaps, span=span)
    exact = base.exact or (measure.use is None and measure.name in COMPARED and bool((growth == growth[0]).all()))
    if exact:
        gain = replace(gain, low=gain.value, high=gain.value)
    ordered = sorted(common, key=lambda p: (gains[p], p))
    losses = [
        PromptGain(p, plain[0][p], plain[1][p], gains[p], *(side.picture(part, p) for side in sides)) for p in ordered
    ]
    means = [float(np.mean([n[p] for p in common])) for n in plain]
    return replace(base, a=means[0], b=means[1], gain=gain, losses=tuple(losses), span=span, exact=exact)


def span_of(measure: Measure, losses: Sequence[float], largest: float) -> Span:
    """What one prompt's gain can be: the width of the number's range.

    Where that is open, the distance between A's best and worst prompt stands in, or the ``largest`` gain seen where
    that is more: a prompt that breaks is taken to lose no more. Where A is the same on every prompt nothing is known.
    """
    least, most = measure.range
    if least is not None and most is not None:
        ends = [measure.loss(least), measure.loss(most)]
        if measure.direction in ("zero", "one"):
            ends.append(0.0)
        width = max(ends) - min(ends)
    else:
        width = max(losses) - min(losses)
        width = max(width, largest) if width else 0.0
    return (-width, width) if width > 0 else OPEN


def _by_prompt(
    numbers: Mapping[tuple[str, str, int], float | None], part: str, seeds: int, of: Callable[[float], float]
) -> dict[str, float]:
    """Means over seeds, for the prompts that are finished (scored at all seeds) and defined at one seed or more."""
    found: dict[str, list[float | None]] = {}
    for (where, prompt_id, _), value in numbers.items():
        if where == part:
            found.setdefault(prompt_id, []).append(value)
    defined = {p: [of(v) for v in vs if v is not None] for p, vs in found.items() if len(vs) == seeds}
    return {p: float(np.mean(vs)) for p, vs in sorted(defined.items()) if vs}


# -- distances between sets


def _sets(suite: Suite, base: Comparison, a: Side, b: Side, caches: dict[Path, Features]) -> Comparison:
    measure, part = base.measure, base.part
    (place,) = [p for p in suite.parts if p.name == part]
    asked = len(place.prompts.prompts)
    try:
        readers = [SetReader(suite, side, measure, caches) for side in (a, b)]
        rows = readers[0].prompts(part), readers[1].prompts(part)
        beside = readers[0].beside()
    except ScrollBenchError as error:  # scored nowhere yet, features on another machine
        return replace(base, missing=(asked, asked), note=str(error))
    seeds = len(suite.seeds)
    missing = ((asked - len(rows[0])) * seeds, (asked - len(rows[1])) * seeds)
    common = [p for p in rows[0] if p in rows[1]]
    base = replace(base, missing=missing, unpaired=len(set(rows[0]) ^ set(rows[1])))
    if len(common) < 2:
        return replace(base, note="a distance between sets needs 2 prompts or more on both sides")
    sides = [[side[p] for p in common] for side in rows]
    numbers = partial(_numbers, measure, beside)
    found = [numbers(np.concatenate(side)) for side in sides]
    if measure.value not in found[0]:  # which some metrics give with some knobs alone
        return replace(base, note="not computed with the knobs of this suite")
    both = [float(side[measure.value]) for side in found]
    groups = sides[0] + sides[1]
    if measure.value in KERNEL:
        many, parts = kernel_sums(groups, beside[0]), kernel_gains(groups, beside[0])
    else:
        many, parts = one_by_one(groups, lambda rows: float(numbers(rows)[measure.value])), None
    try:
        loss = set_difference(many, len(common), gains=parts, swaps=base.family.swaps)
    except ScrollBenchError as error:  # with some prompts left out there is no set any more
        return replace(base, note=str(error))
    sign = 1.0 if measure.direction in ("higher", "none") else -1.0
    low, high = sorted((sign * loss.low, sign * loss.high))
    gain = replace(loss, value=sign * (both[1] - both[0]), low=low, high=high)
    return replace(base, a=both[0], b=both[1], gain=gain)


def _numbers(measure: Measure, beside: Sequence[Array], rows: Array) -> Mapping[str, float]:
    assert measure.use is not None
    found: Mapping[str, float] = measure.use.metric.fn(rows, *beside, **measure.use.params)
    return found


# -- as plain data


def rows(report: Report) -> list[dict[str, Any]]:
    """A line for each comparison, for a table; ``corrected`` is p for all that is tested together, ``detects`` the
    smallest difference that would show."""
    several = len({c.part for c in report.comparisons}) > 1
    old, new = names(report)
    return [
        {
            **({"part": c.part} if several else {}), "metric": c.measure.name,
            "better": {"none": "", "zero": "near 0", "one": "near 1"}.get(c.measure.direction, c.measure.direction),
            old: c.a, new: c.b, **_gain(c), new + " is": c.said, "p": c.gain and c.gain.p, "corrected": c.adjusted,
            "detects": next(iter(finite(c.detectable))), "n": c.gain.n if c.gain else 0,
        }
        for c in report.comparisons
    ]  # fmt: skip


def names(report: Report) -> tuple[str, str]:
    """What the columns of both sides are called: their names, or a and b where these would be taken for others."""
    both = report.a.name, report.b.name
    taken = {"part", "metric", "better", "gain", "low", "high", "p", "corrected", "detects", "n"}
    return ("a", "b") if both[0] == both[1] or taken & {*both} else both


def _gain(c: Comparison) -> dict[str, float | None]:
    ends = finite(c.gain.value, c.gain.low, c.gain.high) if c.gain else (None, None, None)
    return dict(zip(("gain", "low", "high"), ends))


def plain(report: Report, worst: int = 3) -> dict[str, Any]:
    """A report as JSON: both sides, and for each comparison everything known, with its ``worst`` prompts."""
    comparisons = []
    for c in report.comparisons:
        gain = None
        if c.gain:
            value, low, high, se = finite(c.gain.value, c.gain.low, c.gain.high, c.gain.se)
            gain = {"value": value, "low": low, "high": high, "se": se, "p": c.gain.p, "p_corrected": c.adjusted,
                    "tests": c.family.tests, "n": c.gain.n}  # fmt: skip
        comparisons.append({
            "part": c.part, "metric": c.measure.name, "value": c.measure.value, "direction": c.measure.direction,
            "unit": c.measure.unit, "of_set": c.measure.of_set, "a": c.a, "b": c.b, "gain": gain, "said": c.said,
            "detectable": next(iter(finite(c.detectable))),
            "unpaired": c.unpaired, "missing": list(c.missing), "note": c.note,
            "worst": [vars(p) for p in c.losses[:worst]],
        })  # fmt: skip
    sides = {
        side: {"name": s.name, "digest": s.digest, "sampler": {k: v for k, v in s.sampler.items() if k != "said"}}
        for side, s in (("a", report.a), ("b", report.b))
    }
    made = {"cells": report.cells, "made": list(report.made), "equal": report.equal}
    return {**sides, **made, "comparisons": comparisons}
