"""What there is to choose from: methods, metrics, prompts and the rest, as plain dictionaries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import extractors, prompts, registry, views
from bench.errors import UsageError, near
from bench.prompts import sets
from bench.suites.file import read_suite
from bench.suites.load import load_suite
from bench.suites.protocols import load_protocol, protocols
from bench.suites.tables import MetricFile
from bench.types import Canvas
from bench.views import parse, seen

if TYPE_CHECKING:
    from bench.suites.suite import Suite
    from bench.suites.tables import MethodFile, SuiteFile
    from bench.suites.values import MethodUse

Entry = dict[str, Any]


def kinds() -> list[str]:
    """Everything :func:`listing` can list."""
    return list(_LISTINGS)


def listing(kind: str) -> list[Entry]:
    """One entry per thing of a kind, each with a ``name``. A plug-in that does not load is listed with its error.

    Raises:
        UsageError: an unknown kind, with near misses.
    """
    if kind not in _LISTINGS:
        raise UsageError(f"cannot list {kind!r}; {near(kind, _LISTINGS)}")
    names, entry = _LISTINGS[kind]
    rows = []
    for name in names():
        try:
            rows.append({"name": name, **entry(name)})
        except UsageError as error:
            rows.append({"name": name, "error": str(error)})
    return rows


def describe(name: str) -> list[Entry]:
    """All that is known of a name, once for every kind that has it; ``FILE.py@name`` and ``SET:selection`` work too.

    Raises:
        UsageError: nobody has that name, with near misses over all kinds.
    """
    found = []
    if ".py@" in name:
        for kind in ("methods", "metrics"):
            try:
                found.append({"kind": kind[:-1], "name": name, **_DETAILS[kind](name)})
            except UsageError as error:
                problem = error
        if not found:
            raise problem
        return found
    known: set[str] = set()
    for kind, (names, _) in _LISTINGS.items():
        have = set(names())
        known |= have
        plain = name.partition(":")[0] if kind in ("prompts", "views") else name
        if plain in have or (kind == "prompts" and any(n.partition("@")[0] == plain for n in have)):
            found.append(
                {"kind": "prompt set" if kind == "prompts" else kind[:-1], "name": name, **_DETAILS[kind](name)}
            )
    if not found:
        raise UsageError(f"nothing is called {name!r}; {near(name, known)} `scrollbench list KIND` shows what there is")
    return found


# -- one line each


def _method(name: str) -> Entry:
    m = registry.find("methods", name)
    return {"family": m.family, "presets": sorted(m.presets), "summary": m.summary}


def _metric(name: str) -> Entry:
    m = registry.find("metrics", name)
    return {"scope": m.scope, "view": m.view, "extractor": m.extractor, "values": dict(m.values), "summary": m.summary}


def _backbone(name: str) -> Entry:
    factory = registry.find("backbones", name)
    return {"family": getattr(factory, "family", None), "summary": _first(factory)}


def _suite(name: str) -> Entry:
    spec = _suite_file(name)
    return {
        "suite": f"{spec.name}@{spec.version}",
        "tier": spec.tier + (", miniature" if spec.miniature else ""),
        "parts": [f"{p.name} {p.width}x{p.height}" for p in spec.parts],
        "methods": _here("methods", spec.methods),
        "metrics": _here("metrics", spec.metrics),
        "title": spec.title,
    }


def _here(kind: str, entries: Sequence[MethodFile | MetricFile]) -> str:
    """How many of what a suite names is in this project, by name alone."""
    have = sum(".py@" in m.ref or m.ref in registry.names(kind) for m in entries)
    return str(have) if have == len(entries) else f"{have} of {len(entries)}"


def _suite_file(name: str) -> SuiteFile:
    return read_suite(Path(registry.find("suites", name)))


def _prompts(name: str) -> Entry:
    chosen = prompts.load_prompts(name)
    themes = {p.attributes.get("theme") for p in chosen.prompts} - {None}
    return {"prompts": len(chosen.prompts), "themes": len(themes), "title": chosen.card.get("title", "")}


def _views() -> dict[str, str]:
    """Views and their one-line meaning, read off the table in the module's text."""
    lines = (line.split(maxsplit=1) for line in (views.__doc__ or "").splitlines())
    said = {words[0]: words[1].strip() for words in lines if len(words) == 2}
    return {name: said.get(name, "") for name in views.VIEWS}


def _extractor(name: str) -> Entry:
    card = extractors.card(name)
    return {"role": card["role"], "present": card["present"], "licence": card["licence"], "source": card["source"]}


def _extractors() -> list[str]:
    return extractors.names()


def _references() -> dict[str, Entry]:
    """Reference sets of all suites, as SUITE/NAME."""
    found: dict[str, Entry] = {}
    for suite in registry.names("suites"):
        try:
            spec = _suite_file(suite)
        except UsageError:
            continue  # `list suites` tells what is wrong with it
        for name, r in spec.references.items():
            found[f"{suite}/{name}"] = {**r.said, **({"photographs": r.photographs} if r.photographs else {})}
    return found


def _protocol(name: str) -> Entry:
    p = load_protocol(name)
    return {"metrics": len(p.metrics), "assumed": sum(map(len, p.assumed.values())), "title": p.title}


def _protocols() -> list[str]:
    return protocols()


def _first(thing: Any) -> str:
    return str(getattr(thing, "summary", None) or (inspect.getdoc(thing) or "").partition("\n")[0])


