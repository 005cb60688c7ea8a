"""Which of two samplers is faster, on this machine, now: both drawn in turn, and the logarithms of their ratios paired.

Seconds in the records are of other hours, perhaps of other machines; they are not compared. Here both samplers draw the
same prompts one after the other, in changing order, after a picture each to warm up. What comes out holds for this
machine under this load and no other.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.device import choose as choose_device
from bench.errors import IncompleteError, UsageError
from bench.pipeline.environment import environment
from bench.pipeline.executors.choose import chosen
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.prompts.sets import spread
from bench.stats.means import bounds
from bench.store import Store
from bench.suites.load import with_methods

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.suites.suite import Suite


@dataclass(frozen=True)
class Speed:
    """Seconds a picture (geometric means) and their ratio, candidate / baseline, with one-sided 95 % bounds."""

    baseline: float
    candidate: float
    ratio: float
    low: float
    high: float
    n: int  # prompts
    limit: float
    machine: str

    @property
    def verdict(self) -> str:
        """pass, regressed or inconclusive, as in :mod:`bench.analysis.gate`."""
        return "pass" if self.high <= self.limit else "regressed" if self.low > self.limit else "inconclusive"

    @property
    def message(self) -> str:
        """The finding in words."""
        return (
            f"seconds: {self.ratio:.3f} times the baseline's [{self.low:.3f}, {self.high:.3f}] over {self.n} prompts, "
            f"limit {self.limit:g}; on {self.machine}, and only there"
        )


def measure(
    suite: Suite, baseline: str, candidate: str, limit: float, prompts: int = 8, progress: Progress | None = None,
    device: str | None = None, crew: Crew = LOCAL,
) -> Speed:  # fmt: skip
    """Draw ``prompts`` prompts with both samplers in turn (nothing is kept) and compare the seconds of their meters.

    Raises:
        UsageError: a limit of at most 0, a sampler compared with itself, or fewer than three prompts.
        IncompleteError: a picture could not be drawn.
        PrerequisiteError: weights are missing.
    """
    if not 0 < limit < math.inf:
        raise UsageError(f"--speed takes the ratio of seconds that still passes, such as 1.10; got {limit:g}")
    parts = tuple(
        replace(p, prompts=replace(p.prompts, prompts=spread(p.prompts.prompts, prompts + 1))) for p in suite.parts[:1]
    )
    both = with_methods(replace(suite, parts=parts, seeds=suite.seeds[:1]), (baseline, candidate))
    labels = [use.label for use in both.methods]
    asked = [p.id for p in parts[0].prompts.prompts]
    if len(labels) != 2 or len(asked) < 3:
        raise UsageError(f"--speed needs two samplers and at least 3 prompts, got {labels} and {len(asked)}")
    with tempfile.TemporaryDirectory(prefix="scrollbench-speed-") as folder:
        store = Store(folder)
        plan = make_plan(both, store, natives=False)
        turn = {label: i for i, label in enumerate(labels)}
        order = sorted(plan.jobs, key=lambda j: (i := asked.index(j.prompt.id), (turn[j.use.label] + i) % 2))
        if chosen(crew, [use.ref for use in both.methods]) != "local":
            crew = replace(crew, workers=1)  # two at a time would be in each other's way
        result = generate(replace(plan, jobs=tuple(order)), store, progress, device=device, crew=crew)
        if not result.complete:
            told = "; ".join(f"{f.label} {f.prompt_id}: {f.message}" for f in result.failures)
            raise IncompleteError(f"--speed: not all pictures could be drawn: {told}")
        seconds = {job.recipe_id: (job.use.label, job.prompt.id) for job in plan.cells}
        times: dict[tuple[str, str], float] = {}
        for recipe_id, record in store.ledger().images.items():
            times[seconds[recipe_id]] = sum(record["cost"]["seconds"].values())
    place = environment({"device": choose_device(device or suite.backbone_options.get("device"))})
    return judge(times, labels[0], labels[1], asked[1:], limit, f"{place['cpu']}, {place['device']}, "
                 f"{place['threads']} threads")  # fmt: skip


def judge(
    times: Mapping[tuple[str, str], float], baseline: str, candidate: str, prompts: list[str], limit: float,
    machine: str,
) -> Speed:  # fmt: skip
    """The ratio of seconds over prompts: mean and bounds of log(candidate / baseline), prompt by prompt."""
    import numpy as np

    logs: Any = np.log([[times[label, p] for p in prompts] for label in (baseline, candidate)])
    ratio = logs[1] - logs[0]
    low, high = bounds(ratio, 0.90)
    old, new = (math.exp(v) for v in logs.mean(1))
    return Speed(old, new, math.exp(ratio.mean()), math.exp(low), math.exp(high), len(prompts), limit, machine)
