"""The whole way of a suite: plan, generate, score, index."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.executors.trial import try_plugins
from bench.pipeline.generate import RunResult, generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.pipeline.score_plan import ScoreResult
from bench.progress import Progress
from bench.store import Store
from bench.store.index import build
from bench.suites.suite import Suite


@dataclass(frozen=True)
class Results:
    """What a run did: pictures made, scores computed, and where the leaderboard is."""

    made: RunResult
    scored: ScoreResult
    index: Path

    @property
    def complete(self) -> bool:
        """Whether every picture and every score that the suite asks for is there now."""
        scored = self.scored
        return self.made.complete and not (scored.blocked or scored.failed or scored.sets_failed)


def run(
    suite: Suite,
    store: Store,
    progress: Progress | None = None,
    *,
    shard: tuple[int, int] | None = None,
    retry: bool = False,
    device: str | None = None,
    drawing: AbstractContextManager[None] | None = None,
    crew: Crew = LOCAL,
) -> Results:
    """Make the pictures of a suite that are missing, score them, and build the leaderboard.

    The same call again goes on where it was stopped; what is there already is neither made nor scored again.

    Args:
        suite: of :func:`bench.suites.load.load_suite`.
        store: where pictures, records and the leaderboard go.
        progress: told of the stages ``generate`` and ``score``.
        shard: (i, n): only the i-th of n shares of the pictures, from 1.
        retry: try pictures again that failed too often before.
        device: where networks run; the suite's own, else :func:`bench.device.choose`'s, where None.
        drawing: entered while pictures are drawn.
        crew: who makes them: this process, or children of it.

    Raises:
        PrerequisiteError: every picture needs weights that are not here.
        StoreError: pictures or records cannot be written.
        UsageError: what the suite asks for does not fit together.
    """
    try_plugins(suite, crew)
    _ = suite.metrics  # what is wrong with them is said before a picture is drawn
    plan = make_plan(suite, store, shard, retry)
    with drawing or nullcontext():
        made = generate(plan, store, progress, device=device, crew=crew)
    scored = score(suite, store, progress, device=device, crew=crew)
    return Results(made, scored, build(store))
