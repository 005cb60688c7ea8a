"""One small registry: decorators that describe plug-ins, and the ways to find them by name.

A reference is a name (``multidiffusion``), looked up among the entry points of the group, or ``FILE.py@name``.
Built-in plug-ins come through the same entry points as anybody else's. A plug-in that fails to import is
reported when it is asked for and does not disturb the others.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from bench.errors import UsageError, near
from bench.plugins import load_file
from bench.reading import fault, is_file, shown

# What a method of each family gets before its knobs.
FAMILIES = {
    "latent": ("backbone", "prompt", "canvas", "noise"),
    "tokens": ("backbone", "prompt", "canvas", "noise"),
    "video": ("backbone", "prompt", "canvas", "noise"),
    "control": ("prompt", "canvas", "noise"),  # no backbone: rendered truth and its deliberate defects
}


@dataclass(frozen=True)
class Param:
    """One knob, read off a signature."""

    name: str
    default: Any
    types: tuple[type, ...]

    def check(self, owner: str, value: Any) -> Any:
        """Return the value in the declared type, or raise ``UsageError``; numbers are finite, integers of 64 bits."""
        made = self._typed(owner, value)
        if wrong := fault(made):
            raise UsageError(f"{owner}.{self.name} {wrong}")
        return made

    def _typed(self, owner: str, value: Any) -> Any:
        if type(value) is int and fault(value):
            raise UsageError(f"{owner}.{self.name} {fault(value)}")
        if type(value) in self.types:
            return value
        if float in self.types and type(value) is int:
            return float(value)
        if isinstance(value, str) and str not in self.types:
            for wanted in self.types:
                parsed = _parse(value, wanted)
                if parsed is not _BAD:
                    return parsed
        expected = " or ".join("none" if t is type(None) else t.__name__ for t in self.types)
        raise UsageError(f"{owner}.{self.name} takes {expected}, got {shown(value)}; its default is {self.default!r}")


_BAD = object()


def _parse(text: str, wanted: type) -> Any:
    if wanted is type(None):
        return None if text.lower() in ("none", "null") else _BAD
    if wanted is bool:
        return {"true": True, "false": False}.get(text.lower(), _BAD)
    try:
        return wanted(text)
    except ValueError:  # also an integer of thousands of digits
        return _BAD


def _params(fn: Callable[..., Any], leading: tuple[str, ...]) -> dict[str, Param]:
    signature = inspect.signature(fn)
    given = tuple(p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY)
    if given != leading:
        raise UsageError(
            f"{fn.__module__}.{fn.__name__} must take ({', '.join(leading)}, *, knobs...), "
            f"it takes ({', '.join(given)})"
        )
    knobs = {}
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            if p.default is p.empty or p.annotation is p.empty:
                raise UsageError(f"{fn.__module__}.{fn.__name__}: knob {p.name!r} needs a type and a default")
            hint = _hint(fn, p.name, p.annotation)
            knobs[p.name] = Param(p.name, p.default, typing.get_args(hint) or (hint,))
    return knobs


def _hint(fn: Callable[..., Any], name: str, annotation: Any) -> Any:
    """One knob's type; the leading arguments' may name things that exist for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[fn.__module__]))  # the plug-in's own source text
    except NameError as error:
        owner = f"{fn.__module__}.{fn.__name__}"
        raise UsageError(f"{owner}: knob {name!r}: its type {annotation!r} is not known ({error})") from error


