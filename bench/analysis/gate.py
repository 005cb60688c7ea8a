"""Regression gates: is the candidate no worse than the baseline, by more than margins that were fixed before?

Non-inferiority turns the burden of proof round: "no difference shown" is not "no regression". For each number with a
margin m, and the gain D of the candidate over the baseline (positive is better),

    pass          the lower end of the one-sided 95 % interval of D is at least -m
    regressed     the upper end is below -m, at 5 % shared by all numbers of the gate
    inconclusive  neither: too few prompts, and how many would do

A number that has no better and worse (a colour) may move neither up nor down by more than its margin: it passes where
both ends lie inside (two one-sided tests: Schuirmann, J. Pharmacokinet. Biopharm. 1987), and counts twice for alarms.

All numbers must pass, so a candidate that is beyond the margin in any of them passes at most one time in twenty,
however many numbers there are (intersection-union test: Berger, Technometrics 1982). Of candidates that lie on every
margin, one in twenty is called regressed, because alarms share their error (Bonferroni).

Means say little of what is rare. So pictures that show nothing are counted by themselves
(:func:`bench.analysis.samplers.degenerate`), and a gate says which share of broken prompts so few may not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.columns import text
from bench.analysis.compare import Comparison, Report, compare
from bench.analysis.pin import Pin, margins_in
from bench.analysis.samplers import Degenerate, Side, degenerate, labelled, pinned, standing_protocol
from bench.errors import Exit, UsageError
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.plan import make_plan, recipe_record, sampler_digest
from bench.pipeline.run import Results, run
from bench.reading import read_toml
from bench.stats.intervals import LEVEL, bounds, prompts_to_decide, unseen, untold
from bench.stats.sets import BLOCKS
from bench.store.index import query
from bench.store.tables import MATCH, mean
from bench.suites.load import with_methods

if TYPE_CHECKING:
    from bench.analysis.speed import Speed
    from bench.progress import Progress
    from bench.store import Store
    from bench.suites.suite import Suite

EXIT = {
    "pass": Exit.DONE, "regressed": Exit.FAILED, "inconclusive": Exit.UNDECIDED, "incomplete": Exit.INCOMPLETE,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a candidate lost most: a prompt, its pictures, and the view along the panorama, where one stands out."""

    prompt_id: str
    baseline: float
    candidate: float
    gain: float
    picture: str  # the candidate's
    picture_baseline: str
    view: int | None = None  # index along the panorama, from 0
    views: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One number's verdict: ``low`` and ``high`` are one-sided 95 % bounds of the gain, infinite where none is told."""

    comparison: Comparison
    margin: float
    verdict: str
    low: float | None
    high: float | None
    message: str
    places: tuple[Place, ...] = ()

    @property
    def name(self) -> str:
        """What the board calls the number."""
        return self.comparison.measure.name


