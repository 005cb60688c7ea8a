"""What a suite's entries come to: methods and metrics with every knob settled, and those that stand by name only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import extractors, views
from bench.errors import UsageError, near
from bench.registry import Method, Metric, find, names
from bench.suite_file import MethodFile, MetricFile, default_label

if TYPE_CHECKING:
    from bench.suite import Suite


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


def methods(suite: Suite) -> tuple[tuple[MethodUse, ...], tuple[Unavailable, ...]]:
    """The methods with their knobs: signature defaults, preset, the suite's defaults, its ``set``, then --set.

    The suite's defaults are numbers for its backbone: a method that names another keeps its own.

    Raises:
        UsageError: unknown methods that are not planned, wrong knobs or presets.
    """
    uses: list[MethodUse] = []
    absent: list[Unavailable] = []
    unused = {target for target, _, _ in suite.knobs}
    said: set[str] = set()
    knobs: set[str] = set()
    for m in suite.spec.methods:
        with Where(f"{suite.file}: method {m.name!r}"):
            if why := _absent(m, "methods"):
                absent.append(Unavailable("method", m.name, m.ref, why))
                continue
            method = find("methods", m.ref)
            if not isinstance(method, Method):
                raise UsageError(f"{m.ref!r} is not a method: decorate it with bench.registry.method")
            if why := _no_backbone(m, method.family, suite):
                absent.append(Unavailable("method", m.name, m.ref, why))
                continue
            defaults = suite.spec.defaults if m.backbone is None else {}
            common = {k: v for k, v in defaults.items() if k in method.params}
            params = method.resolve({**common, **m.set}, m.preset)
        mine = {m.name, m.ref, default_label(m.ref, None), method.name}
        said |= mine
        knobs |= set(method.params)
        given = {knob: value for target, knob, value in suite.knobs if target in mine}
        with Where("--set"):
            changed = method.resolve({**params, **given})
        marks = [f"{k}={v}" for k, v in changed.items() if v != params[k]]
        # Other knobs, other column: two settings under one label would overwrite each other.
        label = f"{m.name}[{','.join(marks)}]" if marks else m.name
        backbone, options = (None, {}) if method.family == "control" else _backbone(m, suite)
        uses.append(MethodUse(label, m.ref, method, m.preset, changed, backbone, options))
        unused -= mine
    if unused:
        raise UsageError(f"--set: no method {min(unused)!r} in this run; {near(min(unused), said)}")
    for knob in set(suite.spec.defaults) - knobs:
        if get_close_matches(knob, knobs):  # a knob that no method of this run has may be another method's
            raise UsageError(f"{suite.file}: defaults.{knob}: no method has this knob; {near(knob, knobs)}")
    return tuple(uses), tuple(absent)


def _absent(m: MethodFile | MetricFile, kind: str) -> str:
    """Why a planned entry is not there; empty where it is, and where its absence would be a mistake."""
    if not m.planned or m.ref in names(kind):
        return ""
    return "not in this project" + (f": {m.note}" if m.note else "")


def _backbone(m: MethodFile, suite: Suite) -> tuple[str | None, Mapping[str, Any]]:
    """The method's own backbone with its own options, else the suite's with the method's over them."""
    if m.backbone is None:
        return suite.backbone, {**suite.backbone_options, **m.backbone_options}
    where = {k: v for k, v in suite.backbone_options.items() if k == "device"}
    return m.backbone, {**where, **m.backbone_options}


def _no_backbone(m: MethodFile, family: str, suite: Suite) -> str:
    """Why a planned method cannot run on its backbone, as far as names and families tell; empty if it may."""
    backbone = m.backbone or suite.backbone
    if not m.planned or backbone is None or ".py@" in backbone:
        return ""
    if backbone not in names("backbones"):
        return f"its backbone {backbone} is not in this project"
    have = getattr(find("backbones", backbone), "family", None)
    if have is None or family in (have, "control"):
        return ""
    return f"samples in family {family}, backbone {backbone} is of family {have}"


def metrics(suite: Suite) -> tuple[tuple[MetricUse, ...], tuple[Unavailable, ...]]:
    """The metrics; where no extractor is named, the role's default of the tier.

    Raises:
        UsageError: unknown metrics that are not planned, wrong knobs or views, extractors or references that do not
            fit.
    """
    uses: list[MetricUse] = []
    absent: list[Unavailable] = []
    for m in suite.spec.metrics:
        with Where(f"{suite.file}: metric {m.name!r}"):
            if why := _absent(m, "metrics") or _no_reference(m.reference, suite):
                absent.append(Unavailable("metric", m.name, m.ref, why))
                continue
            metric = find("metrics", m.ref)
            if not isinstance(metric, Metric):
                raise UsageError(f"{m.ref!r} is not a metric: decorate it with bench.registry.metric")
            params = metric.resolve(m.set)
            views.parse(m.view or metric.view)
            if metric.extractor is None and m.extractor is not None:
                raise UsageError(f"{metric.name} looks at pixels and takes no extractor, got {m.extractor!r}")
            extractor = m.extractor
            if metric.extractor is not None and extractor is None:
                if suite.shrunk and metric.extractor not in extractors.DEFAULTS["miniature"]:
                    why = f"the miniature has no stand-in for a network of role {metric.extractor}"
                    absent.append(Unavailable("metric", m.name, m.ref, why))
                    continue
                extractor = extractors.default(metric.extractor, suite.tier)
            if ("reference" in metric.inputs) != (m.reference is not None):
                compared = "reference" in metric.inputs
                needs = "needs a reference" if compared else "scores pictures and takes no reference"
                have = ", ".join(suite.references) or "none"
                raise UsageError(f"{metric.name} {needs}; references of this suite: {have}")
        uses.append(MetricUse(m.name, m.ref, metric, m.view or metric.view, extractor, m.reference, params))
    return tuple(uses), tuple(absent)


def references(suite: Suite) -> tuple[Unavailable, ...]:
    """The reference sets that are not here."""
    absent = {name: r for name, r in suite.spec.references.items() if _no_reference(name, suite)}
    return tuple(
        Unavailable("reference", name, r.kind, f"no folder {r.path}" + (f": {r.note}" if r.note else ""))
        for name, r in absent.items()
    )


def _no_reference(name: str | None, suite: Suite) -> str:
    """Why a metric has nothing to compare with; empty if it has, or needs nothing."""
    r = suite.spec.references.get(name) if name is not None else None
    if r is None or not r.planned or r.kind != "folder" or Path(r.path or "").is_dir():
        return ""
    return f"its reference {name!r} is not here"
