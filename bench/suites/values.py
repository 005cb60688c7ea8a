"""Values that a suite is made of: parts, methods and metrics with every knob settled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.prompts import PromptSet
from bench.registry import Method, Metric, find
from bench.stats.ranks import primary
from bench.suites.tables import default_label
from bench.types import Canvas


@dataclass(frozen=True)
class Part:
    """Prompts on one canvas."""

    name: str
    canvas: Canvas
    prompts: PromptSet


@dataclass(frozen=True, eq=False)
class MethodUse:
    """A method with all its knobs set, and the backbone it runs on (None for controls, which need none)."""

    label: str
    ref: str
    method: Method
    preset: str | None
    params: Mapping[str, Any]
    backbone: str | None
    backbone_options: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:  # elsewhere its code is looked up by name, as here
        knobs, options = dict(self.params), dict(self.backbone_options)
        return _method_use, (self.label, self.ref, self.preset, knobs, self.backbone, options)

    @property
    def control(self) -> bool:
        """Whether pictures are drawn from the known truth instead of generated."""
        return self.method.family == "control"


@dataclass(frozen=True, eq=False)
class MetricUse:
    """A metric with view, extractor, reference (set metrics) and all knobs settled."""

    label: str
    ref: str
    metric: Metric
    view: str
    extractor: str | None
    reference: str | None
    params: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        looks = (self.view, self.extractor, self.reference)
        return _metric_use, (self.label, self.ref, *looks, dict(self.params))


def _method_use(label: str, ref: str, preset: str | None, params: Any, backbone: str | None, options: Any) -> MethodUse:
    return MethodUse(label, ref, find("methods", ref), preset, params, backbone, options)


def _metric_use(label: str, ref: str, *looks_and_params: Any) -> MetricUse:
    return MetricUse(label, ref, find("metrics", ref), *looks_and_params)


def seen_by(use: MetricUse) -> dict[str, str | None]:
    """How a metric of a suite looks: the columns ``extractor``, ``view``, ``reference`` of its rows."""
    return {"extractor": network_name(use.extractor), "view": use.view, "reference": use.reference}


def network_name(ref: str | None) -> str | None:
    """What records call an extractor: its name, or the name of its folder for ``ROLE@FOLDER``."""
    return Path(ref.partition("@")[2]).name if ref and "@" in ref else ref


def measure_name(use: MetricUse) -> str:
    """What the board calls a metric's first number: the metric's label, or the number's name where it has none."""
    return next(iter(use.metric.values)) if use.label == default_label(use.ref, None) else use.label


def numbers(uses: Iterable[MetricUse]) -> int:
    """How many different first numbers metrics have: twins through one network and view count once."""
    return primary([(use.metric.name, json.dumps([seen_by(use), dict(use.params)], default=str)) for use in uses])


@dataclass(frozen=True)
class Unavailable:
    """Something a suite names that cannot take part here: a ``method``, ``metric`` or ``reference``, and why."""

    kind: str
    label: str
    ref: str
    reason: str


class Where:
    """Prefixes ``UsageError`` with the place in the file it comes from."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UsageError):
            raise UsageError(f"{self.place}: {error}") from error
