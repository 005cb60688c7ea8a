"""Which models of the manifest a suite needs: those of its backbones, of its metrics' networks, and of its methods."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, near
from bench.extractors import ROLES, default
from bench.extractors.catalogue import models
from bench.extractors.weights import variants
from bench.extractors.weights.manifest import Model, Presence, at, hub_cache, load_manifest, state, unlock
from bench.registry import find
from bench.registry import names as registered
from bench.suites.load import load_suite

if TYPE_CHECKING:
    from bench.suites.suite import Suite

BASES = ("backbone", "vae", "text-encoder")  # what backbones are made of, whatever the methods


def choose(names: Iterable[str]) -> list[Model]:
    """Models by their names, or all a suite needs by the suite's name or file, each once.

    Raises:
        UsageError: a name that is neither, with near misses.
    """
    manifest, chosen = load_manifest(), dict[str, Model]()
    for name in names:
        if name in manifest:
            chosen[name] = manifest[name]
        elif name.endswith(".toml") or name.partition("@")[0] in registered("suites"):
            chosen |= {model.name: model for model in needed(load_suite(name))}
        else:
            raise UsageError(
                f"no model or suite is called {name!r}; {near(name, [*manifest, *registered('suites')])} "
                f"`scrollbench weights list` shows the models"
            )
    return list(chosen.values())


def needed(suite: Suite) -> list[Model]:
    """The models that the suite's backbones, metrics and methods need, as far as they are part of this project.

    A model is needed where a backbone's option, a method's knob or an extractor names it, its repository or a model
    that does not work without it, and (tier full) where a method, or a metric without an extractor, stands in its
    ``needed_by``; upscalers only where a knob names them. A revision that the suite names takes the place of the
    manifest's. What the suite only plans to use needs nothing yet.
    """
    told: dict[str, tuple[str | None, str]] = {}  # what options and knobs say -> revision and variant said beside it
    makers, users = set[str](), set[str]()
    for base in bases(suite):
        files = (base.said.get("revision"), base.said.get("variant", ""))
        told |= {v: files if k == "model" else (None, "") for k, v in base.said.items()}
        makers |= {base.name} if base.homemade else set()
    for m, method in _taking_part(suite, "method"):
        users.add(getattr(method, "name", m.ref))
        preset = getattr(method, "presets", {}).get(m.preset, {})
        knobs = {name: p.default for name, p in getattr(method, "params", {}).items()} | dict(preset) | m.set
        told |= {v: (None, "") for v in knobs.values() if isinstance(v, str)}
    for m, metric in _taking_part(suite, "metric"):
        users |= set() if extractor_of(metric, m.extractor, suite.tier) else {getattr(metric, "name", m.ref)}
    seen = {model.name for name in extractors(suite) for model in models(name)}
    found, named = [], told.keys() & load_manifest().keys()
    for model in load_manifest().values():
        if model.repository in told:
            revision, variant = told[model.repository]
            found.append(at(variants.of(model, variant) if variant else model, revision))
        elif model.name in told or model.name in seen or named.intersection(model.needed_by):
            found.append(model)
        elif model.role in BASES:
            found += [model] if makers.intersection(model.needed_by) else []
        elif suite.tier == "full" and model.role != "upscaler" and users.intersection(model.needed_by):
            found.append(model)
    return found


def _taking_part(suite: Suite, kind: str) -> list[tuple[Any, Any]]:
    """(entry, plug-in) of the suite's methods or metrics that are here and can take part."""
    try:
        absent = {(u.kind, u.label) for u in suite.unavailable}
    except UsageError:  # a wrong entry is for others to tell of
        absent = set()
    entries = suite.spec.methods if kind == "method" else suite.spec.metrics
    pairs = [(m, here(f"{kind}s", m.ref)) for m in entries if (kind, m.name) not in absent]
    return [(m, plugin) for m, plugin in pairs if plugin is not None]


