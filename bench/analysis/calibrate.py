"""How far a method is from itself: the noise floor that the margins of a gate must not lie under.

The same method draws the suite again with other seeds, at another precision, with other threads. A difference between
such runs means nothing, so a gate must let it pass. The floor of a number is the largest difference that any of these
comparisons leaves possible (the outer end of its 95 % interval); the proposed margin is twice that, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from bench import toml
from bench.analysis.columns import measures
from bench.analysis.compare import Comparison, compare
from bench.analysis.samplers import labelled, of_seed, reseeded
from bench.errors import IncompleteError, UsageError
from bench.pipeline.plan import make_plan
from bench.pipeline.run import run
from bench.reading import MOST
from bench.store import Store

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.suites.suite import Suite

APART = 1_000_003  # between the seeds of repetitions
TIMES = 2.0  # margin / floor
OWN = 3  # pairs of a suite's own seeds that are enough


@dataclass(frozen=True)
class Floor:
    """The noise of one number on one part, by repetition, and the margin it asks for."""

    part: str
    name: str
    unit: str
    by: Mapping[str, float]  # "seeds 1", "bf16", "threads 2" -> largest difference not ruled out
    n: int

    @property
    def floor(self) -> float:
        """The largest of them."""
        return max(self.by.values())

    @property
    def margin(self) -> float:
        """Twice the floor, rounded up to two digits; 0 for what never varied: then any loss counts."""
        return round_up(TIMES * self.floor) if self.floor else 0.0


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibrate` found, and on what."""

    suite: str
    suite_digest: str
    method: str
    sampler: str  # its digest
    repetitions: tuple[str, ...]
    floors: tuple[Floor, ...]
    notes: tuple[str, ...]


def calibrate(
    store: Store, suite: Suite, *, other_seeds: int = 2, precisions: Sequence[str] = (), threads: Sequence[int] = (),
    progress: Progress | None = None, device: str | None = None,
) -> Calibration:  # fmt: skip
    """Draw and score a suite again and again with its one method, and measure how far the results lie apart.

    Args:
        store: keeps everything, so that a second call only computes what is new. Other threads make other pictures
            under the same identity, and have a store of their own in ``calibrate/``.
        suite: with one method (``--method``). Measured are the first number of each of its metrics, and those that its
            ``[gate.margins]`` name already.
        other_seeds: repetitions with other seeds.
        precisions: of the suite's backbone, e.g. ``bf16``.
        threads: counts of CPU threads.

    Raises:
        UsageError: more than one method, nothing to repeat, or a precision the backbone does not have.
        IncompleteError: pictures or scores that could not be made.
        PrerequisiteError: weights are missing.
    """
    repetitions, notes = _repetitions(store, suite, other_seeds, precisions, threads), list[str]()
    label = suite.methods[0].label
    _complete(suite, store, progress, device, None)
    base = labelled(store, suite, label)
    numbers = dict.fromkeys([*(m.name for m in measures(suite)), *suite.spec.gate.margins])
    found: dict[tuple[str, str], dict[str, Comparison]] = {}
    for name, (other, place, offset, limit) in repetitions.items():
        _complete(other, place, progress, device, limit)
        side = reseeded(labelled(place, other, label), offset)
        report = compare(store, suite, base, side, numbers)
        if report.equal == report.cells:
            notes.append(f"{name}: all pictures are equal")
        for c in report.comparisons:
            found.setdefault((c.part, c.measure.name), {})[name] = c
    floors = _floors(found, notes)
    return Calibration(suite.ref, suite.digest, label, base.digest, tuple(repetitions), tuple(floors), tuple(notes))


def from_seeds(store: Store, suite: Suite, label: str) -> Calibration:
    """The noise floor of a method's own seeds that the store has already; nothing is drawn.

    Every picture is paired with the one of the same prompt under another seed of the suite: single pictures, which
    lie farther apart than means over the suite's seeds, so margins are rather too wide than too narrow.

    Raises:
        UsageError: a suite of one seed.
        IncompleteError: no pictures and scores of several seeds are there.
    """
    first, *others = sorted(suite.seeds)
    if not others:
        raise UsageError(
            f"{suite.ref} has one seed, so its pictures do not tell how far a method is from itself: --seed 0 --seed 1 "
            f"(another board), or `scrollbench calibrate {suite.command} --method {label}`"
        )
    base, notes = labelled(store, suite, label), list[str]()
    numbers = dict.fromkeys(m.name for m in measures(suite))
    found: dict[tuple[str, str], dict[str, Comparison]] = {}
    repetitions = tuple(f"seeds {first} and {other}" for other in others[:OWN])
    for name, other in zip(repetitions, others):
        again = reseeded(of_seed(base, other), other - first)
        for c in compare(store, replace(suite, seeds=(first,)), of_seed(base, first), again, numbers).comparisons:
            found.setdefault((c.part, c.measure.name), {})[name] = c
    floors = _floors(found, notes)
    if not floors:
        raise IncompleteError(f"the seeds of {label} in this store give no margins: {'; '.join(notes)}")
    return Calibration(suite.ref, suite.digest, label, base.digest, repetitions, tuple(floors), tuple(notes))


