"""Making pictures: one image is one unit of work, kept before it is recorded, so that a crash costs at most one."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.environment import environment
from bench.pipeline.executors.choose import EXECUTORS, chosen
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.executors.patience import Outlook, patience
from bench.pipeline.executors.preflight import preflight
from bench.pipeline.maker import Maker
from bench.pipeline.plan import ATTEMPTS, Blocked, Job, Plan
from bench.progress import Silent
from bench.store import Store
from bench.store.ledger import Ledger, choose
from bench.store.records import Record
from bench.types import Canvas

if TYPE_CHECKING:
    from bench.progress import Progress


@dataclass(frozen=True)
class Failure:
    """A picture that could not be made, and why."""

    part: str
    label: str
    prompt_id: str
    seed: int
    reason: str  # oom, nan, crash, timeout, prerequisite
    message: str


@dataclass(frozen=True)
class RunResult:
    """What a run did. ``run_id`` is None where there was nothing to do."""

    run_id: str | None
    made: int
    done: int  # were there before
    failed: int
    quarantined: int  # given up in earlier runs, not tried
    failures: tuple[Failure, ...]
    blocked: tuple[Blocked, ...] = ()  # not tried: the weights of their backbones are not here

    @property
    def complete(self) -> bool:
        """Whether every wanted picture is there now."""
        return not (self.failed or self.quarantined or self.blocked)


def generate(
    plan: Plan,
    store: Store,
    progress: Progress | None = None,
    *,
    device: str | None = None,
    crew: Crew = LOCAL,
    argv: Sequence[str] | None = None,
) -> RunResult:
    """Make the pictures of a plan. The same call with a fresh plan goes on where this one was stopped.

    A job that fails is tried again after the others, until it has failed ``ATTEMPTS`` times in all its runs.

    Args:
        plan: of :func:`bench.pipeline.plan.make_plan`.
        store: where pictures and records go.
        progress: told of the stage ``generate``.
        device: where the backbones run; the suite's own, else :func:`bench.device.choose`'s, where None.
        crew: who makes them: this process, or children of it.
        argv: the command, for the run's record; this process's own by default.

    Raises:
        DeviceLostError: the GPU no longer answers; what was made is kept, and no attempt is counted.
        PrerequisiteError: every picture needs weights that are not here. Where only some do, the others are made.
        StoreError: pictures or records cannot be written.
        UsageError: an unknown executor; what :func:`bench.pipeline.executors.preflight.preflight` refuses.
    """
    executor = chosen(crew, (ref for job in plan.jobs for ref in (job.use.ref, job.use.backbone)))
    if plan.blocked and not plan.cells:
        raise PrerequisiteError("\n".join(dict.fromkeys(b.reason for b in plan.blocked)))
    progress = progress or Silent()
    place = {"device": preflight(plan, device)}  # before anything is recorded
    ledger = _record_members(plan, store)
    if not plan.jobs:
        return RunResult(None, 0, len(plan.done), 0, len(plan.quarantined), (), plan.blocked)
    suite, run_id = plan.suite, uuid.uuid4().hex[:12]
    run: Record = {"kind": "run", "run_id": run_id, "suite": suite.ref, "suite_digest": suite.digest}
    run["argv"] = list(sys.argv if argv is None else argv)
    limit = patience(crew.timeout, ledger.images.values())
    about = {"environment": {**environment(place), "executor": executor}, "weights": dict(plan.sources)}
    store.append({**run, "status": "started", **about})
    attempts, made = dict(plan.attempts), 0
    failures: dict[str, Failure] = {}
    progress.start("generate", len(plan.jobs))
    do, pending = Maker(store, place), list(plan.jobs)
    crowd, outlook = _Crowd(), Outlook(plan.jobs, ledger.images.values())
    while pending:
        again = []
        for job, record in EXECUTORS[executor](crowd.fitting(pending), do, crew, limit):
            key = job.recipe_id
            crowd.note(job, record)
            if record["kind"] == "image":
                record = _keep({**record, "run_id": run_id}, store, ledger)
            if record["kind"] == "image":
                failures.pop(key, None)
                made += 1
            else:
                tried, final = record["reason"] != "prerequisite", record.pop("final", False)
                attempts[key] = attempts.get(key, 0) + tried
                store.append({**record, "run_id": run_id, "attempt": attempts[key]})
                failures[key] = _failure(job, record["reason"], record["message"])
                if tried and attempts[key] < ATTEMPTS and not final:
                    again.append(job)
                    continue
            failed = f" failed: {failures[key].message}" if key in failures else ""
            outlook.note(job, record)
            progress.advance("generate", 1, f"{job.use.label} {job.prompt.id}{failed}", outlook.left)
        pending = again
    for job, reason, why in crowd.left:
        failures.setdefault(job.recipe_id, _failure(job, reason, why))
        progress.advance("generate", 1, f"{job.use.label} {job.prompt.id}")
    progress.finish("generate")
    store.append({**run, "status": "finished", "made": made, "failed": len(failures)})
    told = tuple(failures.values())
    return RunResult(run_id, made, len(plan.done), len(failures), len(plan.quarantined), told, plan.blocked)


def _failure(job: Job, reason: str, message: str) -> Failure:
    return Failure(job.part, job.use.label, job.prompt.id, job.recipe.seed, reason, message)


STRIKES = {"oom": 1, "timeout": 1}  # failures that speak for the other pictures of their kind; of any others:
ALIKE = 3


class _Crowd:
    """Which samplers cannot do a canvas: it does not fit into memory, hangs, or fails in one way time after time.

    A few pictures say so, the others are not tried. Those are no failures of their own: nothing is recorded of them,
    and the next run tries some of them again.
    """

    def __init__(self) -> None:
        self.left: list[tuple[Job, str, str]] = []  # not tried: reason and message
        self._strikes: dict[tuple[Any, ...], set[str]] = {}
        self._out: dict[tuple[str, Canvas], tuple[str, str]] = {}
        self._fits: set[tuple[str, Canvas]] = set()

    def fitting(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The jobs whose like has not failed for all by the time it is their turn."""
        for job in jobs:
            why = self._out.get((job.sampler, job.recipe.canvas))
            if why is None:
                yield job
            else:
                self.left.append((job, *why))

    def note(self, job: Job, record: Record) -> None:
        """What became of a job. Where a picture was made before, a failure is an accident of the moment.

        Failures are alike where another try would end the same way, or where they say the same.
        """
        place = (job.sampler, job.recipe.canvas)
        if record["kind"] == "image":
            self._fits.add(place)
        elif record["reason"] != "prerequisite" and place not in self._fits:
            reason = record["reason"]
            alike = reason if record.get("final") else record["message"]
            struck = self._strikes.setdefault((*place, alike), set())
            struck.add(job.recipe_id)
            if len(struck) >= STRIKES.get(reason, ALIKE):
                before = "ran out of memory before" if reason == "oom" else "failed before"
                self._out[place] = reason, f"not tried: prompt {job.prompt.id} {before}, {record['message']}"


def _record_members(plan: Plan, store: Store) -> Ledger:
    """Write down which picture belongs where, unless the records say just that, and settle what they tell in two ways.

    Returns:
        the records as they were before.
    """
    ledger = store.ledger()
    for job in plan.cells:
        cell = {"kind": "member", **job.cell()}
        if not ledger.holds(cell):
            store.append(ledger.replacing(cell))
    for job in plan.done:
        slot = (job.recipe_id,)
        if ledger.contested("image", slot):  # two machines made the same work, a little differently
            here = [r for r in ledger.heads("image", slot) if store.has_image(r["image_id"])]
            store.append(ledger.replacing(choose(here)))
    return ledger


def _keep(record: Record, store: Store, ledger: Ledger) -> Record:
    """Record a picture; where what its backbone says of it cannot be kept, the failure to be recorded instead."""
    try:
        return store.append(ledger.replacing(record))
    except UsageError as error:
        of = {k: record[k] for k in ("recipe_id", "recipe")}
        return {"kind": "failure", **of, "reason": "crash", "message": str(error)}
