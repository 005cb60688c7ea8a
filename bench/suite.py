"""Suites: which prompts on which canvases, by which methods, measured how. TOML files, resolved through the registry.

Methods and metrics are looked up only when asked for: pictures can be made where no metric is installed, and
scored where no generator is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench import prompts, suite_uses
from bench.errors import UsageError, near
from bench.ids import digest
from bench.prompts import PromptSet, read_prompts, spread
from bench.reading import MOST, shown, unreadable
from bench.registry import find
from bench.suite_file import (
    TIERS,
    MethodFile,
    MetricFile,
    PartFile,
    SuiteFile,
    check_labels,
    default_label,
    read_suite,
)  # fmt: skip
from bench.suite_miniature import shrink
from bench.suite_uses import MethodUse as MethodUse
from bench.suite_uses import MetricUse as MetricUse
from bench.suite_uses import Unavailable as Unavailable
from bench.suite_uses import Where
from bench.types import Canvas
from bench.world.scene import check_scenes

# -- what it means


@dataclass(frozen=True)
class Part:
    """Prompts on one canvas."""

    name: str
    canvas: Canvas
    prompts: PromptSet


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
    left_out: tuple[Unavailable, ...] = ()  # what the miniature has no stand-in for

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

    @property
    def shrunk(self) -> bool:
        """Whether this is a suite of tier full on the miniature."""
        return self.tier == "miniature" and self.spec.miniature is not None

    @property
    def methods(self) -> tuple[MethodUse, ...]:
        """The methods that are here, with all their knobs (:func:`bench.suite_uses.methods`)."""
        return self._methods[0]

    @property
    def metrics(self) -> tuple[MetricUse, ...]:
        """The metrics that are here, with all that they need (:func:`bench.suite_uses.metrics`)."""
        return self._metrics[0]

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """What the suite names that is not here: it spoils nothing and counts nowhere. Raises what the others raise."""
        return (*self.left_out, *self._methods[1], *self._metrics[1], *suite_uses.references(self))

    @cached_property
    def _methods(self) -> tuple[tuple[MethodUse, ...], tuple[Unavailable, ...]]:
        return suite_uses.methods(self)

    @cached_property
    def _metrics(self) -> tuple[tuple[MetricUse, ...], tuple[Unavailable, ...]]:
        return suite_uses.metrics(self)


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
        tier: ``miniature`` runs a suite of tier full on the embedded miniature (bench.suite_miniature).
    """

    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()
    set: Sequence[str] = ()
    limit: int | None = None
    seeds: Sequence[int] = ()
    tier: str | None = None


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
    _check_overrides(asked)
    file, version = _locate(ref)
    spec = read_suite(file)
    if version and version != spec.version:
        raise UsageError(f"suite {ref!r}: {file} holds version {spec.version}")
    spec, left_out = _of_tier(spec, asked.tier, file)
    for u in left_out:
        if u.label in (asked.methods if u.kind == "method" else asked.metrics):
            raise UsageError(f"{file}: {u.kind} {u.label!r}: {u.reason}")
    changes: dict[str, Any] = {}
    if asked.methods:
        left_out = tuple(u for u in left_out if u.kind != "method")
        changes["methods"] = [m for wanted in asked.methods for m in _choose_methods(wanted, spec.methods)]
    if asked.metrics:
        left_out = tuple(u for u in left_out if u.kind != "metric")
        changes["metrics"] = [m for wanted in asked.metrics for m in _choose_metrics(wanted, spec.metrics)]
    spec = spec.model_copy(update=changes)
    check_labels(spec, file)
    parts = tuple(_part(p, asked.limit, file) for p in spec.parts)
    return Suite(
        spec.name, spec.version, spec.tier, spec.title, tuple(dict.fromkeys(asked.seeds or spec.seeds)), parts,
        spec.backbone, spec.backbone_options, {n: r.said for n, r in spec.references.items()},
        file, spec, tuple(_knob(text) for text in asked.set), left_out,
    )  # fmt: skip


