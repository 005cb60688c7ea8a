"""A suite of tier full on the embedded miniature: its prompts, methods and metrics on small canvases and networks.

The result is a suite of tier ``miniature``, whose numbers never stand beside those of real models. It shows that
everything runs, and mechanisms; not which method is better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import extractors, views
from bench.errors import UsageError
from bench.registry import find
from bench.suites.tables import MethodFile, MetricFile, MiniatureFile, PartFile, SuiteFile
from bench.suites.values import Unavailable

SAMPLING = ("mu",)  # options of backbones that say how to sample; the others are about files and memory


def shrink(spec: SuiteFile, file: Path) -> tuple[SuiteFile, tuple[Unavailable, ...]]:
    """The suite as its ``miniature`` table makes it, and what it names that the miniature has no stand-in for.

    Canvases and the sides of views are divided by ``scale``. A method runs on the miniature's backbone, or on the
    stand-in of the backbone it names; of its options only those stay that say how to sample. Its knobs: the preset, the
    suite's ``set`` and ``defaults``, then the miniature's ``defaults``, then its own ``miniature``. Metrics keep the
    role of their network.

    Raises:
        UsageError: the suite has no ``miniature`` table, or sides that ``scale`` does not divide.
    """
    small = spec.miniature
    if small is None:
        raise UsageError(f"{file} does not say how to run on the miniature: it has no [miniature] table")
    methods: list[MethodFile] = []
    metrics: list[MetricFile] = []
    left_out: list[Unavailable] = []
    for m in spec.methods:
        if isinstance(m.miniature, str):
            left_out.append(Unavailable("method", m.name, m.ref, m.miniature))
        elif m.backbone is None or m.backbone in small.backbones:
            methods.append(_method(m, m.miniature, small))
        else:
            why = f"the miniature has no stand-in for backbone {m.backbone}"
            left_out.append(Unavailable("method", m.name, m.ref, why))
    for metric in small.metrics or spec.metrics:
        why = "" if small.metrics else _without_stand_in(metric, small)
        if why:
            left_out.append(Unavailable("metric", metric.name, metric.ref, why))
        else:
            metrics.append(metric if small.metrics else _metric(metric, small, file))
    changes = {
        "tier": "miniature", "seeds": small.seeds or spec.seeds, "parts": [_part(p, small, file) for p in spec.parts],
        "backbone": small.backbone, "backbone_options": {}, "defaults": {**spec.defaults, **small.defaults},
        "methods": methods, "metrics": metrics, "references": small.references,
    }  # fmt: skip
    return spec.model_copy(update=changes), tuple(left_out)


def _part(part: PartFile, small: MiniatureFile, file: Path) -> PartFile:
    if part.width % small.scale or part.height % small.scale:
        raise UsageError(
            f"{file}: miniature.scale: part {part.name!r} is {part.width}x{part.height}, sides that {small.scale} "
            f"does not divide"
        )
    return part.model_copy(update={"width": part.width // small.scale, "height": part.height // small.scale})


def _method(m: MethodFile, own: dict[str, Any], small: MiniatureFile) -> MethodFile:
    kept = {k: v for k, v in m.set.items() if k not in small.defaults}  # numbers of the large network
    stand_in = small.backbones[m.backbone] if m.backbone else small.backbone
    backbone = None if stand_in == small.backbone else stand_in  # its defaults are for the usual one
    takes = getattr(find("backbones", stand_in), "options", {}) if m.backbone else {}
    options = {k: v for k, v in m.backbone_options.items() if k in SAMPLING and k in takes}
    return m.model_copy(update={"set": {**kept, **own}, "backbone": backbone, "backbone_options": options})


def _without_stand_in(m: MetricFile, small: MiniatureFile) -> str:
    """Why a metric of the suite cannot be computed on the miniature; empty if nothing here speaks against it."""
    if m.reference is not None and m.reference not in small.references:
        return f"the miniature has no reference {m.reference!r}"
    if m.extractor is not None and _stand_in(m.extractor) is None:
        return f"the miniature has no stand-in for the network {m.extractor}"
    return ""


def _stand_in(extractor: str) -> str | None:
    try:
        return extractors.DEFAULTS["miniature"].get(extractors.role(extractor))
    except UsageError:  # the network of a planned metric
        return None


def _metric(m: MetricFile, small: MiniatureFile, file: Path) -> MetricFile:
    view, extractor = m.view, m.extractor and _stand_in(m.extractor)
    name, colon, side = view.partition(":") if view else ("", "", "")
    if colon:
        views.parse(view or "")
        if int(side) % small.scale:
            raise UsageError(f"{file}: miniature.scale: {small.scale} does not divide the side of view {view!r}")
        view = f"{name}:{int(side) // small.scale}"
    return m.model_copy(update={"view": view, "extractor": extractor})
