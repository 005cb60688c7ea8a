"""The networks metrics look through: their names, their identities, where their weights are. Free of torch.

An extractor is asked for by name (``world-vit``, ``dinov2-vitb14``) or as ``ROLE@FOLDER``, a folder in the layout of
the role's library. Stand-ins of the miniature have names of their own, never the name of what they stand in for,
and are loaded by the very code that loads the real ones.

Nothing is downloaded here: weights that are missing raise ``PrerequisiteError`` with the command that fetches them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.errors import PrerequisiteError, UsageError, near
from bench.ids import digest, file_digest, folder_digest

EXTRACTOR_VERSION = "1"  # bump when preprocessing or the layer that is read changes
WORLD = Path(__file__).resolve().parent / "world" / "weights"
ROLES = ("dino", "clip", "inception", "lpips", "oracle")
FOLDER_FILES = {  # what a folder of each role must hold
    "dino": ("config.json", "model.safetensors"),  # timm, written by timm.models.save_for_hf
    "inception": ("config.json", "model.safetensors"),  # timm classifier
    "clip": ("open_clip_config.json", "open_clip_model.safetensors"),  # open_clip
    "lpips": ("config.json", "model.safetensors"),  # {"net": ..., "lpips": ...} and the state of lpips.LPIPS
    "oracle": ("model.safetensors",),
}


class Extractor(Protocol):
    """A loaded network. Crops are uint8 (h, w, 3) arrays; what a role cannot do raises ``UsageError``."""

    name: str
    role: str
    digest: str
    dim: int

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 features; crops that are not square are squashed to the network's square input."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, unit length (role clip)."""

    def logits(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, classes) float32 (role inception)."""

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, n) float32, symmetric, zero diagonal: the distance of every pair of crops (role lpips)."""


@dataclass(frozen=True)
class Spec:
    """Where a named extractor comes from: a file on the hub, at a URL, or a folder of this package."""

    role: str
    model: str = ""  # the library's name of the architecture
    repo: str = ""  # repository on the Hugging Face hub
    file: str = ""
    url: str = ""  # kept in torch's checkpoint folder under ``file``
    licence: str = ""


def _timm(model: str) -> Spec:
    return Spec("dino", model, repo=f"timm/{model}.lvd142m", file="model.safetensors", licence="Apache-2.0")


def _clip(model: str, repo: str) -> Spec:
    return Spec("clip", model, repo=f"timm/{repo}.openai", file="open_clip_model.safetensors", licence="MIT")


def _lpips(net: str, file: str) -> Spec:
    url = f"https://download.pytorch.org/models/{file}"
    return Spec("lpips", net, url=url, file=file, licence="BSD-2-Clause (heads), BSD-3-Clause (trunk)")


NAMES: dict[str, Spec] = {
    "world-vit": Spec("dino"),
    "world-clip": Spec("clip"),
    "world-cnn": Spec("inception"),
    "world-lpips": Spec("lpips"),
    "world-oracle": Spec("oracle"),
    "dinov2-vits14": _timm("vit_small_patch14_dinov2"),
    "dinov2-vitb14": _timm("vit_base_patch14_dinov2"),
    "dinov2-vitl14": _timm("vit_large_patch14_dinov2"),
    "clip-vit-b-16": _clip("ViT-B-16-quickgelu", "vit_base_patch16_clip_224"),
    "clip-vit-l-14": _clip("ViT-L-14-quickgelu", "vit_large_patch14_clip_224"),
    "inception": Spec(
        "inception",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        file="weights-inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0",
    ),
    "lpips-vgg": _lpips("vgg", "vgg16-397923af.pth"),
    "lpips-alex": _lpips("alex", "alexnet-owt-7be5be79.pth"),
    "lpips-squeeze": _lpips("squeeze", "squeezenet1_1-b8a52dc0.pth"),
}
DEFAULTS = {  # what a role means where a suite names no extractor
    "miniature": dict(zip(ROLES, ("world-vit", "world-clip", "world-cnn", "world-lpips", "world-oracle"))),
    "full": dict(zip(ROLES, ("dinov2-vitb14", "clip-vit-b-16", "inception", "lpips-vgg", "world-oracle"))),
}


@dataclass(frozen=True)
class Found:
    """An extractor whose weights are here. ``digest`` is its identity: version, architecture and weights."""

    name: str
    role: str
    digest: str
    path: Path  # a file, or a folder
    model: str


