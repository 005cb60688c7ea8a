"""What a suite's entries come to: methods and metrics with every knob settled, and those that stand by name only."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

from bench import extractors, views
from bench.errors import UsageError, near
from bench.registry import Method, Metric, find, names
from bench.suites.tables import MethodFile, MetricFile, SuiteFile, default_label
from bench.suites.values import MethodUse, MetricUse, Unavailable, Where

NEEDS_PHOTOGRAPHS = "needs photographs: "


class Asking(Protocol):
    """What of a suite decides its methods, metrics and references."""

    @property
    def spec(self) -> SuiteFile: ...
    @property
    def file(self) -> Path: ...
    @property
    def knobs(self) -> tuple[tuple[str, str, str], ...]: ...
    @property
    def backbone(self) -> str | None: ...
    @property
    def backbone_options(self) -> Mapping[str, Any]: ...
    @property
    def references(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def tier(self) -> str: ...
    @property
    def shrunk(self) -> bool: ...


def methods(suite: Asking) -> tuple[tuple[MethodUse, ...], tuple[Unavailable, ...]]:
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


def _backbone(m: MethodFile, suite: Asking) -> tuple[str | None, Mapping[str, Any]]:
    """The method's own backbone with its own options, else the suite's with the method's over them."""
    if m.backbone is None:
        return suite.backbone, {**suite.backbone_options, **m.backbone_options}
    where = {k: v for k, v in suite.backbone_options.items() if k == "device"}
    return m.backbone, {**where, **m.backbone_options}


def _no_backbone(m: MethodFile, family: str, suite: Asking) -> str:
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


def metrics(suite: Asking) -> tuple[tuple[MetricUse, ...], tuple[Unavailable, ...]]:
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


def references(suite: Asking) -> tuple[Unavailable, ...]:
    """The reference sets that are not here."""
    absent = {name: r for name, r in suite.spec.references.items() if _no_reference(name, suite)}
    about = {name: f": {r.photographs or r.note}" if r.photographs or r.note else "" for name, r in absent.items()}
    return tuple(
        Unavailable("reference", name, r.kind, f"no folder {r.path}{about[name]}") for name, r in absent.items()
    )


def _no_reference(name: str | None, suite: Asking) -> str:
    """Why a metric has nothing to compare with; empty if it has, or needs nothing."""
    r = suite.spec.references.get(name) if name is not None else None
    if r is None or not r.planned or r.kind != "folder" or Path(r.path or "").is_dir():
        return ""
    return (NEEDS_PHOTOGRAPHS if r.photographs else "") + f"its reference {name!r} is not here"