@dataclass(frozen=True)
class Bill:
    """What a suite lacks on this machine: models, folders to be made of them, and the room there is.

    Attributes:
        name: what ``weights fetch`` takes for the suite.
        absent: models that are not here, or not all of them.
        unmade: backbones whose folder is made of fetched files and is not here.
        free: bytes free where the hub's cache is, ``home``.
    """

    name: str
    absent: tuple[Presence, ...]
    unmade: tuple[str, ...]
    free: int
    home: Path

    @property
    def size_gb(self) -> float:
        """All that is absent; what is here in part counts in full."""
        return sum(f.model.size_gb for f in self.absent)

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return self.size_gb * 1e9 <= self.free

    @property
    def gated(self) -> list[Model]:
        """Those whose licence must be accepted first."""
        return [f.model for f in self.absent if f.model.gated]

    @property
    def text(self) -> str:
        """All of it in one sentence, the steps that unlock what is gated included."""
        said = f"{len(self.absent)} models, {self.size_gb:.1f} GB"
        said += f", and {', '.join(self.unmade)} to be made of them" if self.unmade else ""
        said += f"; {self.free / 1e9:.1f} GB free at {self.home}" + ("" if self.fits else ", which is not enough")
        return said + "".join(f"; gated: {unlock(m)}" for m in self.gated)


def bill(suite: Suite) -> Bill:
    """What is lacking of a suite's models; asks no network and reads no file."""
    absent = tuple(f for f in map(state, needed(suite)) if f.state != "present")
    name = suite.name if suite.name in registered("suites") else str(suite.file)
    home = next(p for p in (hub_cache(), *hub_cache().absolute().parents) if p.exists())
    unmade = tuple(dict.fromkeys(base.name for base in bases(suite) if _maker(base)))
    return Bill(name, absent, unmade, shutil.disk_usage(home).free, home)


def make_folders(suite: Suite, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Make the folders that a suite's backbones load of the fetched files, as LlamaGen's; those that are here stay.

    Raises:
        PrerequisiteError: files that were not fetched.
        UsageError: files that are not the released ones.
    """
    made = []
    for base in bases(suite):
        if (make := _maker(base)) is not None:
            say(f"{base.name}: making {base.said['model']} of the fetched files")
            made.append(Path(base.said["model"]).expanduser())
            made[-1].parent.mkdir(parents=True, exist_ok=True)
            make(made[-1])
    return made


def _maker(base: Base) -> Callable[[Path], Any] | None:
    """What makes the folder that a backbone loads, where one is named and is not here."""
    make: Callable[[Path], Any] | None = getattr(here("backbones", base.ref), "make", None)
    return make if base.homemade and "model" in base.said else None


@dataclass(frozen=True)
class Base:
    """A backbone as a suite asks for it: ``options`` are the suite's, ``known`` the backbone's own with defaults."""

    ref: str
    name: str
    options: Mapping[str, Any]
    known: Mapping[str, Any]

    @property
    def said(self) -> dict[str, str]:
        """All options that are text, defaults included."""
        return {k: v for k, v in {**self.known, **self.options}.items() if isinstance(v, str)}

    @property
    def homemade(self) -> bool:
        """Whether it takes a folder made from released files, as LlamaGen does, and that folder is not here."""
        own = "model" in self.known and not isinstance(self.known["model"], str)
        return own and not Path(self.said.get("model", " ")).expanduser().is_dir()


def bases(suite: Suite) -> list[Base]:
    """The backbones of a suite and those its methods ask for themselves; what is not here is left out."""
    asked = [(suite.backbone, suite.backbone_options)]
    for m, method in _taking_part(suite, "method"):
        own = {} if m.backbone else suite.backbone_options
        if getattr(method, "family", None) != "control":
            asked.append((m.backbone or suite.backbone, {**own, **m.backbone_options}))
    found: list[Base] = []
    for ref, options in asked:
        factory = here("backbones", ref) if ref else None
        if ref and factory is not None:
            base = Base(ref, getattr(factory, "name", ref), dict(options), dict(getattr(factory, "options", {})))
            found += [base] if base not in found else []
    return found


def extractors(suite: Suite) -> list[str]:
    """The extractors that the suite's metrics look through, each once."""
    seen = [extractor_of(metric, m.extractor, suite.tier) for m, metric in _taking_part(suite, "metric")]
    return list(dict.fromkeys(name for name in seen if name))


def extractor_of(metric: Any, named: str | None, tier: str) -> str | None:
    """The extractor a metric looks through in a suite of a tier; None for pixels, and for roles that nobody knows."""
    role = getattr(metric, "extractor", None)
    return named or (default(role, tier) if role in ROLES else None)


def here(kind: str, ref: str) -> Any:
    """A plug-in, or None where it is not part of this project or does not load."""
    try:
        return find(kind, ref)
    except UsageError:
        return None