def _resolve(owner: str, knobs: Mapping[str, Param], given: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in knobs:
            raise UsageError(f"{owner} has no knob {name!r}; {near(name, knobs)}")
    return {n: k.check(owner, given[n]) if n in given else k.default for n, k in knobs.items()}


@dataclass(frozen=True)
class Method:
    """A sampler: a plain function whose keyword-only arguments are its configuration."""

    name: str
    family: str
    fn: Callable[..., Any]
    version: str
    paper: str
    licence: str
    optimises: tuple[str, ...]
    presets: Mapping[str, Mapping[str, Any]]
    params: Mapping[str, Param] = field(default_factory=dict)
    requires: Callable[..., Mapping[str, Any]] | None = None
    trainer: str = ""
    together: Callable[..., Any] | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.fn) or "").partition("\n")[0]

    def resolve(self, given: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
        """All knobs with their values: defaults, then the preset, then ``given``. Raises ``UsageError``."""
        if preset is not None and preset not in self.presets:
            raise UsageError(f"{self.name} has no preset {preset!r}; {near(preset, self.presets)}")
        base = dict(self.presets[preset]) if preset else {}
        return _resolve(self.name, self.params, {**base, **given})


def method(
    name: str,
    *,
    family: str,
    version: str = "1",
    paper: str = "",
    licence: str = "",
    optimises: tuple[str, ...] = (),
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    requires: Callable[..., Mapping[str, Any]] | None = None,
    trainer: str = "",
    together: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Method]:
    """Declare a sampling method.

    The function takes the leading arguments of its family (latent, tokens, video: ``backbone, prompt, canvas,
    noise``; control: ``prompt, canvas, noise``), then keyword-only knobs with types and defaults, and returns the
    picture as a float tensor or array (3, canvas.height, canvas.width) in [0, 1].

    Args:
        name: how users call it.
        family: one of ``FAMILIES``.
        version: bump it when the pixels change on purpose.
        paper: authors, venue, arXiv id.
        licence: licence of the original code.
        optimises: what the sampler descends on while sampling ("lpips-vgg"); such cells are marked on the board.
        presets: named sets of knobs, e.g. the official code's and a later paper's.
        requires: for a method that is made of more than its source (weights of its own, another method), or that can
            tell early what cannot work: ``requires(outline, canvas, knobs)``, asked when a plan is made. It returns
            digests by name, which recipes hold in the place of knobs of that name (a file's content, not its path), and
            raises ``UsageError`` on what cannot work, ``PrerequisiteError`` on files that are not here. ``outline()``
            is the backbone on the meta device, built from its configs.
        trainer: for a method with weights of its own, ``"module:name"`` of the :func:`trainer` that makes them.
        together: for a method that can make several pictures at once, each as it makes it alone:
            ``together(backbone, prompts, canvas, noises, *, knobs)`` -> pictures in the same order. It is asked where
            the backbone's option ``batch`` is more than 1.
    """
    if family not in FAMILIES:
        raise UsageError(f"method {name!r}: unknown family {family!r}; {near(family, FAMILIES)}")

    def wrap(fn: Callable[..., Any]) -> Method:
        knobs = _params(fn, FAMILIES[family])
        made = Method(
            name, family, fn, version, paper, licence, tuple(optimises), dict(presets or {}), knobs, requires, trainer,
            together,
        )  # fmt: skip
        for preset in made.presets:
            made.resolve({}, preset)
        return made

    return wrap


@dataclass(frozen=True)
class Trainer:
    """How the weights of a method are trained: a plain function whose keyword-only arguments are its settings."""

    name: str
    fn: Callable[..., Any]
    params: Mapping[str, Param]

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings with their values. Raises ``UsageError``."""
        return _resolve(self.name, self.params, given)


def trainer_of(method: str) -> Trainer:
    """The training of a method. Raises ``UsageError``: an unknown method, or one without a training."""
    chosen = find("methods", method)
    if not chosen.trainer:
        able = [name for name in names("methods") if find("methods", name).trainer]
        raise UsageError(f"method {method} has no weights of its own to train; these have: {', '.join(able)}")
    module, _, name = chosen.trainer.partition(":")
    found: Trainer = getattr(import_module(module), name)
    return found


def trainer(fn: Callable[..., Any]) -> Trainer:
    """Declare a training: ``fn(backbone, data, *, knobs)`` checks all that it is given and loads nothing.

    ``backbone`` is a :class:`methods.backbones.factory.Choice`, ``data`` a :class:`methods.training.pictures.Pictures`.
    It returns what makes the recipe for :func:`methods.training.loop.train`.
    """
    return Trainer(f"{fn.__name__} training", fn, _params(fn, ("backbone", "data")))


# What a set metric gets before its knobs: rows of features or of class logits of the pictures, then those of its
# reference set, then those of single pictures by the pictures' own backbone (a reference named base-BACKBONE).
SET_INPUTS = (("features", "reference"), ("logits",), ("features", "reference", "base"))


@dataclass(frozen=True)
class Metric:
    """How a number is computed and how to read it. See :func:`metric`."""

    name: str
    scope: str
    fn: Callable[..., Any]
    version: str
    view: str
    extractor: str | None
    values: Mapping[str, str]
    unit: str
    range: tuple[float | None, float | None]
    prompted: bool
    source: str
    params: Mapping[str, Param]
    inputs: tuple[str, ...] = ()  # the function's leading arguments

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.fn) or "").partition("\n")[0]

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All knobs with their values. Raises ``UsageError``."""
        return _resolve(self.name, self.params, given)


def metric(
    name: str,
    *,
    scope: str,
    values: Mapping[str, str],
    view: str = "whole",
    extractor: str | None = None,
    version: str = "1",
    unit: str = "",
    range: tuple[float | None, float | None] = (None, None),
    prompted: bool = False,
    source: str = "",
) -> Callable[[Callable[..., Any]], Metric]:
    """Declare a metric.

    Args:
        name: the metric's id, e.g. ``gsd-dino``.
        scope: ``image`` (``fn(sample, *, knobs)`` returns a list of :class:`bench.types.Value`) or ``set``
            (``fn(features, reference, *, knobs)`` on (n, d) and (m, d) float64 arrays returns ``{name: value}``;
            other leading arguments of a set metric: ``SET_INPUTS``).
        values: what it returns and which way is better: ``{"gsd-dino": "lower", "gsd-dino-worst": "lower"}``;
            directions are ``lower``, ``higher``, ``zero``, ``one`` (closest wins) or ``none``.
        view: where it looks by default.
        extractor: the role of the network it needs (``dino``, ``clip``, ``inception``, ``lpips``, ``oracle``), or None.
        prompted: whether the number depends on the prompt (then prompt text and attributes are part of its key).
        unit, range: how to read the number; open ends are None.
        source: paper, section, equation.
    """
    if scope not in ("image", "set"):
        raise UsageError(f"metric {name!r}: scope must be 'image' or 'set', got {scope!r}")
    bad = set(values.values()) - {"lower", "higher", "zero", "one", "none"}
    if bad:
        raise UsageError(f"metric {name!r}: unknown direction {bad.pop()!r}")

    def wrap(fn: Callable[..., Any]) -> Metric:
        inputs: tuple[str, ...] = ("sample",)
        if scope == "set":
            taken = tuple(p.name for p in inspect.signature(fn).parameters.values() if p.kind is not p.KEYWORD_ONLY)
            inputs = taken if taken in SET_INPUTS else SET_INPUTS[0]
        knobs = _params(fn, inputs)
        return Metric(
            name, scope, fn, version, view, extractor, dict(values), unit, range, prompted, source, knobs, inputs
        )

    return wrap


@dataclass(frozen=True)
class Wrapper:
    """A network that metrics look through, as another package or a file declares it. See :func:`extractor`."""

    name: str
    role: str
    fn: Callable[..., Any]
    version: str
    weights: str
    licence: str


def extractor(
    name: str, *, role: str, weights: str = "", version: str = "1", licence: str = ""
) -> Callable[[Callable[..., Any]], Wrapper]:
    """Declare a network that metrics look through: a class (or function) of ``found, device``.

    ``found.path`` is where its weights are; what it must have stands in :mod:`bench.extractors.protocol`, by role.

    Args:
        name: how users call it.
        role: what it is to metrics: dino, clip, inception, lpips, ...
        weights: a file or folder, beside the declaring file unless the path is absolute; part of its identity.
        version: bump it when its features change on purpose.
        licence: of the weights.
    """

    def wrap(fn: Callable[..., Any]) -> Wrapper:
        return Wrapper(name, role, fn, version, weights, licence)

    return wrap


PLUGS = (Method, Metric, Wrapper)


# -- finding plug-ins by name

KINDS = ("methods", "metrics", "backbones", "suites", "extractors")


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in sorted(entry_points(group=f"scrollbench.{kind}"), key=lambda e: e.value)}


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted; imports nothing."""
    return sorted(_entries(kind))


def find(kind: str, ref: str) -> Any:
    """Load a plug-in by name or ``FILE.py@name``.

    Raises:
        UsageError: unknown kind or name (with near misses), a file or attribute that is not there, or a plug-in
            that fails to import (with its own error).
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; {near(kind, KINDS)}")
    if "@" in ref and ref.partition("@")[0].endswith(".py"):
        return _from_file(kind, ref)
    entries = _entries(kind)
    if ref not in entries:
        hint = f"{near(ref, entries)} `scrollbench list {kind}` shows them all"
        raise UsageError(f"unknown {kind[:-1]} {shown(ref)}; {hint}")
    try:
        return entries[ref].load()
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way; say which one and why
        raise UsageError(f"{kind[:-1]} {ref!r} ({entries[ref].value}) does not load: {error!r}") from error


def _from_file(kind: str, ref: str) -> Any:
    file, _, name = ref.partition("@")
    if not is_file(Path(file)):
        raise UsageError(f"no file {shown(file)} for {kind[:-1]} {shown(ref)}; expected FILE.py@name")
    path = Path(file).resolve()
    module = load_file(path)
    found = {}
    for key, value in vars(module).items():
        plug = getattr(value, "name", None) if isinstance(value, PLUGS) else key
        if not key.startswith("_") and (isinstance(value, PLUGS) or callable(value)):
            found[plug or key] = value
    if name not in found:
        raise UsageError(f"{file} defines no {kind[:-1]} {name!r}; {near(name, found)}")
    wanted = {"methods": Method, "metrics": Metric, "extractors": Wrapper}.get(kind)
    if wanted and not isinstance(found[name], wanted):
        raise UsageError(f"{ref} is not a {kind[:-1]}: decorate it with bench.registry.{kind[:-1]}")
    return found[name]
