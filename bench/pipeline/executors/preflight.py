"""Preflight: what can only fail is refused before anything is drawn or recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.device import choose, mend_precision
from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.isolation import isolated
from bench.pipeline.plan import Job, Plan, network_id
from bench.registry import find
from bench.store.pictures import MAX_PIXELS

CALLS = ("predict", "decode", "encode", "walk")  # of a backbone, where its network begins to work


class _Reached(BaseException):
    """A sampler has come to the network's first call: it refuses nothing."""


def preflight(plan: Plan, device: str | None = None, here: bool = True) -> str:
    """Refuse the jobs of a plan that can only fail, all in one message.

    Every sampler that this project or a package brings is called once for each canvas, up to the first call of a
    network that is on the meta device: what it refuses with ``UsageError`` by then (sides that are no whole cells,
    knobs out of range), it refuses for every prompt. Samplers of plug-in files are not called in this process: their
    first picture, which is drawn before the others' second, says it.

    Args:
        plan: of :func:`bench.pipeline.plan.make_plan`.
        device: where the backbones run; the suite's own, else :func:`bench.device.choose`'s, where None.
        here: whether it is this machine that will draw; where not, no device is looked for.

    Returns:
        the device; empty where none was looked for.

    Raises:
        UsageError: a precision that the device does not have, a canvas that no picture can have, what samplers refuse.
        PrerequisiteError: the device is not here.
    """
    place = _device(plan, device) if here else ""
    outlines: dict[str, Any] = {}
    refusals: dict[str, None] = {}
    for job in {(j.sampler, j.recipe.canvas): j for j in reversed(plan.jobs)}.values():
        canvas = job.recipe.canvas
        if canvas.width * canvas.height > MAX_PIXELS:
            why = f"{canvas.width * canvas.height:,} pixels are more than a picture may have ({MAX_PIXELS:,})"
            refusals[f"part {job.part!r}: canvas {canvas}: {why}"] = None
        elif why := _refused(job, outlines):
            refusals[f"method {job.use.label!r}, part {job.part!r}, canvas {canvas}: {why}"] = None
    if refusals:
        raise UsageError("this can only fail:\n  " + "\n  ".join(reversed(refusals)))
    return place


def _device(plan: Plan, asked: str | None) -> str:
    uses = [job.use for job in plan.jobs if not job.use.control]
    if not uses:
        return "cpu"
    place = choose(asked or plan.suite.backbone_options.get("device"))
    wrong: dict[str, dict[str, None]] = {}
    for use in uses:
        if mend := mend_precision(place, str(use.backbone_options.get("precision", "fp32"))):
            wrong.setdefault(mend, {})[str(use.backbone)] = None
    if wrong:
        raise UsageError(
            "\n".join(f"backbone {', '.join(names)} on device {place}: {mend}" for mend, names in wrong.items())
        )
    return place


def _refused(job: Job, outlines: dict[str, Any]) -> str:
    """Why a sampler refuses its canvas or knobs; empty where it does not, or cannot be asked."""
    use, network = job.use, network_id(job.use)
    if use.control or ".py@" in f"{use.ref} {use.backbone}":
        return ""
    steps = use.params.get("steps")
    if isinstance(steps, int) and steps < 1:  # what some schedules divide by
        return f"steps must be at least 1, got {steps}"
    if network not in outlines:
        try:
            outlines[network] = find("backbones", str(use.backbone)).outline(**use.backbone_options)
        except Exception:  # no outline, or its configs do not load: the first picture says it
            outlines[network] = None
    outline = outlines[network]
    if outline is None:
        return ""
    try:
        with isolated(), _stopped(outline):
            use.method.fn(outline, job.prompt, job.recipe.canvas, Noise(0, job.prompt.id), **use.params)
    except _Reached:
        pass
    except UsageError as error:
        return str(error)
    except (Exception, SystemExit):  # whatever else it is, it may be for want of numbers
        pass
    return ""


@contextmanager
def _stopped(backbone: Any) -> Iterator[None]:
    """While open, the calls of a backbone's network end the sampler."""
    names = [name for name in CALLS if hasattr(backbone, name)]
    for name in names:
        setattr(backbone, name, _end(getattr(backbone, name) if name == "walk" else None))
    try:
        yield
    finally:
        for name in names:
            delattr(backbone, name)


def _end(first: Any) -> Any:
    def end(*args: Any, **kwargs: Any) -> None:
        if first is not None:
            first(*args, **kwargs)  # a walk checks its grid when it is made
        raise _Reached

    return end
