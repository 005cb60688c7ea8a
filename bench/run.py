"""Making pictures: one image is one unit of work, kept before it is recorded, so that a crash costs at most one."""

from __future__ import annotations

import copy
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from bench.environment import environment, release_memory
from bench.errors import PrerequisiteError, UsageError, near
from bench.isolation import isolated, touched
from bench.ledger import Ledger, choose
from bench.noise import Noise
from bench.pictures import levels
from bench.plan import ATTEMPTS, Blocked, Job, Plan, network_id, recipe_record
from bench.probe import Probe
from bench.records import Record
from bench.registry import find
from bench.store import Store
from bench.suite import MethodUse
from bench.types import Canvas, Cost

NAMED = 20  # changes of a backbone that a record names
TOLERANCE = 1e-3  # how far outside [0, 1] rounding may take a picture


class Progress(Protocol):
    """What long-running functions report to."""

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` units begins."""
        ...

    def advance(self, stage: str, n: int = 1, note: str = "") -> None:
        """``n`` more units are done."""
        ...

    def finish(self, stage: str) -> None:
        """The stage is over."""
        ...


class Silent:
    """Progress for nobody."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, stage: str, n: int = 1, note: str = "") -> None:
        """Nothing."""

    def finish(self, stage: str) -> None:
        """Nothing."""


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


# -- executors: how jobs reach the function that does them. A name chosen from a dict is the whole interface.

Do = Callable[[Job], Record]
Executor = Callable[[Iterable[Job], Do], Iterator[tuple[Job, Record]]]


def local(jobs: Iterable[Job], do: Do) -> Iterator[tuple[Job, Record]]:
    """One after the other, in this process."""
    for job in jobs:
        yield job, do(job)


EXECUTORS: dict[str, Executor] = {"local": local}


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
        plan: of :func:`bench.plan.make_plan`.
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


class Maker:
    """Does jobs: samples, keeps the picture, and returns the record to write.

    Holds one backbone at a time, loaded when a job needs it. ``options`` go over every backbone's own (``device``).
    It raises nothing but ``StoreError``: what goes wrong with one picture is a record, and other work goes on.

    A sampler gets copies of what others get too, and what it leaves behind reaches no other picture: settings are put
    back (flag ``changed-settings``), a backbone that is not as it was is loaded afresh (flag ``changed-backbone``; the
    record's ``changed`` says what). The picture itself began with everything in order and is kept. One whose sampler
    touched a global generator is not: nobody could make it again.
    """

    def __init__(self, store: Store, options: Mapping[str, Any]) -> None:
        self.store, self.options = store, options
        self._backbone: Any = None
        self._loaded = ""  # which one that is
        self._probe: Probe | None = None
        self._weights: dict[str, str] = {}  # what each came to when it was first loaded
        self._problems: dict[str, PrerequisiteError] = {}

    def __call__(self, job: Job) -> Record:
        base = {"recipe_id": job.recipe_id, "recipe": recipe_record(job.recipe)}
        failure = None
        try:
            rgb, flags, cost, changed = self._sample(job)
        except (Exception, SystemExit) as error:  # a sampler may fail in any way; the record says how
            failure = {"kind": "failure", **base, "reason": classify(error), "message": explain(error)}
        if failure is not None:
            release_memory()  # only now: the error's frames held what filled it
            return failure
        image_id = self.store.write_image(rgb)
        return {
            "kind": "image", **base, **job.cell(), "image_id": image_id, "width": rgb.shape[1],
            "height": rgb.shape[0], "flags": flags, "cost": asdict(cost), **({"changed": changed} if changed else {}),
        }  # fmt: skip

    def _sample(self, job: Job) -> tuple[np.ndarray, list[str], Cost, list[str]]:
        """The picture, flags, cost, and what the sampler left changed."""
        backbone = None if job.use.control else self._load(job.use)
        if backbone is not None:
            _check_loaded(job, backbone)
        try:
            rgb, flags, cost, settings = _call(job, backbone)
        finally:
            changed = self._mend()
        flags += ["changed-settings"] * bool(settings) + ["changed-backbone"] * bool(changed)
        return rgb, flags, cost, [*settings, *changed]

    def _mend(self) -> list[str]:
        """What of the backbone is not as it was, names of the first few. Then it is given up, the next job loads it."""
        changed = self._probe.changes() if self._probe else []
        if changed:
            self._drop()
        more = [f"and {len(changed) - NAMED} more"] if len(changed) > NAMED else []
        return changed[:NAMED] + more

    def _drop(self) -> None:
        self._backbone, self._probe, self._loaded = None, None, ""
        release_memory()  # two may not fit

    def _load(self, use: MethodUse) -> Any:
        wanted = network_id(use)
        if wanted in self._problems:
            raise self._problems[wanted]
        if self._loaded != wanted:
            if self._backbone is not None:
                self._drop()
            try:
                self._backbone = find("backbones", str(use.backbone))(**{**use.backbone_options, **self.options})
            except Exception as error:  # whatever it is, no picture is at fault: nothing is quarantined for it
                what = str(error) if isinstance(error, PrerequisiteError) else explain(error)
                self._problems[wanted] = PrerequisiteError(f"backbone {use.backbone!r} does not load: {what}")
                raise self._problems[wanted] from error
            self._probe, self._loaded = Probe(self._backbone), wanted
            if self._weights.setdefault(wanted, self._probe.digest) != self._probe.digest:
                self._problems[wanted] = PrerequisiteError(
                    f"backbone {use.backbone!r} does not come back as it was when it is loaded again: its weights "
                    f"changed on the disk, or its loader keeps what a sampler changed; run again"
                )
                self._drop()
                raise self._problems[wanted]
        return self._backbone


def _check_loaded(job: Job, backbone: Any) -> None:
    """Refuse a network that is not the planned one, or other files: pictures would stand under another's name."""
    recipe, use = job.recipe, job.use
    loaded = getattr(backbone, "weights", None)
    if loaded != recipe.weights:
        raise PrerequisiteError(
            f"backbone {recipe.backbone!r} is not what was planned: planned weights {recipe.weights}, loaded "
            f"{loaded or 'it does not say which (attribute weights)'}. Where the files have changed since the plan was "
            f"made, run the same command again, which plans anew; `scrollbench weights verify` checks the files"
        )
    if use.method.requires is None:
        return
    for knob, digest in use.method.requires(backbone, recipe.canvas, use.params).items():
        if digest != recipe.params[knob]:
            raise PrerequisiteError(
                f"{use.label}.{knob}: {use.params[knob]} has changed since the plan was made: planned "
                f"{recipe.params[knob]}, here {digest}; run the same command again, which plans anew"
            )


def _call(job: Job, backbone: Any) -> tuple[np.ndarray, list[str], Cost, list[str]]:
    """The picture, flags, cost, and the settings that the sampler changed, which are as before.

    Raises:
        RuntimeError: it drew from a global generator; besides whatever the sampler raises.
    """
    # Copies, so that one who goes around what is frozen harms nobody else.
    leading = copy.deepcopy((job.prompt, job.recipe.canvas))
    noise = Noise(job.recipe.seed, job.recipe.prompt_id)
    meter = None if backbone is None else backbone.meter
    if meter is not None:
        meter.reset()
    started = time.perf_counter()
    with isolated() as traces:
        picture = job.use.method.fn(*([] if backbone is None else [backbone]), *leading, noise, **job.use.params)
        rgb, flags = to_rgb(picture, job.recipe.canvas)
    if traces.drawn:
        raise RuntimeError(touched(traces.drawn))
    if meter is None:
        return rgb, flags, Cost(0, {"render": time.perf_counter() - started}), traces.changed
    return rgb, [*flags, *getattr(meter, "flags", ())], meter.cost(), traces.changed


def to_rgb(picture: Any, canvas: Canvas) -> tuple[np.ndarray, list[str]]:
    """Pixels of what a method returned (:func:`bench.pictures.levels`).

    Args:
        picture: float tensor or array (3, canvas.height, canvas.width) in [0, 1], on any device.
        canvas: what was asked for.

    Returns:
        uint8 (height, width, 3), and flags: ``nan`` (values that are not finite became 0), ``black``.

    Raises:
        ValueError: another shape, or values outside [0, 1].
    """
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().double().numpy()
    values = np.asarray(picture, dtype=np.float64)
    expected = (3, canvas.height, canvas.width)
    if values.shape != expected:
        raise ValueError(f"the method must return a picture of shape {expected} in [0, 1], got shape {values.shape}")
    flags = []
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, 0.0)
        flags.append("nan")
    if values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
        raise ValueError(f"the method must return values in [0, 1], got {values.min():.4g} to {values.max():.4g}")
    rgb = levels(values).transpose(1, 2, 0)
    if not rgb.any():
        flags.append("black")
    return np.ascontiguousarray(rgb), flags


def classify(error: BaseException) -> str:
    """Why a picture failed: ``prerequisite``, ``oom``, ``nan`` or ``crash``."""
    text = str(error).lower()
    if isinstance(error, PrerequisiteError | ImportError):
        return "prerequisite"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "oom"
    return "nan" if isinstance(error, FloatingPointError) else "crash"


def explain(error: BaseException) -> str:
    """Type, message, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
