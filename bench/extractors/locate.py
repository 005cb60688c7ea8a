"""Weights of extractors on this machine: where they are, and the identity they give. Free of torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, UsageError
from bench.extractors.catalogue import NAMES, ROLES, declared, models, role, wrapper
from bench.extractors.weights.manifest import checkpoints, require, snapshot, state
from bench.ids import digest, file_digest, folder_digest
from bench.registry import Wrapper
from bench.source import source_digest

if TYPE_CHECKING:
    from bench.extractors.catalogue import Spec

WORLD = Path(str(files("bench"))) / "world" / "weights"


@dataclass(frozen=True)
class Found:
    """An extractor whose weights are here. ``digest`` is its identity: source, architecture and weights."""

    name: str
    role: str
    digest: str
    path: Path  # a file, or a folder
    model: str
    also: tuple[Path, ...] = ()  # the further files where ``path`` is a file
    variant: str = ""  # of :class:`Spec`
    declared: Wrapper | None = None  # by another package or a file

    def file(self, pattern: str) -> Path:
        """The one of its files that matches a pattern."""
        files = (self.path, *self.also) if self.path.is_file() else tuple(self.path.iterdir())
        return next(f for f in files if fnmatch(f.name, pattern))


def find(ref: str) -> Found:
    """Locate an extractor's weights and compute its identity, without loading anything.

    Raises:
        UsageError: an unknown name, or a folder that lacks the files of its role.
        PrerequisiteError: the weights are not on this machine; the message holds the command that fetches them.
    """
    if plug := declared(ref):
        return _declared(plug)
    wanted, folder = role(ref), ref.partition("@")[2]
    if folder:
        path = Path(folder).expanduser()
        there = {f: [p for p in path.glob(f) if p.is_file()] for f in ROLES[wanted].files}
        if missing := [f for f, files in there.items() if not files]:
            wants = ", ".join(ROLES[wanted].files)
            raise UsageError(f"{path} is not a {wanted} folder: it lacks {', '.join(missing)} (expected {wants})")
        if many := [p.name for files in there.values() if len(files) > 1 for p in sorted(files)]:
            raise UsageError(f"{path} does not say which weights are meant: {', '.join(many)}; keep one of them there")
        return Found(path.name, wanted, _identity(wanted, path, folder_digest(path)), path, "")
    spec = NAMES[ref]
    if not spec.file:
        path = WORLD / (spec.folder or ref)
        if not all((path / f).is_file() for f in ROLES[wanted].files):
            raise PrerequisiteError(
                f"the weights of {ref!r} are not in {path}. They ship with the package: reinstall scrollbench, "
                f"or train them:\n  scrollbench world train {path.name}"
            )
        return Found(ref, wanted, _identity(wanted, path, folder_digest(path)), path, "")
    require(*models(ref))
    path, *also = (_place(s) for s in (spec, *spec.also))
    files = [_file(p, p.stat().st_mtime_ns) for p in (path, *also)]
    weights = digest(files) if also else files[0]
    identity = _identity(wanted, path, weights, spec.model, spec.variant)
    return Found(ref, wanted, identity, path, spec.model, tuple(also), spec.variant)


def _declared(plug: Wrapper) -> Found:
    """A network of another package or a file: its identity is its source, its version and its weights."""
    path = weights_of(plug)
    if path is not None and not path.exists():
        raise PrerequisiteError(f"the weights of extractor {plug.name!r} are not here: expected them in {path}")
    weights = "" if path is None else folder_digest(path) if path.is_dir() else _file(path, path.stat().st_mtime_ns)
    identity = digest(["extractor", source_digest(plug.fn), plug.role, plug.version, weights, "", ""])
    return Found(plug.name, plug.role, identity, path or Path(), "", declared=plug)


def weights_of(plug: Wrapper) -> Path | None:
    """Where a declared network's weights are: beside the file that declares it, or where it says; None: it has none."""
    beside = Path(getattr(sys.modules.get(plug.fn.__module__), "__file__", None) or "").parent
    return beside / Path(plug.weights).expanduser() if plug.weights else None


def card(ref: str) -> dict[str, Any]:
    """What is known of a named extractor without loading it: role, source, licence, place, and whether it is there."""
    if plug := declared(ref):
        place = weights_of(plug)
        return {
            "name": plug.name, "role": plug.role, "source": plug.fn.__module__, "licence": plug.licence,
            "path": str(place or ""), "present": place is None or place.exists(), "fetch": "",
        }  # fmt: skip
    spec = NAMES[ref]
    parts = (spec, *spec.also) if spec.file else ()
    path = _place(spec) if parts else WORLD / (spec.folder or ref)
    known = path / "card.json"
    written = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    found = [state(model) for model in models(ref)]
    return {
        "name": ref, "role": spec.role, "source": spec.repo or spec.url or "ships with the package",
        "licence": spec.licence or written.get("licence", ""), "path": str(path),
        "present": all(f.state == "present" for f in found) if parts else path.exists(),
        "fetch": f"scrollbench weights fetch {' '.join(f.model.name for f in found)}" if parts else "",
    }  # fmt: skip


def _identity(wanted: str, path: Path, weights: str, model: str = "", variant: str = "") -> str:
    heads = ""
    if wanted == "lpips" and model:  # the linear heads are part of what is measured
        heads = file_digest(lpips_heads(model))
    source = source_digest(wrapper(wanted, path))
    return digest(["extractor", source, wanted, model, weights, heads, variant])


def lpips_heads(net: str) -> Path:
    """The linear heads (v0.1) that come with the lpips package."""
    from importlib.util import find_spec

    package = find_spec("lpips")
    if package is None or not package.origin:
        raise PrerequisiteError("LPIPS needs the lpips package. Install it with:\n  pip install lpips")
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"


def _place(spec: Spec) -> Path:
    """Where the weights file of a real extractor is or would be."""
    return (snapshot(spec.repo) if spec.repo else checkpoints()) / spec.file


@cache
def _file(path: Path, mtime: int) -> str:
    return file_digest(path)
