"""The networks metrics look through: their names, their identities, where their weights are. Free of torch.

An extractor is asked for by name (``world-vit``, ``dinov2-vitb14``), as ``ROLE@FOLDER``, a folder in the layout of the
role's library, or as ``FILE.py@name``. Networks of other packages come by name through the entry points
``scrollbench.extractors`` (:func:`bench.registry.extractor`). Stand-ins of the miniature have names of their own, never
the name of what they stand in for, and are loaded by the very code that loads the real ones.

Nothing is downloaded here: weights that are missing raise ``PrerequisiteError`` with the command that fetches them.
Where the files of a named extractor are, :mod:`bench.extractors.weights.manifest` says: at the commit that the manifest
pins.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import Model, load_manifest
from bench.registry import Wrapper, find
from bench.registry import names as registered


@dataclass(frozen=True)
class Role:
    """What a network is to a metric; what is asked of it stands in :mod:`bench.extractors.protocol`."""

    wrapper: str  # ``module:class`` that calls it; its source is part of the network's identity
    files: tuple[str, ...]  # what a folder must hold; a pattern stands for one file
    full: str  # the network where a suite names none
    miniature: str = ""  # the miniature's own, where it has one


_CONFIGURED = ("config.json", "model.safetensors")
_OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
_HERE = "bench.extractors"
ROLES = {
    "dino": Role(f"{_HERE}.timm:Timm", _CONFIGURED, "dinov2-vitb14", "world-vit"),  # timm.models.save_for_hf
    "clip": Role(f"{_HERE}.clip:Clip", _OPEN_CLIP, "clip-vit-b-16", "world-clip"),
    # a folder is a timm classifier
    "inception": Role(f"{_HERE}.inception:Inception", _CONFIGURED, "inception", "world-cnn"),
    # {"net": ..., "lpips": ...} and the state of lpips.LPIPS
    "lpips": Role(f"{_HERE}.lpips:Lpips", _CONFIGURED, "lpips-vgg", "world-lpips"),
    "oracle": Role("bench.world.extractor:Oracle", ("model.safetensors",), "world-oracle", "world-oracle"),
    "style": Role(f"{_HERE}.style:Style", _CONFIGURED, "vgg19-style", "world-style"),  # an lpips folder's trunk
    # the architecture as open_clip writes it, the official checkpoint
    "hps": Role(f"{_HERE}.hps:Hps", ("open_clip_config.json", "HPS*.pt"), "hps-v2.1"),
    # the official files, and BERT's vocabulary
    "reward": Role(
        f"{_HERE}.image_reward:ImageReward", ("ImageReward.pt", "med_config.json", "vocab.txt"), "image-reward"
    ),
    "pick": Role(f"{_HERE}.pick_score:PickScore", _CONFIGURED, "pick-score"),  # transformers' CLIPModel
    "aesthetic": Role(f"{_HERE}.aesthetic:Aesthetic", (*_OPEN_CLIP, "*.pth"), "aesthetic-v2"),  # and the head on it
    "iqa": Role(f"{_HERE}.aesthetic:ClipIqa", _OPEN_CLIP, "clip-iqa-rn50"),
    "owl": Role(f"{_HERE}.owl:Owl", _CONFIGURED, "owlv2-base"),  # transformers' Owlv2ForObjectDetection
}
DEFAULTS = {  # what a role means where a suite names no extractor
    "miniature": {name: role.miniature for name, role in ROLES.items() if role.miniature},
    "full": {name: role.full for name, role in ROLES.items()},
}


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


def default(role: str, tier: str) -> str:
    """The extractor of a role where none is named; the real one where the miniature has no stand-in.

    Raises ``UsageError`` for unknown roles.
    """
    if role not in ROLES:
        raise UsageError(f"unknown extractor role {role!r}; {near(role, ROLES)}")
    return {**DEFAULTS["full"], **DEFAULTS["miniature" if tier == "miniature" else "full"]}[role]


def names() -> list[str]:
    """All extractors by name: this project's, then those that other packages register."""
    return [*NAMES, *(name for name in registered("extractors") if name not in NAMES)]


def declared(ref: str) -> Wrapper | None:
    """The network that another package, or a file (``FILE.py@name``), declares under a name; None for all others.

    Raises:
        UsageError: it does not load, or its role is unknown.
    """
    file = ref.partition("@")[0].endswith(".py")
    if not file and (ref in NAMES or ref not in registered("extractors")):
        return None
    wrapper: Wrapper = find("extractors", ref)
    if wrapper.role not in ROLES:
        raise UsageError(f"extractor {ref!r} has an unknown role {wrapper.role!r}; {near(wrapper.role, ROLES)}")
    return wrapper


def role(ref: str) -> str:
    """The role of an extractor by its name alone; its weights need not be here. Raises ``UsageError``."""
    head, at, _ = ref.partition("@")
    if at and head in ROLES:
        return head
    if wrapper := declared(ref):
        return wrapper.role
    if ref not in NAMES:
        have = f"ROLE@FOLDER with a role of {tuple(ROLES)}, or FILE.py@name"
        raise UsageError(f"unknown extractor {ref!r}; {near(ref, names())}, or {have}")
    return NAMES[ref].role


def wrapper(role: str, path: Path) -> str:
    """``module:class`` that wraps a role's network; a folder of role inception is a timm classifier."""
    return ROLES["dino" if role == "inception" and path.is_dir() else role].wrapper


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