def with_methods(suite: Suite, wanted: Iterable[str]) -> Suite:
    """The same suite, and board, with other methods (as in :class:`Overrides`); each stands there once."""
    chosen = {m.name: m for text in wanted for m in _choose_methods(text, suite.spec.methods)}
    return replace(suite, spec=suite.spec.model_copy(update={"methods": list(chosen.values())}))


def label_of(suite: Suite, wanted: str) -> str:
    """What the board calls a method of :func:`with_methods`; looked up in the registry only where knobs are set."""
    plain = with_methods(suite, [wanted])
    (m,) = plain.spec.methods
    if not suite.knobs:
        return m.name
    mine = {m.name, m.ref, default_label(m.ref, None), replace(plain, knobs=()).methods[0].method.name}
    return replace(plain, knobs=tuple(k for k in suite.knobs if k[0] in mine)).methods[0].label


def _check_overrides(asked: Overrides) -> None:
    """Refuse what no command can mean, before anything is read."""
    for key in ("methods", "metrics", "set"):
        for text in getattr(asked, key):
            if not text.strip() or (bad := unreadable(text)):
                wrong = f"holds {bad}" if text.strip() else "is empty"
                raise UsageError(f"--{key.removesuffix('s')}: {shown(text)} {wrong}")
    for seed in asked.seeds:
        if type(seed) is not int or not 0 <= seed <= MOST:
            raise UsageError(f"--seed takes integers from 0 to 2^63 - 1, got {shown(seed)}")
    if asked.limit is not None and (type(asked.limit) is not int or asked.limit < 0):
        raise UsageError(f"--limit takes a number of prompts, or 0 for the whole set; got {shown(asked.limit)}")


def _of_tier(spec: SuiteFile, tier: str | None, file: Path) -> tuple[SuiteFile, tuple[Unavailable, ...]]:
    if tier in (None, spec.tier):
        return spec, ()
    if tier not in TIERS:
        raise UsageError(f"unknown tier {shown(tier)}; {near(str(tier), TIERS)}")
    if tier == "full":
        raise UsageError(f"{file} is of tier miniature; there is no full tier of it")
    return shrink(spec, file)


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
        return [m.model_copy(update={"planned": False}) for m in own]  # what is asked for must be there
    head, at, tail = wanted.rpartition("@") if ".py@" in wanted else ("", "", wanted)
    name, _, preset = tail.partition(":")
    if not name:
        raise UsageError(f"--method takes NAME, NAME:PRESET or FILE.py@NAME, got {shown(wanted)}")
    return [MethodFile(ref=head + at + name, preset=preset or None)]


def _choose_metrics(wanted: str, have: Iterable[MetricFile]) -> list[MetricFile]:
    own = [m for m in have if wanted == m.name] or [m for m in have if wanted == m.ref]
    if own:
        return [m.model_copy(update={"planned": False}) for m in own]
    full = re.fullmatch(r"(.+)\[(.+)\](?:@([\w:-]+))?", wanted)
    return [MetricFile(ref=full[1], extractor=full[2], view=full[3], label=wanted) if full else MetricFile(ref=wanted)]


def _part(part: PartFile, limit: int | None, file: Path) -> Part:
    with Where(f"{file}: part {part.name!r}"):
        base, _, _ = part.prompts.partition(":")
        if part.prompts.endswith(".jsonl"):
            path = file.parent / part.prompts
            own = PromptSet(path.stem, "", part.prompts, read_prompts(path), MappingProxyType({}), path)
            chosen = replace(own, version=own.digest[:8])
        else:
            chosen = prompts.load_prompts(base if limit == 0 else part.prompts, prompts.ROOT)
        check_scenes(chosen)
    if limit:
        chosen = replace(chosen, prompts=spread(chosen.prompts, limit))
    return Part(part.name, Canvas(part.width, part.height, part.loop), chosen)


def _knob(text: str) -> tuple[str, str, str]:
    target, equals, value = text.partition("=")
    method, dot, knob = target.rpartition(".")
    if not (equals and dot and method and knob):
        raise UsageError(f"--set takes METHOD.KNOB=VALUE, e.g. multidiffusion.stride=4; got {shown(text)}")
    return method, knob, value
