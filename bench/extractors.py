"""The networks metrics look through: their names, their identities, where their weights are. Free of torch.

An extractor is asked for by name (``world-vit``, ``dinov2-vitb14``) or as ``ROLE@FOLDER``, a folder in the layout of
the role's library. Stand-ins of the miniature have names of their own, never the name of what they stand in for,
and are loaded by the very code that loads the real ones.

Nothing is downloaded here: weights that are missing raise ``PrerequisiteError`` with the command that fetches them.
Where the files of a named extractor are, :mod:`bench.weights` says: at the commit that the manifest pins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.errors import PrerequisiteError, UsageError, near
from bench.ids import digest, file_digest, folder_digest
from bench.source import source_digest
from bench.weights import Model, checkpoints, load_manifest, require, snapshot, state

WORLD = Path(__file__).resolve().parent / "world" / "weights"
STAND_INS = ("dino", "clip", "inception", "lpips", "oracle", "style")  # roles the miniature has networks of its own for
WRAPPERS = {  # the class that calls the network of a role; its source is part of the network's identity
    "dino": "bench.networks:Timm", "clip": "bench.networks:Clip", "lpips": "bench.networks_lpips:Lpips",
    "inception": "bench.networks:Inception", "oracle": "bench.networks:Oracle", "hps": "bench.networks_hps:Hps",
    "reward": "bench.networks_reward:ImageReward", "pick": "bench.networks_reward:PickScore",
    "aesthetic": "bench.networks_aesthetic:Aesthetic", "iqa": "bench.networks_aesthetic:ClipIqa",
    "owl": "bench.networks_owl:Owl", "style": "bench.networks_style:Style",
}  # fmt: skip
ROLES = tuple(WRAPPERS)
FOLDER_FILES = {  # what a folder of each role must hold; a pattern stands for one file
    "dino": ("config.json", "model.safetensors"),  # timm, written by timm.models.save_for_hf
    "inception": ("config.json", "model.safetensors"),  # timm classifier
    "clip": ("open_clip_config.json", "open_clip_model.safetensors"),  # open_clip
    "lpips": ("config.json", "model.safetensors"),  # {"net": ..., "lpips": ...} and the state of lpips.LPIPS
    "style": ("config.json", "model.safetensors"),  # an lpips folder, whose trunk is read
    "oracle": ("model.safetensors",),
    "hps": ("open_clip_config.json", "HPS*.pt"),  # the architecture as open_clip writes it, the official checkpoint
    "reward": ("ImageReward.pt", "med_config.json", "vocab.txt"),  # the official files, and BERT's vocabulary
    "pick": ("config.json", "model.safetensors"),  # transformers' CLIPModel
    "aesthetic": ("open_clip_config.json", "open_clip_model.safetensors", "*.pth"),  # a CLIP and the head on it
    "iqa": ("open_clip_config.json", "open_clip_model.safetensors"),  # open_clip
    "owl": ("config.json", "model.safetensors"),  # transformers' Owlv2ForObjectDetection
}


class Extractor(Protocol):
    """A loaded network. Crops are uint8 (h, w, 3) arrays; what a role cannot do raises ``UsageError``."""

    name: str
    role: str
    digest: str
    dim: int

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dim) float32 features; crops that are not square are squashed to the network's square input."""

    def patches(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, g, g, dim) float32: the tokens of the last block before its norm, rows from the top (role dino)."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, unit length (role clip)."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, classes) float32: the network's last layer on what ``embed`` gave (role inception)."""

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(n, n) float32, symmetric, zero diagonal: the distance of every pair of crops (roles lpips and style)."""


@dataclass(frozen=True)
class Spec:
    """Where a named extractor comes from: files on the hub or at URLs, or a folder of this package."""

    role: str
    model: str = ""  # the library's name of the architecture
    repo: str = ""  # repository on the Hugging Face hub
    file: str = ""
    url: str = ""  # kept in torch's checkpoint folder under ``file``
    licence: str = ""
    also: tuple[Spec, ...] = ()  # further files it is made of
    variant: str = ""  # how the network is used, where one serves several extractors
    folder: str = ""  # whose folder of this package a stand-in reads, if not its own


def _timm(model: str, variant: str = "") -> Spec:
    repo, licence = f"timm/{model}.lvd142m", "Apache-2.0"
    return Spec("dino", model, repo=repo, file="model.safetensors", licence=licence, variant=variant)


def _dinov2(letter: str, model: str) -> dict[str, Spec]:
    """``dinov2-vitX14-POOL-SIZE``: CLS token or mean of patch tokens, at 224 or 518 px; without, the first of each."""
    name, usual = f"dinov2-vit{letter}14", _timm(model)
    other = {f"{pool}-{size}": _timm(model, f"{pool}-{size}") for pool in ("cls", "mean") for size in (224, 518)}
    return {name: usual, **{f"{name}-{v}": spec for v, spec in {**other, "cls-224": usual}.items()}}


def _inception(variant: str = "") -> Spec:
    file = "weights-inception-2015-12-05-6726825d.pth"
    url = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{file}"
    return Spec("inception", url=url, file=file, licence="Apache-2.0", variant=variant)


def _clip(model: str, repo: str) -> Spec:
    return Spec("clip", model, repo=f"timm/{repo}.openai", file="open_clip_model.safetensors", licence="MIT")


def _aesthetic(url: str, licence: str) -> Spec:
    trunk = _clip("ViT-L-14-quickgelu", "vit_large_patch14_clip_224")
    return Spec("aesthetic", trunk.model, url=url, file=url.rpartition("/")[2], licence=licence, also=(trunk,))


def _hub(role: str, repo: str, *files: str, model: str = "", licence: str, also: tuple[Spec, ...] = ()) -> Spec:
    beside = tuple(Spec(role, repo=repo, file=f) for f in files[1:])
    return Spec(role, model, repo, files[0], licence=licence, also=(*beside, *also))


def _lpips(net: str, file: str, variant: str = "") -> Spec:
    url, licence = f"https://download.pytorch.org/models/{file}", "BSD-2-Clause (heads), BSD-3-Clause (trunk)"
    return Spec("lpips", net, url=url, file=file, licence=licence, variant=variant)


NAMES: dict[str, Spec] = {
    "world-vit": Spec("dino"),
    "world-clip": Spec("clip"),
    "world-cnn": Spec("inception"),
    "world-lpips": Spec("lpips"),
    "world-oracle": Spec("oracle"),
    "world-style": Spec("style", folder="world-lpips"),
    **_dinov2("s", "vit_small_patch14_dinov2"),
    **_dinov2("b", "vit_base_patch14_dinov2"),
    **_dinov2("l", "vit_large_patch14_dinov2"),
    "clip-vit-b-16": _clip("ViT-B-16-quickgelu", "vit_base_patch16_clip_224"),
    "clip-vit-l-14": _clip("ViT-L-14-quickgelu", "vit_large_patch14_clip_224"),
    "inception": _inception(),
    "inception-clean": _inception("clean"),  # the same network through clean-fid's resize
    "lpips-vgg": _lpips("vgg", "vgg16-397923af.pth"),
    "lpips-alex": _lpips("alex", "alexnet-owt-7be5be79.pth"),
    "lpips-squeeze": _lpips("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    "lpips-vgg-512": _lpips("vgg", "vgg16-397923af.pth", "512"),  # crops resized to 512 px first
    "lpips-alex-512": _lpips("alex", "alexnet-owt-7be5be79.pth", "512"),
    "vgg19-style": Spec(
        "style", "vgg19", url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", file="vgg19-dcbb9e9d.pth",
        licence="BSD-3-Clause",
    ),
    "hps-v2.0": _hub("hps", "xswu/HPSv2", "HPS_v2_compressed.pt", model="ViT-H-14", licence="Apache-2.0"),
    "hps-v2.1": _hub("hps", "xswu/HPSv2", "HPS_v2.1_compressed.pt", model="ViT-H-14", licence="Apache-2.0"),
    "image-reward": _hub(
        "reward", "THUDM/ImageReward", "ImageReward.pt", "med_config.json", licence="Apache-2.0",
        also=(Spec("reward", repo="google-bert/bert-base-uncased", file="vocab.txt"),),
    ),
    "pick-score": _hub(
        "pick", "yuvalkirstain/PickScore_v1", "model.safetensors", "config.json", licence="not stated on its page"
    ),
    "aesthetic-v1": _aesthetic(
        "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth", "MIT"
    ),
    "aesthetic-v2": _aesthetic(
        "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth",
        "Apache-2.0",
    ),
    "clip-iqa-rn50": _hub(
        "iqa", "timm/resnet50_clip.openai", "open_clip_model.safetensors", model="RN50-quickgelu", licence="MIT"
    ),
    "owlv2-base": _hub(
        "owl", "google/owlv2-base-patch16-ensemble", "model.safetensors", "config.json", licence="Apache-2.0"
    ),
}  # fmt: skip
DEFAULTS = {  # what a role means where a suite names no extractor
    "miniature": dict(
        zip(STAND_INS, ("world-vit", "world-clip", "world-cnn", "world-lpips", "world-oracle", "world-style"))
    ),
    "full": {
        **dict(
            zip(STAND_INS, ("dinov2-vitb14", "clip-vit-b-16", "inception", "lpips-vgg", "world-oracle", "vgg19-style"))
        ),
        "hps": "hps-v2.1", "reward": "image-reward", "pick": "pick-score", "aesthetic": "aesthetic-v2",
        "iqa": "clip-iqa-rn50", "owl": "owlv2-base",
    },
}  # fmt: skip


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

    def file(self, pattern: str) -> Path:
        """The one of its files that matches a pattern."""
        files = (self.path, *self.also) if self.path.is_file() else tuple(self.path.iterdir())
        return next(f for f in files if fnmatch(f.name, pattern))


def default(role: str, tier: str) -> str:
    """The extractor of a role where none is named; the real one where the miniature has no stand-in.

    Raises ``UsageError`` for unknown roles.
    """
    if role not in ROLES:
        raise UsageError(f"unknown extractor role {role!r}; {near(role, ROLES)}")
    return {**DEFAULTS["full"], **DEFAULTS["miniature" if tier == "miniature" else "full"]}[role]


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
        there = {f: [p for p in path.glob(f) if p.is_file()] for f in FOLDER_FILES[wanted]}
        if missing := [f for f, files in there.items() if not files]:
            wants = ", ".join(FOLDER_FILES[wanted])
            raise UsageError(f"{path} is not a {wanted} folder: it lacks {', '.join(missing)} (expected {wants})")
        if many := [p.name for files in there.values() if len(files) > 1 for p in sorted(files)]:
            raise UsageError(f"{path} does not say which weights are meant: {', '.join(many)}; keep one of them there")
        return Found(path.name, wanted, _identity(wanted, path, folder_digest(path)), path, "")
    spec = NAMES[ref]
    if not spec.file:
        path = WORLD / (spec.folder or ref)
        if not all((path / f).is_file() for f in FOLDER_FILES[wanted]):
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


def load(ref: str, device: str = "cpu") -> Extractor:
    """Load an extractor: fp32, evaluation mode, on ``device``. Raises what :func:`find` raises."""
    found = find(ref)
    from bench.networks import build

    return build(found, device)


def card(ref: str) -> dict[str, Any]:
    """What is known of a named extractor without loading it: role, source, licence, place, and whether it is there."""
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


def wrapper(role: str, path: Path) -> str:
    """``module:class`` that wraps a role's network; a folder of role inception is a timm classifier."""
    return WRAPPERS["dino" if role == "inception" and path.is_dir() else role]


def lpips_heads(net: str) -> Path:
    """The linear heads (v0.1) that come with the lpips package."""
    from importlib.util import find_spec

    package = find_spec("lpips")
    if package is None or not package.origin:
        raise PrerequisiteError("LPIPS needs the lpips package. Install it with:\n  pip install lpips")
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"


def models(ref: str) -> list[Model]:
    """The manifest's models that a named extractor is made of, its own first; those of its name where it lists none.

    Empty for what ships with the package, and for folders.
    """
    manifest, spec = load_manifest(), NAMES.get(ref)
    if spec is None or not spec.file:
        return [manifest[ref]] if ref in manifest else []
    parts = [(s.repo or s.url, s.file) for s in (spec, *spec.also)]
    found = [m for source, file in parts for m in manifest.values() if m.repository == source and file in m.files]
    return list({m.name: m for m in found}.values())


def _place(spec: Spec) -> Path:
    """Where the weights file of a real extractor is or would be."""
    return (snapshot(spec.repo) if spec.repo else checkpoints()) / spec.file


@cache
def _file(path: Path, mtime: int) -> str:
    return file_digest(path)