def ahead(
    store: Store, suite: Suite, *, other_seeds: int = 2, precisions: Sequence[str] = (), threads: Sequence[int] = ()
) -> str:
    """What :func:`calibrate` is about to draw, and how long that takes at the seconds of pictures that are here.

    Raises:
        UsageError: as :func:`calibrate`.
    """
    places = [(suite, store), *((s, at) for s, at, _, _ in _repetitions(
        store, suite, other_seeds, precisions, threads).values())]  # fmt: skip
    missing = sum(len(make_plan(s, at).jobs) for s, at in places)
    label, taken = suite.methods[0].label, []
    for record in store.ledger().images.values():
        seconds = (record["cost"] or {}).get("seconds", {}).values()
        if record["label"] == label and record["suite"] == suite.ref and seconds and None not in seconds:
            taken.append(sum(seconds))
    if not missing:
        return "all pictures of this calibration are here"
    if not taken:
        return f"{missing} pictures to draw; their time is not known before one of {label} is here (--limit 1)"
    return f"{missing} pictures to draw, about {missing * median(taken) / 3600:.2g} hours at {median(taken):.3g} s each"


def _repetitions(
    store: Store, suite: Suite, other_seeds: int, precisions: Sequence[str], threads: Sequence[int]
) -> dict[str, tuple[Suite, Store, int, int | None]]:
    """What is drawn beside the suite: name -> suite, store, what its seeds are higher by, threads."""
    if len(suite.methods) != 1:
        raise UsageError(f"calibrate takes one method, got {[m.label for m in suite.methods]}; choose it with --method")
    if other_seeds < 0 or max(suite.seeds) + other_seeds * APART > MOST:
        raise UsageError(f"--other-seeds {other_seeds}: no such seeds; they are integers from 0 to 2^63 - 1")
    if min(threads, default=1) < 1:
        raise UsageError(f"--threads takes numbers from 1, got {min(threads)}")
    repetitions: dict[str, tuple[Suite, Store, int, int | None]] = {}
    for i in range(1, other_seeds + 1):
        seeds = tuple(s + i * APART for s in suite.seeds)
        repetitions[f"seeds {i}"] = (replace(suite, seeds=seeds), store, i * APART, None)
    for precision in precisions:
        other = replace(suite, backbone_options={**suite.backbone_options, "precision": precision})
        repetitions[precision] = (other, store, 0, None)
    for count in threads:
        repetitions[f"threads {count}"] = (suite, Store(store.root / "calibrate" / f"threads-{count}"), 0, count)
    if not repetitions:
        raise UsageError("nothing to repeat: ask for --other-seeds, --precision or --threads")
    return repetitions


def _floors(found: Mapping[tuple[str, str], Mapping[str, Comparison]], notes: list[str]) -> list[Floor]:
    """The floor of each number on each part; numbers without one are noted."""
    floors = []
    for (part, number), comparisons in found.items():
        told = {name: c.gain for name, c in comparisons.items() if c.gain is not None}
        gains = {name: g for name, g in told.items() if math.isfinite(g.low) and math.isfinite(g.high)}
        if not gains:
            one = all(g.n < 2 for g in told.values())
            few = "the mean over one prompt has no interval; take two or more" if one else (
                "it hardly varies and has no range, so what it may lose cannot be told at this number of prompts"
            )  # fmt: skip
            notes.append(f"{number}: {few if told else next(iter(comparisons.values())).note}")
            continue
        by = {name: max(abs(g.low), abs(g.high)) for name, g in gains.items()}
        unit = next(iter(comparisons.values())).measure.unit
        floors.append(Floor(part, number, unit, by, min(g.n for g in gains.values())))
    return floors


def _complete(suite: Suite, store: Store, progress: Progress | None, device: str | None, threads: int | None) -> None:
    results = run(suite, store, progress, device=device, drawing=_threads(threads))
    if not results.complete:
        made, scored = results.made, results.scored
        why = [f.message for f in made.failures] + [b.reason for b in made.blocked] + list(scored.blocked.values())
        raise IncompleteError(
            f"calibrate needs every picture and score of {suite.methods[0].label}: {'; '.join([*why, *scored.notes])}. "
            "Mend that; the same command goes on where this one stopped"
        )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def round_up(value: float) -> float:
    """Up to two significant digits: a margin is never rounded below what was measured."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.10g}")


def margins(found: Calibration) -> dict[str, float]:
    """The proposed margins; a number on several parts gets the largest."""
    proposed: dict[str, float] = {}
    for floor in found.floors:
        proposed[floor.name] = max(floor.margin, proposed.get(floor.name, 0.0))
    return proposed


def rows(found: Calibration) -> list[dict[str, Any]]:
    """A line for each number, for a table."""
    return [{"part": f.part, "number": f.name, **f.by, "floor": f.floor, "margin": f.margin, "n": f.n}
            for f in found.floors]  # fmt: skip


def snippet(found: Calibration) -> str:
    """``[gate.margins]`` for a suite file, or for ``scrollbench gate --margins``, with where it comes from."""
    lines = [
        f"# Measured on suite {found.suite} ({found.suite_digest[:8]}) with {found.method} ({found.sampler[:8]}):",
        f"# {TIMES:g} times the noise floor over {', '.join(found.repetitions)}.",
        *(f"# {note}" for note in found.notes),
        "[gate.margins]",
    ]
    for name, margin in margins(found).items():
        mine = [f for f in found.floors if f.name == name]
        floor = max(f.floor for f in mine)
        said = f"floor {floor:.3g}, {mine[0].n} prompts" if floor else "never varied: any loss counts"
        lines.append(f"{toml.key(name)} = {margin:g} # {said}")
    return "\n".join(lines) + "\n"


def plain(found: Calibration) -> dict[str, Any]:
    """As JSON."""
    floors = [{**vars(f), "by": dict(f.by), "floor": f.floor, "margin": f.margin} for f in found.floors]
    return {**vars(found), "floors": floors, "margins": margins(found)}
