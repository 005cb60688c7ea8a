"""Making pictures: one image is one unit of work, kept before it is recorded, so that a crash costs at most one."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import PrerequisiteError, UsageError, near
from bench.pipeline.environment import environment
from bench.pipeline.executors import EXECUTORS
from bench.pipeline.maker import Maker
from bench.pipeline.plan import ATTEMPTS, Blocked, Plan
from bench.progress import Silent
from bench.store import Store
from bench.store.ledger import Ledger, choose
from bench.store.records import Record

if TYPE_CHECKING:
    from bench.progress import Progress


@dataclass(frozen=True)
class Failure:
    """A picture that could not be made, and why."""

    part: str
    label: str
    prompt_id: str
    seed: int
    reason: str  # oom, nan, crash, prerequisite
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
    executor: str = "local",
    device: str | None = None,
    argv: Sequence[str] | None = None,
) -> RunResult:
    """Make the pictures of a plan. The same call with a fresh plan goes on where this one was stopped.

    A job that fails is tried again after the others, until it has failed ``ATTEMPTS`` times in all its runs.

    Args:
        plan: of :func:`bench.pipeline.plan.make_plan`.
        store: where pictures and records go.
        progress: told of the stage ``generate``.
        executor: one of ``EXECUTORS``.
        device: where the backbone runs (``cuda``); the suite's own or the backbone's default where None.
        argv: the command, for the run's record; this process's own by default.

    Raises:
        PrerequisiteError: every picture needs weights that are not here. Where only some do, the others are made.
        StoreError: pictures or records cannot be written.
        UsageError: an unknown executor.
    """
    if executor not in EXECUTORS:
        raise UsageError(f"unknown executor {executor!r}; {near(executor, EXECUTORS)}")
    if plan.blocked and not plan.cells:
        raise PrerequisiteError("\n".join(dict.fromkeys(b.reason for b in plan.blocked)))
    progress = progress or Silent()
    ledger = _record_members(plan, store)
    if not plan.jobs:
        return RunResult(None, 0, len(plan.done), 0, len(plan.quarantined), (), plan.blocked)
    suite, run_id = plan.suite, uuid.uuid4().hex[:12]
    run: Record = {"kind": "run", "run_id": run_id, "suite": suite.ref, "suite_digest": suite.digest}
    run["argv"] = list(sys.argv if argv is None else argv)
    place = {"device": device} if device else {}
    about = {"environment": environment({**suite.backbone_options, **place}), "weights": dict(plan.sources)}
    store.append({**run, "status": "started", **about})
    attempts, made = dict(plan.attempts), 0
    failures: dict[str, Failure] = {}
    progress.start("generate", len(plan.jobs))
    do, pending = Maker(store, place), list(plan.jobs)
    while pending:
        again = []
        for job, record in EXECUTORS[executor](pending, do):
            key = job.recipe_id
            if record["kind"] == "image":
                record = _keep({**record, "run_id": run_id}, store, ledger)
            if record["kind"] == "image":
                failures.pop(key, None)
                made += 1
            else:
                tried = record["reason"] != "prerequisite"
                attempts[key] = attempts.get(key, 0) + tried
                store.append({**record, "run_id": run_id, "attempt": attempts[key]})
                failures[key] = Failure(
                    job.part.name, job.use.label, job.prompt.id, job.recipe.seed, record["reason"], record["message"]
                )
                if tried and attempts[key] < ATTEMPTS:
                    again.append(job)
                    continue
            progress.advance("generate", 1, f"{job.use.label} {job.prompt.id}")
        pending = again
    progress.finish("generate")
    store.append({**run, "status": "finished", "made": made, "failed": len(failures)})
    told = tuple(failures.values())
    return RunResult(run_id, made, len(plan.done), len(failures), len(plan.quarantined), told, plan.blocked)


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