def default(role: str, tier: str) -> str:
    """The extractor of a role where none is named. Raises ``UsageError`` for unknown roles."""
    if role not in ROLES:
        raise UsageError(f"unknown extractor role {role!r}; {near(role, ROLES)}")
    return DEFAULTS["miniature" if tier == "miniature" else "full"][role]


def role(ref: str) -> str:
    """The role of an extractor by its name alone; its weights need not be here. Raises ``UsageError``."""
    head, at, _ = ref.partition("@")
    if at and head in ROLES:
        return head
    if ref not in NAMES:
        raise UsageError(f"unknown extractor {ref!r}; {near(ref, NAMES)}, or ROLE@FOLDER with a role of {ROLES}")
    return NAMES[ref].role


def find(ref: str) -> Found:
    """Locate an extractor's weights and compute its identity, without loading anything.

    Raises:
        UsageError: an unknown name, or a folder that lacks the files of its role.
        PrerequisiteError: the weights are not on this machine; the message holds the command that fetches them.
    """
    wanted, folder = role(ref), ref.partition("@")[2]
    if folder:
        path = Path(folder).expanduser()
        missing = [f for f in FOLDER_FILES[wanted] if not (path / f).is_file()]
        if missing:
            wants = ", ".join(FOLDER_FILES[wanted])
            raise UsageError(f"{path} is not a {wanted} folder: it lacks {', '.join(missing)} (expected {wants})")
        return Found(path.name, wanted, _identity(wanted, "", folder_digest(path)), path, "")
    spec = NAMES[ref]
    if not spec.file:
        path = WORLD / ref
        if not all((path / f).is_file() for f in FOLDER_FILES[wanted]):
            raise PrerequisiteError(
                f"the weights of {ref!r} are not in {path}. They ship with the package: reinstall scrollbench, "
                f"or train them:\n  scrollbench world train {ref}"
            )
        return Found(ref, wanted, _identity(wanted, "", folder_digest(path)), path, "")
    path, command = _place(spec)
    if not path.is_file():
        raise PrerequisiteError(f"the weights of {ref!r} are not on this machine ({path}). Fetch them:\n  {command}")
    return Found(ref, wanted, _identity(wanted, spec.model, _file(path, path.stat().st_mtime_ns)), path, spec.model)


def load(ref: str, device: str = "cpu") -> Extractor:
    """Load an extractor: fp32, evaluation mode, on ``device``. Raises what :func:`find` raises."""
    found = find(ref)
    from bench.networks import build

    return build(found, device)


def card(ref: str) -> dict[str, Any]:
    """What is known of a named extractor without loading it: role, source, licence, place, and whether it is there."""
    spec = NAMES[ref]
    path, command = _place(spec) if spec.file else (WORLD / ref, "")
    known = path / "card.json"
    written = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
    return {
        "name": ref, "role": spec.role, "source": spec.repo or spec.url or "ships with the package",
        "licence": spec.licence or written.get("licence", ""), "path": str(path), "present": path.exists(),
        "fetch": command,
    }  # fmt: skip


def _identity(wanted: str, model: str, weights: str) -> str:
    heads = ""
    if wanted == "lpips" and model:  # the linear heads are part of what is measured
        heads = file_digest(lpips_heads(model))
    return digest(["extractor", EXTRACTOR_VERSION, wanted, model, weights, heads])


def lpips_heads(net: str) -> Path:
    """The linear heads (v0.1) that come with the lpips package."""
    from importlib.util import find_spec

    package = find_spec("lpips")
    if package is None or not package.origin:
        raise PrerequisiteError("LPIPS needs the lpips package. Install it with:\n  pip install lpips")
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"


def _place(spec: Spec) -> tuple[Path, str]:
    """Where the weights file of a real extractor is or would be, and the command that puts it there."""
    if spec.repo:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(spec.repo, spec.file)  # looks at the disk only
        command = f"hf download {spec.repo} {spec.file}"
        return (Path(found) if isinstance(found, str) else Path(spec.repo) / spec.file), command
    home = Path(os.environ.get("TORCH_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch")).expanduser()
    path = home / "hub" / "checkpoints" / spec.file
    return path, f"curl --location --create-dirs --output {path} {spec.url}"


@cache
def _file(path: Path, mtime: int) -> str:
    return file_digest(path)
