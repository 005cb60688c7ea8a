"""Pictures from jobs: the backbone, the method, the file, the record."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.device import takes
from bench.errors import DeviceLostError, PrerequisiteError, StoreError, UsageError, text_of
from bench.noise import Noise
from bench.pipeline.environment import device_lost, most_reserved, release_memory
from bench.pipeline.isolation import FORKED, BrokenRule, isolated, touched
from bench.pipeline.plan import Job, method_source, network_id
from bench.pipeline.probe import Probe
from bench.registry import find
from bench.returned import because, range_cause, shape_cause
from bench.store import Store
from bench.store.pictures import levels, nothing_on
from bench.store.raster import STRIP, Raster, Sum
from bench.store.records import Record
from bench.suites.values import MethodUse
from bench.types import Canvas, Cost, Parts, large

NAMED = 20  # changes of a backbone that a record names
FULL = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")
WARM_STEPS = 2
# What code raises of what it was given, which is the same every time; a device may fail by chance (RuntimeError).
DETERMINED = (
    SystemExit, BrokenRule, UsageError, ValueError, TypeError, LookupError, AttributeError, NameError,
    NotImplementedError, AssertionError,
)  # fmt: skip
TOLERANCE = 1e-3  # how far outside [0, 1] rounding may take a picture


class Maker:
    """Does jobs: samples, keeps the picture, and returns the record to write.

    Holds one backbone at a time, loaded when a job needs it. ``options`` go over every backbone's own (``device``).
    It raises nothing but ``StoreError`` and ``DeviceLostError``: what goes wrong with one picture is a record, and
    other work goes on.

    On a GPU, or where it compiles, a network is warmed up before the first picture of a method and canvas, so that
    kernels that are loaded, chosen or compiled once are no part of a picture's seconds.

    Several pictures may be made together (:func:`bench.pipeline.executors.groups`). Each is told its share of seconds
    and evaluations, the memory of all, and by ``together`` how many they were. Where that fails, out of memory or
    otherwise, each is made alone.

    A sampler gets copies of what others get too, and what it leaves behind reaches no other picture: settings are put
    back (flag ``changed-settings``), a backbone that is not as it was is loaded afresh (flag ``changed-backbone``; the
    record's ``changed`` says what). The picture itself began with everything in order and is kept. One whose sampler
    touched a global generator is not: nobody could make it again.
    """

    def __init__(self, store: Store, options: Mapping[str, Any], apart: bool = False) -> None:
        self.store, self.options = store, options
        self._apart = apart  # in another process, which looked the code up for itself
        self._checked: dict[int, MethodUse] = {}
        self._backbone: Any = None
        self._loaded = ""  # which one that is
        self._probe: Probe | None = None
        self._weights: dict[str, str] = {}  # what each came to when it was first loaded
        self._problems: dict[str, str] = {}  # words alone: an error's frames would keep what was loaded
        self._warm: set[Any] = set()

    def __reduce__(self) -> tuple[Any, ...]:  # a copy in another process loads for itself
        return Maker, (self.store, dict(self.options), True)

    @property
    def device(self) -> str:
        """Where the backbones run."""
        return str(self.options.get("device", "cpu"))

    def on(self, device: str) -> Maker:
        """Another one, for another device."""
        return Maker(self.store, {**self.options, "device": device})

    def ready(self, jobs: Sequence[Job]) -> None:
        """Look at the source of jobs and load their backbone; what goes wrong is told when they are done."""
        with suppress(Exception, SystemExit):
            if self._apart:
                self._check_source(jobs[0])
            if not jobs[0].use.control:
                self._load(jobs[0].use)

    def __call__(self, jobs: Sequence[Job]) -> list[Record]:
        """The records of jobs of one group, in their order."""
        failure: Record | None = None
        lost = False
        try:
            made, cost, changed = self._sample(jobs)
        except StoreError:  # no sampler's fault: the disk is full
            raise
        except (Exception, SystemExit) as error:  # a sampler may fail in any way; the record says how
            reason = classify(error)
            final = reason == "oom" or isinstance(error, DETERMINED)
            failure = jobs[0].failure(reason, explain(error), final)
            lost = device_lost(error)
        if failure is not None:
            if lost:  # nothing else can be drawn, and this picture need not be at fault
                raise DeviceLostError(
                    f"{jobs[0].use.label}, prompt {jobs[0].prompt.id}: the GPU no longer answers in this process "
                    f"({failure['message']}). All pictures made so far are kept and no attempt is counted: the same "
                    f"command goes on. Where it comes back, CUDA_LAUNCH_BLOCKING=1 shows the operation at fault"
                )
            release_memory()  # only now: the error's frames held what filled it
            return [failure] if len(jobs) == 1 else [record for job in jobs for record in self([job])]
        about = {
            "cost": {**asdict(cost), **self._reserved()},
            **({"together": len(jobs)} if len(jobs) > 1 else {}),
            **({"changed": changed} if changed else {}),
        }
        return [
            {
                "kind": "image", **job.work(), **job.cell(), "image_id": self.store.write_image(rgb),
                "width": rgb.shape[1], "height": rgb.shape[0], "flags": flags, **about,
            }
            for job, (rgb, flags) in zip(jobs, made, strict=True)
        ]  # fmt: skip

    def _reserved(self) -> dict[str, int]:
        most = most_reserved(self.device)
        return {} if most is None else {"reserved_bytes": most}

    def _warm_up(self, jobs: Sequence[Job], backbone: Any) -> None:
        """Draw a few steps that nobody keeps. What goes wrong in them goes wrong in the picture, and is told there."""
        use, canvas = jobs[0].use, jobs[0].recipe.canvas
        place = (self._loaded, use.label, canvas)
        on_gpu = str(getattr(backbone, "device", "cpu")).startswith("cuda")
        if place in self._warm or large(canvas.height, canvas.width):  # of a large picture it would be a small part
            return
        if not (on_gpu or use.backbone_options.get("compile")):
            return
        self._warm.add(place)
        few = {"steps": min(WARM_STEPS, use.params["steps"])} if "steps" in use.params else {}
        with suppress(Exception):
            _call(jobs[:1], backbone, {**use.params, **few}, self.store.root)

    def _sample(self, jobs: Sequence[Job]) -> tuple[list[tuple[np.ndarray | Raster, list[str]]], Cost, list[str]]:
        """Pictures with flags, the cost of each, and what the sampler left changed."""
        use = jobs[0].use
        if self._apart:
            self._check_source(jobs[0])
        backbone = None if use.control else self._load(use)
        if backbone is not None:
            for job in jobs:
                _check_loaded(job, backbone)
        try:
            if backbone is not None:
                self._warm_up(jobs, backbone)
            made, cost, settings = _call(jobs, backbone, use.params, self.store.root)
        finally:
            changed = self._mend()
        for _, flags in made:
            flags += ["changed-settings"] * bool(settings) + ["changed-backbone"] * bool(changed)
        return made, cost, [*settings, *changed]

    def _check_source(self, job: Job) -> None:
        """Refuse code that was edited between the plan and its being looked up here."""
        if id(job.use.method) in self._checked:
            return
        source, planned = method_source(job.use), job.recipe.method_source
        if source != planned:
            raise PrerequisiteError(
                f"the source of {job.use.ref} has changed since the plan was made: planned {planned}, here {source}; "
                "run the same command again, which plans anew"
            )
        self._checked[id(job.use.method)] = job.use

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
            raise PrerequisiteError(self._problems[wanted])
        if self._loaded != wanted:
            if self._backbone is not None:
                self._drop()
            try:
                factory = find("backbones", str(use.backbone))
                own = {k: v for k, v in self.options.items() if takes(factory, k)}
                self._backbone = factory(**{**use.backbone_options, **own})
            except Exception as error:  # whatever it is, no picture is at fault: nothing is quarantined for it
                what = str(error) if isinstance(error, PrerequisiteError) else explain(error)
                self._problems[wanted] = f"backbone {use.backbone!r} does not load: {what}"
            if wanted in self._problems:  # outside, so that the new error does not hold the old one's frames
                release_memory()
                raise PrerequisiteError(self._problems[wanted])
            self._probe, self._loaded = Probe(self._backbone), wanted
            if self._weights.setdefault(wanted, self._probe.digest) != self._probe.digest:
                self._problems[wanted] = (
                    f"backbone {use.backbone!r} does not come back as it was when it is loaded again: its weights "
                    f"changed on the disk, or its loader keeps what a sampler changed; run again"
                )
                self._drop()
                raise PrerequisiteError(self._problems[wanted])
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
    for name, digest in use.method.requires(lambda: backbone, recipe.canvas, use.params).items():
        if digest != recipe.params[name]:
            raise PrerequisiteError(
                f"{use.label}: {name} ({use.params.get(name, 'its own part')}) has changed since the plan "
                f"was made: planned {recipe.params[name]}, here {digest}; run the same command again, which plans anew"
            )


def _call(
    jobs: Sequence[Job], backbone: Any, knobs: Mapping[str, Any], folder: Path
) -> tuple[list[tuple[np.ndarray | Raster, list[str]]], Cost, list[str]]:
    """Pictures with flags, what each of them cost, and the settings that the sampler changed, which are as before.

    Raises:
        BrokenRule: it drew from a global generator or forked; besides whatever the sampler raises.
    """
    canvas, use, n = jobs[0].recipe.canvas, jobs[0].use, len(jobs)
    given = [] if backbone is None else [backbone]
    # Copies, so that one who goes around what is frozen harms nobody else.
    prompts, asked = copy.deepcopy(([job.prompt for job in jobs], canvas))
    noises = [Noise(job.recipe.seed, job.recipe.prompt_id) for job in jobs]
    meter = None if backbone is None else backbone.meter
    if meter is not None:
        meter.reset()
    started = time.perf_counter()
    with isolated() as traces:
        if n > 1 and use.method.together is not None:
            pictures = list(use.method.together(*given, prompts, asked, noises, **knobs))
        else:
            (prompt,), (noise,) = prompts, noises
            pictures = [use.method.fn(*given, prompt, asked, noise, **knobs)]
        made = [finished(picture, canvas, folder) for picture in pictures]
    if traces.forked:
        raise BrokenRule(FORKED)
    if traces.drawn:
        raise BrokenRule(touched(traces.drawn))
    if len(made) != n:
        raise ValueError(f"the method must return a picture for each prompt, got {len(made)} for {n}")
    if meter is None:
        cost = Cost(0, {"render": time.perf_counter() - started})
    else:
        cost = meter.cost()
        for i, (_, flags) in enumerate(made):
            flags += meter.flags_of(i) if n > 1 else getattr(meter, "flags", ())
    shares = {stage: seconds / n for stage, seconds in cost.seconds.items()}
    return made, Cost(round(cost.nfe / n), shares, cost.peak_bytes), traces.changed


def finished(picture: Any, canvas: Canvas, folder: Path) -> tuple[np.ndarray | Raster, list[str]]:
    """:func:`to_rgb`, of a large picture (:func:`bench.types.large`) strip by strip and on disk.

    Args:
        picture: as there, or :class:`bench.types.Parts` that add up to it.
        canvas: what was asked for.
        folder: where a large picture is summed and lies.

    Raises:
        ValueError: as there.
        StoreError: the disk is full.
    """
    (height, width), shape = (canvas.height, canvas.width), getattr(picture, "shape", None)
    if not large(height, width) or shape is None:
        return to_rgb(picture.whole() if isinstance(picture, Parts) else picture, canvas)
    if tuple(shape) != (expected := (3, height, width)):
        raise ValueError(f"the method must return a picture of shape {expected} in [0, 1], got shape {tuple(shape)}")
    if isinstance(picture, Parts):
        total = Sum(folder, height, width)
        for y, x, values in picture:
            total.add(y, x, values.detach().cpu().float().numpy() if hasattr(values, "detach") else values)
        rows: Iterable[Iterable[Any]] = total.blocks()
    else:
        rows = ([picture[:, y : y + STRIP]] for y in range(0, height, STRIP))
    seen: list[list[str]] = []

    def strip(row: Iterable[Any]) -> np.ndarray:
        made = [to_rgb(part, Canvas(part.shape[2], part.shape[1])) for part in row]
        seen.extend(flags for _, flags in made)
        return np.concatenate([rgb for rgb, _ in made], axis=1)

    pixels = Raster(folder, height, width, map(strip, rows))
    return pixels, ["nan"] * any("nan" in f for f in seen) + ["black"] * all("black" in f for f in seen)


def to_rgb(picture: Any, canvas: Canvas) -> tuple[np.ndarray, list[str]]:
    """Pixels of what a method returned (:func:`bench.store.pictures.levels`).

    Args:
        picture: float tensor or array (3, canvas.height, canvas.width) in [0, 1], on any device.
        canvas: what was asked for.

    Returns:
        uint8 (height, width, 3), and flags: ``nan`` (values that are not finite became 0), or what
        :func:`bench.store.pictures.nothing_on` finds.

    Raises:
        ValueError: another shape, or values outside [0, 1].
    """
    if hasattr(picture, "detach"):
        picture = picture.detach().cpu().double().numpy()
    values = np.asarray(picture, dtype=np.float64)
    expected = (3, canvas.height, canvas.width)
    if values.shape != expected:
        said = f"the method must return a picture of shape {expected} in [0, 1], got shape {values.shape}"
        raise ValueError(because(said, shape_cause(values.shape, canvas)))
    flags = []
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, 0.0)
        flags.append("nan")
    if values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
        low, high = float(values.min()), float(values.max())
        said = f"the method must return values in [0, 1], got {low:.4g} to {high:.4g}"
        raise ValueError(because(said, range_cause(low, high)))
    rgb = levels(values).transpose(1, 2, 0)
    return np.ascontiguousarray(rgb), [*flags, *nothing_on(rgb)]


def classify(error: BaseException) -> str:
    """Why a picture failed: ``prerequisite``, ``oom``, ``nan`` or ``crash``."""
    text = text_of(error).lower()
    if isinstance(error, PrerequisiteError | ImportError):
        return "prerequisite"
    if isinstance(error, MemoryError) or any(words in text for words in FULL):
        return "oom"
    return "nan" if isinstance(error, FloatingPointError) else "crash"


def explain(error: BaseException, fn: Callable[..., Any] | None = None) -> str:
    """Type, message, and the line that raised it; with ``fn`` the last line of that function's own file."""
    frames = list(traceback.extract_tb(error.__traceback__))
    file = getattr(getattr(fn, "__code__", None), "co_filename", None)
    frames = [f for f in frames if f.filename == file] or frames
    where = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {text_of(error)}{where}"