@dataclass(frozen=True)
class GateResult:
    """What :func:`gate` found; ``exit_code`` is the command's."""

    suite: str
    suite_digest: str
    report: Report
    checks: tuple[Judgement, ...]
    speed: Speed | None
    notes: tuple[str, ...]
    empty: Degenerate | None = None  # pictures that show nothing

    @property
    def verdict(self) -> str:
        """The whole gate's: incomplete, else regressed, else inconclusive, else pass."""
        found = {c.verdict for c in (*self.checks, self.speed, self.empty) if c is not None}
        return next(v for v in ("incomplete", "regressed", "inconclusive", "pass") if v in found)

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regressed, 4 inconclusive, 5 incomplete."""
        return EXIT[self.verdict]


def gate(
    store: Store, suite: Suite, baseline: str | Pin, candidate: str, margins: Mapping[str, float],
    speed: Speed | None = None, worst: int = 3,
) -> GateResult:  # fmt: skip
    """Judge a candidate by the pictures and scores there are.

    Args:
        baseline: a label on the suite's board, or a pinned sampler.
        candidate: a label.
        margins: number -> loss in its unit that still passes (:func:`margins_of`).
        speed: what :func:`bench.analysis.speed.measure` found, to be judged with the rest.
        worst: places named for a number that did not pass.

    Raises:
        UsageError: unknown labels or numbers, or no margins.
        StoreError: there is no leaderboard.
    """
    notes = []
    if isinstance(baseline, Pin):
        if baseline.suite_digest != suite.digest:
            raise UsageError(
                f"{baseline.path} pins a baseline on suite {baseline.suite} ({baseline.suite_digest[:8]}), this is "
                f"{suite.ref} ({suite.digest[:8]}): other prompts, seeds or backbone. Choose that suite, or pin anew"
            )
        one = pinned(store, suite, baseline.label, baseline.digest)
        if baseline.margins != dict(margins):
            notes.append(f"the margins are not those that stood when {baseline.path} was written: {baseline.margins}")
    else:
        one = labelled(store, suite, baseline)
    two = labelled(store, suite, candidate)
    report = compare(store, suite, one, two, margins)
    if one.sampler and one.digest == two.digest:
        notes.append("baseline and candidate are the same sampler: nothing is tested here")
    elif report.equal == report.cells:
        notes.append("all pictures are equal, pixel by pixel: the change does nothing on this suite")
    prompts = min(len(part.prompts.prompts) for part in suite.parts)
    empty = degenerate(one, two, worst)
    return concluded(report, margins, suite.ref, suite.digest, worst, prompts, speed=speed, notes=notes, empty=empty)


def concluded(
    report: Report,
    margins: Mapping[str, float],
    suite: str,
    digest: str = "",
    worst: int = 3,
    prompts: int | None = None,
    *,
    speed: Speed | None = None,
    notes: Sequence[str] = (),
    empty: Degenerate | None = None,
) -> GateResult:
    """The verdict on a comparison.

    Args:
        report: of every number that has a margin.
        margins: number -> loss in its unit that still passes.
        suite, digest: what it was measured on.
        worst: places named for a number that did not pass.
        prompts: how many were asked for; as many as were compared where None.
        speed, notes, empty: what else was found.
    """
    checks = judge(report.comparisons, margins, lambda c: _places(report, c, worst))
    if prompts is None:
        prompts = min((c.gain.n for c in report.comparisons if c.gain), default=0)
    said = f"{prompts} prompts: what befalls up to {unseen(prompts):.0%} of prompts may not show on these (95 %)"
    return GateResult(suite, digest, report, checks, speed, (*notes, said), empty)


def prepare(
    store: Store, suite: Suite, baseline: str | Pin, candidate: str, progress: Progress | None = None,
    device: str | None = None, crew: Crew = LOCAL,
) -> Results:  # fmt: skip
    """Make and score the pictures that are missing of both sides, and rebuild the leaderboard.

    A pinned baseline is made where the method of its label still is the sampler that was pinned.

    Raises:
        PrerequisiteError: weights are missing and nothing can be made.
        UsageError: a method that is not there or does not fit its backbone.
    """
    wanted = [candidate] if isinstance(baseline, Pin) else [baseline, candidate]
    if isinstance(baseline, Pin) and baseline.label in [m.name for m in suite.spec.methods]:
        (first, *_) = make_plan(with_methods(suite, [baseline.label]), store).cells or (None,)
        if first is not None and sampler_digest(recipe_record(first.recipe)) == baseline.digest:
            wanted.insert(0, baseline.label)
    both = with_methods(suite, wanted)
    return run(both, store, progress, device=device, crew=crew)


def margins_of(suite: Suite, file: Path | None = None) -> dict[str, float]:
    """A suite's margins, or those of a file that ``calibrate --write`` made.

    Raises:
        UsageError: there are none, with the command that measures them; an unreadable file.
    """
    if file is not None:
        found = margins_in(read_toml(file), file, "gate", "margins")
    else:
        found = {} if suite.shrunk else dict(suite.spec.gate.margins)  # a full suite's are not for stand-ins
    if not found:
        raise UsageError(
            f"{file or suite.file}: no margins under [gate.margins]. `scrollbench calibrate {suite.command} "
            f"--method M --write margins.toml` measures the noise and proposes them, --own-seeds takes them from "
            f"the baseline's pictures of several seeds; suite miniature-gate has some"
        )
    return found


def judge(
    comparisons: Sequence[Comparison], margins: Mapping[str, float],
    places: Callable[[Comparison], tuple[Place, ...]] = lambda c: (),
) -> tuple[Judgement, ...]:  # fmt: skip
    """The verdicts on numbers that are judged together; ``places`` finds where one that did not pass lost most."""
    alarm = 1 - (1 - LEVEL) / max(1, sum(1 + _either_way(c) for c in comparisons))
    return tuple(_check(c, margins[c.measure.name], alarm, places) for c in comparisons)


def _check(c: Comparison, margin: float, alarm: float, places: Callable[[Comparison], tuple[Place, ...]]) -> Judgement:
    name, (old, new) = c.measure.name, c.missing
    if c.gain is None or old or new:
        why = f"{old} pictures of the baseline and {new} of the candidate have no number" if old or new else c.note
        return Judgement(
            c, margin, "incomplete", None, None, f"{name}: {why}" + (f" ({c.note})" if c.note and old else "")
        )
    low, high = one_sided(c)
    far = one_sided(c, alarm)  # for alarms, which share their error
    both = _either_way(c)
    lost, most = (abs(c.gain.value), max(-low, high)) if both else (-c.gain.value, -low)
    least = max(far[0], -far[1]) if both else -far[1]
    unit = f" {c.measure.unit}" if c.measure.unit else ""
    if most <= margin and not c.unpaired:
        said = f"{name}: no {'change' if both else 'loss'} beyond {margin:g}{unit} (at worst {most:.3g})"
        return Judgement(c, margin, "pass", low, high, said)
    worst = places(c)
    if least > margin:
        how = f"changed by {c.gain.value:+.4g}" if both else f"lost {lost:.4g}"
        said = f"{name} {how}{unit}, at least {least:.4g}; the margin is {margin:g}"
        return Judgement(c, margin, "regressed", low, high, said, worst)
    if c.unpaired:
        said = f"{name} is defined on one side only for {c.unpaired} prompts, so that the rest decides nothing"
        return Judgement(c, margin, "inconclusive", low, high, said, worst)
    what = "change" if both else "gain"
    said = f"{name}: {what} {c.gain.value:.4g} in [{low:.4g}, {high:.4g}], margin {margin:g}{unit}, {c.gain.n} prompts"
    needed = _needed(c.gain.n, margin - lost, most - lost if lost < margin else lost - least)
    return Judgement(c, margin, "inconclusive", low, high, f"{said}; {needed}", worst)


def _either_way(c: Comparison) -> bool:
    """Whether a number may move neither up nor down."""
    return c.measure.direction == "none"


def _needed(n: int, distance: float, half: float) -> str:
    """How many prompts would decide, by the interval that does not decide yet; ``distance`` is to the margin."""
    more = prompts_to_decide(n, half, distance)
    if more is not None:
        return f"about {more} prompts would decide"
    if not distance:
        return "it lies on the margin"
    return f"{n} prompts are too few for its tail, or too few of them differ: cannot be told at this n"


def one_sided(c: Comparison, level: float = LEVEL) -> tuple[float, float]:
    """One-sided bounds of a gain: over prompts :func:`bench.stats.intervals.bounds`, of sets jackknife and Student's t.

    Both are the gain itself where it is exact. Fewer than ten prompts with a long tail on a side tell nothing there.
    """
    from scipy.special import stdtrit

    assert c.gain is not None
    if c.measure.of_set and not c.exact:
        half = float(stdtrit(min(BLOCKS, c.gain.n) - 1, level)) * c.gain.se
        return c.gain.value - half, c.gain.value + half
    import numpy as np

    gains = np.array([p.gain for p in c.losses])
    if c.exact:
        return c.gain.value, c.gain.value
    low, high = bounds(gains, 2 * level - 1, span=c.span)
    return (-math.inf if untold(gains, -1) else float(low)), (math.inf if untold(gains, 1) else float(high))


def _places(report: Report, c: Comparison, worst: int) -> tuple[Place, ...]:
    """The worst prompts, each with the view along the panorama that lost most, if the number has a curve there."""
    assert c.gain is not None
    rising = _either_way(c) and c.gain.value > 0
    ordered = c.losses[::-1] if rising else c.losses
    losers = [p for p in ordered[:worst] if (p.gain > 0 if rising else p.gain < 0)]
    if not losers:
        return ()
    falling = -1 if _either_way(c) and not rising else 1
    curves = [_curves(side, c, [p.prompt_id for p in losers]) for side in (report.a, report.b)]
    places = []
    for p in losers:
        old, new = (curve.get(p.prompt_id, {}) for curve in curves)
        lost = {i: falling * (c.measure.loss(new[i]) - c.measure.loss(old[i])) for i in new if i in old}
        at = max(lost, key=lambda i: lost[i]) if len(lost) > 1 else None
        places.append(Place(p.prompt_id, p.a, p.b, p.gain, p.picture_b, p.picture_a, at, len(lost) if lost else None))
    return tuple(places)


def _curves(side: Side, c: Comparison, prompts: list[str]) -> dict[str, dict[int, float]]:
    protocol = standing_protocol(side, c.measure) if c.measure.use else None
    if protocol is None or not side.sql:
        return {}
    rows = query(side.store, f"""
        with cell as ({side.sql})
        select p.prompt_id, s."index", {mean("s.value", "p.seed")} from score s join cell p on {MATCH}
        where p.part = {text(c.part)} and p.prompt_id in ({", ".join(map(text, prompts))}) and s."index" is not null
              and s.protocol = {text(protocol["protocol"])} and s.name = {text(c.measure.value)} and s.value is not null
        group by all""")[1]  # fmt: skip
    found: dict[str, dict[int, float]] = {}
    for prompt_id, index, value in rows:
        found.setdefault(prompt_id, {})[index] = value
    return found
