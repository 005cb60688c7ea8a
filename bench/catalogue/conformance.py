"""Conformance of a sampling method: what the harness relies on, tried out on a small canvas.

For authors of plug-ins: ``scrollbench check FILE.py@NAME``, or :func:`check` from a test of one's own.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.device import choose as choose_device
from bench.device import takes
from bench.errors import PrerequisiteError, ScrollBenchError, UsageError
from bench.noise import Noise
from bench.pipeline.executors.children import Children, Lost
from bench.pipeline.executors.choose import chosen
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.executors.patience import LEAST
from bench.pipeline.isolation import isolated, touched
from bench.pipeline.maker import explain
from bench.pipeline.probe import Probe
from bench.registry import Method, find
from bench.returned import because, kind_cause, place, range_cause
from bench.store.pictures import levels
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.backbones.tiny.stable_diffusion import write_tiny_sd

STEPS = 3  # a knob named ``steps`` is set to this: enough to sample, quick enough to repeat
SIDE = 32  # height of ScrollWorld, the canvas of methods without a backbone

_SCENE = {"style": "photo", "time": "day", "weather": "clear", "counted": None}
SEA = Prompt(
    "check-sea", "a photo of the sea by day, clear sky, one lighthouse", "",
    {"scene": {**_SCENE, "biome": "sea", "unique": "lighthouse"}},
)  # fmt: skip
SNOW = Prompt(
    "check-snow", "a photo of a snow field by day, clear sky, empty sky", "",
    {"scene": {**_SCENE, "biome": "snow", "unique": None}},
)  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """One requirement: its name, whether the method meets it, and what was seen (or what to do)."""

    name: str
    ok: bool
    message: str


def tiny_latent() -> Any:
    """A random latent backbone in the layout of the real ones, for where no trained weights are at hand."""
    with tempfile.TemporaryDirectory() as folder:
        made = from_pretrained(model=str(write_tiny_sd(Path(folder))))
    made.name = "a tiny random network"
    return made


# Family -> (backbone of the miniature, stand-in where its weights are missing). Families without one: see ``check``.
BACKBONES: dict[str, tuple[str, Callable[[], Any]]] = {"latent": ("world-sd", tiny_latent)}


def check(
    ref: str,
    backbone: str | None = None,
    device: str | None = None,
    crew: Crew = LOCAL,
    out: Path | None = None,
    **options: Any,
) -> list[CheckResult]:
    """Try a method and report, requirement by requirement.

    Args:
        ref: a method's name or ``FILE.py@name``.
        backbone: name of the backbone to try it on; by default the family's miniature, or a tiny random network
            where its weights are missing. Ignored by controls, which have none.
        device: where the backbone runs; :func:`bench.device.choose`'s where None.
        crew: where it is tried: in this process, or in a child that it may end or hang; ``timeout`` is for all of it.
        out: a PNG to write: the first picture.
        options: other options of the backbone (``model``, ...).

    Returns:
        The results in order; a method that does not load or run ends the list early. Nothing is raised for what a
        method does wrong.

    Raises:
        UsageError, PrerequisiteError: a backbone that was asked for by name cannot be had; ``out`` cannot be written.
    """
    if out is not None and (out.suffix != ".png" or not out.absolute().parent.is_dir()):
        raise UsageError(f"--out takes a file .png in a folder that is there; got {str(out)!r}")
    if chosen(crew, (ref, backbone)) != "local":
        with Children([_Apart(choose_device(device))], crew.memory) as children:
            ((_, answer),) = children.work([(ref, backbone, out, options)], lambda _: crew.timeout or LEAST)
        return [CheckResult("runs", False, answer.message)] if isinstance(answer, Lost) else answer
    try:
        method = find("methods", ref)
        if not isinstance(method, Method):
            raise UsageError(f"{ref} is not a method: decorate it with bench.registry.method")
    except UsageError as error:
        return [CheckResult("loads", False, str(error))]
    found = [CheckResult("loads", True, f"{method.name}, family {method.family}, {len(method.params)} knobs")]
    found.append(
        _say(
            "described", bool(method.summary), method.summary, "give the function a docstring; its first line is shown"
        )
    )
    if method.family == "control":
        return found + _Trial(method, None, out).run()
    if method.family not in BACKBONES and backbone is None:
        return [
            *found,
            CheckResult("runs", False, f"family {method.family} has no miniature backbone: name one to try it on"),
        ]
    options["device"] = choose_device(device)
    network = _load(backbone, options) if backbone else _miniature(method.family, options)
    if network.family != method.family:
        message = f"{method.name} is a {method.family} method, {network.name} a {network.family} backbone"
        return [*found, CheckResult("runs", False, message)]
    return found + _Trial(method, network, out).run()


class _Apart:
    """The same in another process, on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, asked: tuple[str, str | None, Path | None, dict[str, Any]]) -> list[CheckResult]:
        ref, backbone, out, options = asked
        return check(ref, backbone, self.device, out=out, **options)


