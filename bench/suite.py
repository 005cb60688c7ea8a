"""Suites: which prompts on which canvases, by which methods, measured how. TOML files, resolved through the registry.

Methods and metrics are looked up only when asked for: pictures can be made where no metric is installed, and
scored where no generator is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench import prompts
from bench.errors import UsageError, near
from bench.ids import digest
from bench.prompts import PromptSet, read_prompts, spread
from bench.registry import Method, Metric, find
from bench.suite_file import MethodFile, MetricFile, PartFile, SuiteFile, check_suite, default_label, read_suite
from bench.types import Canvas

# -- what it means


@dataclass(frozen=True)
class Part:
    """Prompts on one canvas."""

    name: str
    canvas: Canvas
    prompts: PromptSet


@dataclass(frozen=True, eq=False)
class MethodUse:
    """A method with all its knobs set."""

    label: str
    ref: str
    method: Method
    preset: str | None
    params: Mapping[str, Any]

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


@dataclass(frozen=True, eq=False)
class Suite:
    """A resolved suite. ``methods`` and ``metrics`` are imported when first asked for and then raise ``UsageError``."""

    name: str
    version: str
    tier: str  # miniature or full; they never share a board
    title: str
    seeds: tuple[int, ...]
    parts: tuple[Part, ...]
    backbone: str | None  # registered name; None where all methods are controls
    backbone_options: Mapping[str, Any]
    references: Mapping[str, Mapping[str, Any]]  # specifications, as bench.references.load_reference takes them
    file: Path
    spec: SuiteFile
    knobs: tuple[tuple[str, str, str], ...] = ()  # --set: (method, knob, value)

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @cached_property
    def digest(self) -> str:
        """Identity of what is asked: parts, prompts, seeds and backbone, with ``--limit`` and ``--seed`` applied.

        Methods and metrics are left out: a new method joins the same board, and scores name their metric themselves.
        """
        parts = [[p.name, [p.canvas.width, p.canvas.height, p.canvas.loop], p.prompts.digest] for p in self.parts]
        options = {k: v for k, v in self.backbone_options.items() if k != "device"}
        backbone = self.backbone and default_label(self.backbone, None)
        return digest([self.ref, self.tier, parts, list(self.seeds), backbone, options])

    @cached_property
    def methods(self) -> tuple[MethodUse, ...]:
        """The methods with their knobs: signature defaults, preset, the suite's defaults, its ``set``, then --set."""
        uses = []
        unused = {target for target, _, _ in self.knobs}
        names: set[str] = set()
        knobs: set[str] = set()
        for m in self.spec.methods:
            with _Where(f"{self.file}: method {m.label or m.ref!r}"):
                method = find("methods", m.ref)
                if not isinstance(method, Method):
                    raise UsageError(f"{m.ref!r} is not a method: decorate it with bench.registry.method")
                common = {k: v for k, v in self.spec.defaults.items() if k in method.params}
                params = method.resolve({**common, **m.set}, m.preset)
            label = m.label or default_label(m.ref, m.preset)
            mine = {label, m.ref, default_label(m.ref, None), method.name}
            names |= mine
            knobs |= set(method.params)
            given = {knob: value for target, knob, value in self.knobs if target in mine}
            with _Where("--set"):
                changed = method.resolve({**params, **given})
            marks = [f"{k}={v}" for k, v in changed.items() if v != params[k]]
            # Other knobs, other column: two settings under one label would overwrite each other.
            uses.append(MethodUse(f"{label}[{','.join(marks)}]" if marks else label, m.ref, method, m.preset, changed))
            unused -= mine
        if unused:
            raise UsageError(f"--set: no method {min(unused)!r} in this run; {near(min(unused), names)}")
        for knob in set(self.spec.defaults) - knobs:
            if get_close_matches(knob, knobs):  # a knob that no method of this run has may be another method's
                raise UsageError(f"{self.file}: defaults.{knob}: no method has this knob; {near(knob, knobs)}")
        return tuple(uses)

    @cached_property
    def metrics(self) -> tuple[MetricUse, ...]:
        """The metrics; where no extractor is named, the role's default of the tier."""
        uses = []
        for m in self.spec.metrics:
            with _Where(f"{self.file}: metric {m.label or m.ref!r}"):
                metric = find("metrics", m.ref)
                if not isinstance(metric, Metric):
                    raise UsageError(f"{m.ref!r} is not a metric: decorate it with bench.registry.metric")
                params = metric.resolve(m.set)
                extractor = m.extractor
                if metric.extractor is None and extractor is not None:
                    raise UsageError(f"{metric.name} looks at pixels and takes no extractor, got {extractor!r}")
                if metric.extractor is not None and extractor is None:
                    from bench.extractors import default

                    extractor = default(metric.extractor, self.tier)
                if (metric.scope == "set") != (m.reference is not None):
                    needs = "needs a reference" if metric.scope == "set" else "scores pictures and takes no reference"
                    have = ", ".join(self.references) or "none"
                    raise UsageError(f"{metric.name} {needs}; references of this suite: {have}")
            view = m.view or metric.view
            label = m.label or default_label(m.ref, None)
            uses.append(MetricUse(label, m.ref, metric, view, extractor, m.reference, params))
        return tuple(uses)