_LISTINGS: dict[str, tuple[Callable[[], Any], Callable[[str], Entry]]] = {
    "methods": (lambda: registry.names("methods"), _method),
    "metrics": (lambda: registry.names("metrics"), _metric),
    "backbones": (lambda: registry.names("backbones"), _backbone),
    "suites": (lambda: registry.names("suites"), _suite),
    "prompts": (sets.available, _prompts),
    "views": (_views, lambda name: {"summary": _views()[name]}),
    "extractors": (_extractors, _extractor),
    "references": (_references, lambda name: _references()[name]),
    "protocols": (_protocols, _protocol),
}


# -- everything


def _method_details(name: str) -> Entry:
    m = registry.find("methods", name)
    return {
        "version": m.version,
        "family": m.family,
        "paper": m.paper,
        "licence": m.licence,
        "optimises": list(m.optimises),
        "knobs": _knobs(m.params),
        "presets": {k: dict(v) for k, v in m.presets.items()},
        "training": _knobs(registry.trainer_of(name).params) if m.trainer else {},
        "text": inspect.getdoc(m.fn) or "",
    }


def _metric_details(name: str) -> Entry:
    m = registry.find("metrics", name)
    return {
        "version": m.version,
        "scope": m.scope,
        "view": m.view,
        "extractor": m.extractor,
        "values": dict(m.values),
        "unit": m.unit,
        "range": " to ".join("open" if end is None else f"{end:g}" for end in m.range),
        "prompted": m.prompted,
        "source": m.source,
        "knobs": _knobs(m.params),
        "text": inspect.getdoc(m.fn) or "",
    }


def _backbone_details(name: str) -> Entry:
    factory = registry.find("backbones", name)
    options = {k: None if v is inspect.Parameter.empty else v for k, v in getattr(factory, "options", {}).items()}
    return {"family": getattr(factory, "family", None), "options": options, "text": inspect.getdoc(factory) or ""}


def _suite_details(name: str) -> Entry:
    suite = load_suite(name)
    return {
        "suite": suite.ref,
        "digest": suite.digest,
        "tier": suite.tier,
        "title": suite.title,
        "seeds": _seeds(suite.seeds),
        "backbone": suite.backbone,
        "file": str(suite.file),
        "parts": {p.name: f"{p.canvas}, {len(p.prompts.prompts)} prompts of {p.prompts.ref}" for p in suite.parts},
        "methods": {m.label: _method_use(m, suite) for m in suite.methods},
        "metrics": {m.label: _use(m.extractor, m.view, m.reference) for m in suite.metrics},
        "unavailable": {f"{u.kind} {u.label}": u.reason for u in suite.unavailable},
        "references": {n: dict(r) for n, r in suite.references.items()},
    }


def _seeds(seeds: Sequence[int]) -> Any:
    """A long run of seeds in three words."""
    plain = len(seeds) > 9 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if plain else list(seeds)


def _method_use(use: MethodUse, suite: Suite) -> Entry:
    own = {"backbone": use.backbone} if use.backbone not in (None, suite.backbone) else {}
    return {**own, **use.params}


def _use(extractor: str | None, view: str, reference: str | None) -> str:
    return f"{extractor or 'pixels'} @ {view}" + (f" against {reference}" if reference else "")


def _prompts_details(name: str) -> Entry:
    chosen = prompts.load_prompts(name)
    listed = [
        {"id": p.id, "prompt": p.text, **({"negative": p.negative} if p.negative else {})} for p in chosen.prompts
    ]
    card = {k: " ".join(v.split()) if isinstance(v, str) else v for k, v in chosen.card.items()}
    tables = {k: v for k, v in card.items() if isinstance(v, Mapping)}
    if "splits" in tables:  # long lists: PROMPTS:SPLIT shows one
        tables["splits"] = {split: f"{len(ids)} prompts" for split, ids in tables["splits"].items()}
    prose = {k: v for k, v in card.items() if k not in tables}
    return {"digest": chosen.digest, "count": len(chosen.prompts), "card": prose, **tables, "prompts": listed}


def _view_details(name: str) -> Entry:
    plain, _ = parse(name)
    canvases = [Canvas(w, 512, plain == "ring") for w in (512, 1024, 2048, 4096)]
    return {"summary": _views()[plain], "seen": {str(c): round(seen(name, c), 4) for c in canvases}}


def _extractor_details(name: str) -> Entry:
    return dict(extractors.card(name))


def _protocol_details(name: str) -> Entry:
    p = load_protocol(name)
    entries = [MetricFile.model_validate(m) for m in p.metrics]
    looked = {m.name: _use(m.extractor, str(m.view), m.reference) for m in entries}
    assumed = {label: dict(fields) for label, fields in p.assumed.items()}
    said = {"title": p.title, "source": p.source, "metrics": looked, "assumed": assumed}
    return {**said, "references": p.references, "left_out": dict(p.left_out)}


def _knobs(params: Mapping[str, registry.Param]) -> dict[str, Entry]:
    """Name -> default and type, as read off the signature."""
    return {
        name: {"default": p.default, "type": " or ".join("none" if t is type(None) else t.__name__ for t in p.types)}
        for name, p in params.items()
    }


_DETAILS: dict[str, Callable[[str], Entry]] = {
    "methods": _method_details,
    "metrics": _metric_details,
    "backbones": _backbone_details,
    "suites": _suite_details,
    "prompts": _prompts_details,
    "views": _view_details,
    "extractors": _extractor_details,
    "references": lambda name: _references()[name],
    "protocols": _protocol_details,
}