def passed(results: list[CheckResult]) -> bool:
    """Whether every requirement is met."""
    return all(r.ok for r in results)


def _load(backbone: str, options: dict[str, Any]) -> Any:
    factory = find("backbones", backbone)
    return factory(**{k: v for k, v in options.items() if k != "device" or takes(factory, k)})


def _miniature(family: str, options: dict[str, Any]) -> Any:
    name, stand_in = BACKBONES[family]
    try:
        return _load(name, options)
    except PrerequisiteError:
        return stand_in()


def _say(name: str, ok: bool, good: str, bad: str) -> CheckResult:
    return CheckResult(name, ok, good if ok else bad)


class _Trial:
    """One method on one backbone; every run is watched for what it does to the process, as the runner does."""

    def __init__(self, method: Method, backbone: Any, out: Path | None = None) -> None:
        self.method, self.backbone, self.out = method, backbone, out
        side = SIDE if backbone is None else backbone.window * backbone.factor
        self.canvas = Canvas(2 * side, side)
        self.knobs = method.resolve({"steps": STEPS} if "steps" in method.params else {})
        self.drawn: set[str] = set()
        self.settings: set[str] = set()
        self.runs = 0

    def run(self) -> list[CheckResult]:
        """All requirements from ``runs`` on."""
        answer, probe = self.answer(), Probe(self.backbone)
        try:
            raw = self.first()
        except (Exception, SystemExit) as error:  # whatever a plug-in does, the answer is a report
            return [CheckResult("runs", False, f"on a canvas of {self.canvas} px: {explain(error, self.method.fn)}")]
        evaluations = 0 if self.backbone is None else self.backbone.meter.cost().nfe
        where = f"canvas {self.canvas} px" + (f", on {self.backbone.name}" if self.backbone is not None else "")
        found = [CheckResult("runs", True, where), self.output(raw)]
        if not found[-1].ok:
            return found
        first = _pixels(raw)
        found += self.preview(first)
        again = _pixels(self.call(SEA))
        same = "the same picture twice"
        found.append(
            _say("deterministic", np.array_equal(first, again), same, "two runs differ: draw from `noise` only")
        )
        if self.backbone is None:
            other = _pixels(self.call(SNOW))
            found.append(_say("prompts differ", not np.array_equal(first, other), "yes", "two scenes, one picture"))
        else:
            found += self.noise_keys(first)
        later = _pixels(self.call(SEA))
        found.append(
            _say("independent", np.array_equal(first, later), "of pictures made before",
                 "the picture changed after others were made: state is kept between calls")
        )  # fmt: skip
        found.append(_say("global generators", not self.drawn, "untouched", touched(sorted(self.drawn))))
        found.append(
            _say("settings restored", not self.settings, "as they were",
                 f"left changed: {', '.join(sorted(self.settings))}; put back what the sampler sets")
        )  # fmt: skip
        if self.backbone is not None:
            found.append(
                _say("metered", evaluations > 0, f"{evaluations} network evaluations",
                     "no evaluation was counted: call the network through backbone.guided or backbone.predict")
            )  # fmt: skip
            found.append(self.restored(answer, probe))
        return [*found, self.loop(first)]

    def first(self) -> Any:
        """A picture two squares wide or, from methods that refuse that (some want several rows), twice as large."""
        small = self.canvas
        try:
            return self.call(SEA)
        except UsageError as refusal:
            self.canvas = Canvas(2 * small.width, 2 * small.height)
            try:
                return self.call(SEA)
            except UsageError:
                self.canvas = small
                raise refusal from None

    def call(self, prompt: Prompt, seed: int = 0, canvas: Canvas | None = None) -> Any:
        """One picture, as the runner would ask for it."""
        leading = (prompt, canvas or self.canvas, Noise(seed, prompt.id))
        self.runs += 1
        with _watched(self.drawn, self.settings, self.runs):
            if self.backbone is None:
                return self.method.fn(*leading, **self.knobs)
            self.backbone.meter.reset()
            return self.method.fn(self.backbone, *leading, **self.knobs)

    def output(self, raw: Any) -> CheckResult:
        """Shape, type and range of what came back."""
        wanted = (3, self.canvas.height, self.canvas.width)
        shape, dtype = tuple(getattr(raw, "shape", ())), str(getattr(raw, "dtype", ""))
        if shape != wanted or "float" not in dtype:
            said = f"expected floats of shape {wanted}, got {dtype} {shape}" if shape else f"got a {type(raw).__name__}"
            return self.wrong(said, kind_cause(raw, self.canvas))
        pixels = _pixels(raw)
        if not np.isfinite(pixels).all():
            share = 1 - np.isfinite(pixels).mean()
            return self.wrong(
                f"{share:.1%} of the values are NaN or infinite", "half precision, or a division by zero?"
            )
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            return self.wrong(f"expected values in [0, 1], got [{low:.3f}, {high:.3f}]", range_cause(low, high))
        return CheckResult("output", True, f"{dtype} {shape} in [{low:.3f}, {high:.3f}]")

    def wrong(self, said: str, cause: str) -> CheckResult:
        """An output that is none, with its likely cause and where the method stands."""
        return CheckResult("output", False, f"{because(said, cause)} ({place(self.method.fn)})")

    def preview(self, first: np.ndarray) -> list[CheckResult]:
        """The first picture, kept where it was asked for."""
        if self.out is None:
            return []
        try:
            Image.fromarray(np.ascontiguousarray(levels(first).transpose(1, 2, 0))).save(self.out)
        except OSError as error:
            raise UsageError(f"{self.out} cannot be written: {error}") from error
        return [CheckResult("preview", True, str(self.out))]

    def noise_keys(self, first: np.ndarray) -> list[CheckResult]:
        """Seed and prompt id must both reach the noise."""
        seeded = _pixels(self.call(SEA, seed=1))
        namesake = _pixels(self.call(Prompt("check-namesake", SEA.text, SEA.negative, SEA.attributes)))
        use = "the initial noise must come from `noise` (see bench.noise)"
        return [
            _say("seeds differ", not np.array_equal(first, seeded), "yes", f"two seeds, one picture: {use}"),
            _say(
                "prompts differ in noise",
                not np.array_equal(first, namesake),
                "yes",
                f"two prompt ids, one picture: {use}",
            ),
        ]

    def restored(self, answer: Any, probe: Probe) -> CheckResult:
        """The network must be left as it was, in what it is made of and in what it says."""
        changed = probe.changes()
        if changed:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            message = f"left changed: {', '.join(changed[:5])}{more}; undo what was changed in it"
            return CheckResult("backbone restored", False, message)
        said = "the network answers differently afterwards: undo what was changed in it"
        return _say("backbone restored", np.array_equal(answer, self.answer()), "as it was", said)

    def answer(self) -> Any:
        """What the network says to a fixed question, None where there is nothing to ask."""
        if self.backbone is None or not hasattr(self.backbone, "guided"):
            return None
        b = self.backbone
        import torch

        x = Noise(0, "probe").normal("probe", (1, b.channels, b.window, b.window)).to(b.device, b.dtype)
        with torch.no_grad():
            return _pixels(b.guided(x, b.scheduler(STEPS).timesteps[0], b.condition(SEA.text), 2.0))

    def loop(self, plain: np.ndarray) -> CheckResult:
        """A loop canvas must be refused, or make a difference."""
        ring = Canvas(self.canvas.width, self.canvas.height, loop=True)
        try:
            pixels = _pixels(self.call(SEA, canvas=ring))
        except ScrollBenchError as error:
            return CheckResult("loop canvas", True, f"refused: {error}")
        except (Exception, SystemExit) as error:
            said = explain(error, self.method.fn)
            return CheckResult("loop canvas", False, f"{said}; refuse loops with a UsageError")
        if pixels.shape != plain.shape:
            return CheckResult("loop canvas", False, f"expected {plain.shape}, got {pixels.shape}")
        ignored = "the loop flag changes nothing: honour it, or refuse loop canvases with a UsageError"
        return _say("loop canvas", not np.array_equal(pixels, plain), "honoured", ignored)


def _pixels(raw: Any) -> np.ndarray:
    """A tensor on any device, or an array, as float64."""
    return np.asarray(raw.detach().cpu().double() if hasattr(raw, "detach") else raw, dtype=np.float64)


@contextmanager
def _watched(drawn: set[str], changed: set[str], salt: int) -> Iterator[None]:
    """Seed the global generators afresh for each run, note what it draws from and changes, put everything back."""
    import torch

    with isolated():  # the caller's own state
        torch.manual_seed(salt)
        np.random.seed(salt)  # noqa: NPY002
        random.seed(salt)
        with isolated() as traces:
            yield
        drawn.update(traces.drawn)
        changed.update(traces.changed)