class _Where:
    """Prefixes ``UsageError`` with the place in the file it comes from."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UsageError):
            raise UsageError(f"{self.place}: {error}") from error


# -- loading


@dataclass(frozen=True)
class Overrides:
    """What a command changes about a suite.

    Attributes:
        methods: replaces the list: labels or refs of the suite's own, names, ``name:preset``, ``FILE.py@name``.
        metrics: replaces the list: labels or refs of the suite's own, names, ``name[extractor]``,
            ``name[extractor]@view``.
        set: ``method.knob=value``.
        limit: that many prompts spread over each part's; 0 drops the part's selection, for its whole prompt set.
        seeds: replaces the list.
    """

    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()
    set: Sequence[str] = ()
    limit: int | None = None
    seeds: Sequence[int] = ()


def load_suite(ref: str | Path, overrides: Mapping[str, Any] | None = None) -> Suite:
    """Load a suite by name, ``name@version`` or path of a TOML file.

    Args:
        ref: which.
        overrides: fields of :class:`Overrides`.

    Raises:
        UsageError: unknown suite, unreadable file, or a wrong key or value, with file, key and near misses.
    """
    fields = Overrides.__dataclass_fields__
    for key in overrides or {}:
        if key not in fields:
            raise UsageError(f"a suite has no override {key!r}; {near(key, fields)}")
    asked = Overrides(**(overrides or {}))
    file, version = _locate(ref)
    spec = read_suite(file)
    if version and version != spec.version:
        raise UsageError(f"suite {ref!r}: {file} holds version {spec.version}")
    changes: dict[str, Any] = {}
    if asked.methods:
        changes["methods"] = [m for wanted in asked.methods for m in _choose_methods(wanted, spec.methods)]
    if asked.metrics:
        changes["metrics"] = [m for wanted in asked.metrics for m in _choose_metrics(wanted, spec.metrics)]
    spec = spec.model_copy(update=changes)
    check_suite(spec, file)
    parts = tuple(_part(p, asked.limit, file) for p in spec.parts)
    return Suite(
        spec.name, spec.version, spec.tier, spec.title, tuple(dict.fromkeys(asked.seeds or spec.seeds)), parts,
        spec.backbone, spec.backbone_options, {n: r.model_dump(exclude_none=True) for n, r in spec.references.items()},
        file, spec, tuple(_knob(text) for text in asked.set),
    )  # fmt: skip


def _locate(ref: str | Path) -> tuple[Path, str]:
    if isinstance(ref, Path) or ref.endswith(".toml"):
        return Path(ref), ""
    name, _, version = ref.partition("@")
    found = find("suites", name)
    if not isinstance(found, str | Path):
        raise UsageError(f"suite {name!r} must be the path of a TOML file, its entry point holds {found!r}")
    return Path(found), version


def _choose_methods(wanted: str, have: Iterable[MethodFile]) -> list[MethodFile]:
    own = [m for m in have if wanted in (m.label, default_label(m.ref, m.preset))]
    own = own or [m for m in have if wanted in (m.ref, default_label(m.ref, None))]
    if own:
        return own
    head, at, tail = wanted.rpartition("@") if ".py@" in wanted else ("", "", wanted)
    name, _, preset = tail.partition(":")
    return [MethodFile(ref=head + at + name, preset=preset or None)]


def _choose_metrics(wanted: str, have: Iterable[MetricFile]) -> list[MetricFile]:
    own = [m for m in have if wanted == (m.label or default_label(m.ref, None))] or [m for m in have if wanted == m.ref]
    if own:
        return own
    full = re.fullmatch(r"(.+)\[(.+)\](?:@([\w:-]+))?", wanted)
    return [MetricFile(ref=full[1], extractor=full[2], view=full[3], label=wanted) if full else MetricFile(ref=wanted)]


def _part(part: PartFile, limit: int | None, file: Path) -> Part:
    if limit is not None and limit < 0:
        raise UsageError(f"--limit takes a number of prompts, or 0 for the whole set; got {limit}")
    with _Where(f"{file}: part {part.name!r}"):
        base, _, _ = part.prompts.partition(":")
        if part.prompts.endswith(".jsonl"):
            path = file.parent / part.prompts
            own = PromptSet(path.stem, "", part.prompts, read_prompts(path), MappingProxyType({}))
            chosen = replace(own, version=own.digest[:8])
        else:
            chosen = prompts.load_prompts(base if limit == 0 else part.prompts, prompts.ROOT)
    if limit:
        chosen = replace(chosen, prompts=spread(chosen.prompts, limit))
    return Part(part.name, Canvas(part.width, part.height, part.loop), chosen)


def _knob(text: str) -> tuple[str, str, str]:
    target, equals, value = text.partition("=")
    method, dot, knob = target.rpartition(".")
    if not (equals and dot and method and knob):
        raise UsageError(f"--set takes METHOD.KNOB=VALUE, e.g. multidiffusion.stride=4; got {text!r}")
    return method, knob, value
