"""Loading of suites: a file, what a command changes about it, and the suite they come to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench import prompts
from bench.errors import UsageError, near
from bench.prompts import PromptSet, sets
from bench.prompts.sets import read_prompts, spread
from bench.reading import MOST, shown, unreadable
from bench.registry import find
from bench.suites.file import check_labels, read_suite
from bench.suites.miniature import shrink
from bench.suites.suite import Suite
from bench.suites.tables import TIERS, MethodFile, MetricFile, PartFile, SuiteFile, default_label
from bench.suites.values import Part, Unavailable, Where
from bench.types import Canvas
from bench.world.scene import check_scenes


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
        tier: ``miniature`` runs a suite of tier full on the embedded miniature (bench.suites.miniature).
        precision: of every backbone, instead of the suite's; another precision is another suite digest.
    """

    methods: Sequence[str] = ()
    metrics: Sequence[str] = ()
    set: Sequence[str] = ()
    limit: int | None = None
    seeds: Sequence[int] = ()
    tier: str | None = None
    precision: str | None = None


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
    own = tuple(spec.metrics) if asked.metrics else None
    changes: dict[str, Any] = {}
    if asked.methods:
        left_out = tuple(u for u in left_out if u.kind != "method")
        changes["methods"] = [m for wanted in asked.methods for m in _choose_methods(wanted, spec.methods)]
    if asked.metrics:
        left_out = tuple(u for u in left_out if u.kind != "metric")
        changes["metrics"] = [m for wanted in asked.metrics for m in _choose_metrics(wanted, spec.metrics)]
    spec = spec.model_copy(update=changes)
    if asked.precision:
        spec = _at(spec, asked.precision)
    check_labels(spec, file)
    parts = tuple(_part(p, asked.limit, file) for p in spec.parts)
    return Suite(
        spec.name, spec.version, spec.tier, spec.title, tuple(dict.fromkeys(asked.seeds or spec.seeds)), parts,
        spec.backbone, spec.backbone_options, {n: r.said for n, r in spec.references.items()},
        file, spec, tuple(_knob(text) for text in asked.set), left_out, _options(ref, asked), own,
    )  # fmt: skip


def _options(ref: str | Path, asked: Overrides) -> str:
    """What of a command line chooses prompts, seeds, tier and precision."""
    words = ["--suite", str(ref)]
    for option, value in (("--tier", asked.tier), ("--limit", asked.limit), ("--precision", asked.precision)):
        words += [option, str(value)] if value is not None else []
    words += [word for seed in asked.seeds for word in ("--seed", str(seed))]
    return shlex.join(words)


def _at(spec: SuiteFile, precision: str) -> SuiteFile:
    """The suite with all of its backbones in one precision."""
    said = {"precision": precision}
    methods = [
        m.model_copy(update={"backbone_options": {**m.backbone_options, **said}}) if m.backbone else m
        for m in spec.methods
    ]
    return spec.model_copy(update={"backbone_options": {**spec.backbone_options, **said}, "methods": methods})


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
            chosen = prompts.load_prompts(base if limit == 0 else part.prompts, sets.ROOT)
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
