"""A step of MAD and of ElasticDiffusion as they are, and as they would be written first: one thing after the other.

MAD cuts and averages all windows of an attention layer in an operation each; written first, window by window.
ElasticDiffusion asks the network about the references of a step in batches; written first, one a call. What a GPU waits
for is the host, so operations launched are counted, too, on a GPU that is not there (``tests/support/fakecuda.py``).
Both forms must make the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from benchmarks import checkpoint
from benchmarks.sampling import gap
from benchmarks.timing import Report, Settings, ratio, rounds
from methods.mad import Joint
from methods.shared import windows

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 5
STEPS = 2
TOLERANCE = 1e-3  # of values of the picture; another seed differs by more
PROMPT = Prompt("sea", "a calm sea at dawn, oil painting")
NOISE = Noise(0, PROMPT.id)


class Apart(Joint):
    """The windows of MAD, cut and averaged one after the other in every layer."""

    def gather(self, canvas: Tensor) -> Tensor:
        """As :class:`methods.mad.Joint` has it."""
        return windows.gather(canvas, self.windows)

    def merge(self, views: Tensor) -> Tensor:
        """As :class:`methods.mad.Joint` has it."""
        return windows.merge(views, self.windows, self.size)

    def wrap(self, inner: Any) -> Callable[..., Tensor]:
        """As :class:`methods.mad.Joint` has it."""

        def process(
            layer: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            attention_mask: Tensor | None = None,
        ) -> Tensor:
            text = encoder_hidden_states
            if text is None and not self.merging:
                alone: Tensor = inner(layer, hidden_states, None, attention_mask)
                return alone
            side = isqrt(hidden_states.shape[1])
            f = self.windows[0].width // side
            cut = [windows.Window(v.y // f, v.x // f, side, side) for v in self.windows]
            views = hidden_states.transpose(1, 2).reshape(len(cut), -1, side, side)
            size = (self.size[0] // f, self.size[1] // f)
            tokens = windows.merge(views, cut, size).flatten(2).transpose(1, 2)
            out = inner(layer, tokens, None if text is None else text[:1], attention_mask)
            return windows.gather(out.transpose(1, 2).reshape(1, -1, *size), cut).flatten(2).transpose(1, 2)

        return process


@dataclass(frozen=True)
class Form:
    """A method with knobs, the network's options, and what is put in place while it draws."""

    method: str
    knobs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    place: Callable[[], AbstractContextManager[Any]] = nullcontext

    def draw(self, backbone: Any, canvas: Canvas, noise: Noise = NOISE) -> Tensor:
        """The picture (3, h, w)."""
        use = find("methods", self.method)
        with self.place():
            made: Tensor = use.fn(backbone, PROMPT, canvas, noise, **use.resolve({"steps": STEPS, **self.knobs}))
        return made


MAD, ELASTIC = {"threshold": STEPS}, {"resamplings": 20}
FORMS = {
    "mad": (Form("mad", MAD, {}, lambda: patch.object(import_module("methods.mad"), "Joint", Apart)), Form("mad", MAD)),
    "elasticdiffusion": (
        Form("elasticdiffusion", ELASTIC, {"batch": 1}),
        Form("elasticdiffusion", ELASTIC),
    ),
}  # before, after
TIMED, COUNTED, QUICK = Canvas(1024, 512), {"mad": Canvas(5120, 512)}, Canvas(640, 512)


def launches(form: Form, folder: Path, canvas: Canvas) -> float:
    """Operations that the host launches in a step, in half precision."""
    from methods.backbones.stable_diffusion import from_pretrained
    from tests.support.fakecuda import pretended

    with pretended() as mode:
        backbone = from_pretrained(model=str(folder), device="cuda:0", precision="fp16", **form.options)
        mode.stage = lambda: (backbone.meter._stack or [""])[-1]
        mode.counts.clear()
        form.draw(backbone, canvas)
        return mode.counts["denoise", "launch"] / STEPS


def seconds(form: Form, backbone: Any, canvas: Canvas) -> float:
    """Seconds of a step."""
    backbone.meter.reset()
    form.draw(backbone, canvas)
    spent: float = backbone.meter.cost().seconds["denoise"]
    return spent / STEPS


def steps(told: Settings) -> Report:
    """Seconds and launches of a step, before / after."""
    from methods.backbones.stable_diffusion import from_pretrained

    folder, report = checkpoint.write(told.work / "sd", told.size), Report()
    canvas = QUICK if told.quick else TIMED
    report.facts |= {"canvas": str(canvas), "steps": STEPS, "checkpoint": told.size}
    for name, (before, after) in FORMS.items():
        loaded = [from_pretrained(model=str(folder), device=told.device, **f.options) for f in (before, after)]
        drawn = [f.draw(b, canvas).float().cpu() for f, b in zip((before, after), loaded, strict=True)]
        off, other = gap(*drawn), gap(after.draw(loaded[1], canvas, Noise(1, PROMPT.id)).float().cpu(), drawn[1])
        report.facts[f"{name}: largest difference of the pictures, of another seed's"] = f"{off:.2g}, {other:.2g}"
        if not off <= TOLERANCE < other:
            report.faults.append(f"{name}: the pictures differ by {off:.3g}, those of two seeds by {other:.3g}")
        sides = {n: partial(seconds, f, b, canvas) for n, f, b in zip(("a", "b"), (before, after), loaded, strict=True)}
        times = rounds(sides, told.repeats or ROUNDS)
        report.ratios.append(ratio(f"{name}: one by one / ours", times["a"], times["b"]))
        wide = canvas if told.quick else COUNTED.get(name, canvas)
        one, ours = (launches(f, folder, wide) for f in (before, after))
        row = {"method": name, "canvas": str(wide), "one by one": one, "ours": ours, "ratio": one / ours}
        report.tables.setdefault("operations launched in a step", []).append(row)
    return report
