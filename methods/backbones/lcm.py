"""Stable Diffusion 1.5 with LCM-LoRA merged in: the consistency model that samplers of a few steps are made for.

Luo et al., "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module", 2023, arXiv:2311.05556. Merging adds
s B A to every weight that a low-rank pair names, once, in float32, with s = alpha / r. The released file spells names
as kohya's trainer does (``lora_unet_..._to_q.lora_down.weight``); convolutions have pairs, too. The released weights
were not at hand here: the spelling is from public loading code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, UsageError
from bench.extractors.weights.manifest import listed, require, snapshot
from bench.ids import digest, file_digest
from methods.backbones.device import target
from methods.backbones.factory import Factory
from methods.backbones.identity import Weights, locate
from methods.backbones.loading import blank_parts, load_parts
from methods.backbones.stable_diffusion import LAYOUT, StableDiffusion

if TYPE_CHECKING:
    from torch import Tensor

LORA = "latent-consistency/lcm-lora-sdv1-5"
FILE = "pytorch_lora_weights.safetensors"
PREFIX = "lora_unet_"
# The schedule that LCM-LoRA is distilled for, on the checkpoint's own betas.
SCHEDULE = {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0}


def merge(unet: Any, pairs: Mapping[str, Tensor], source: str = "the LoRA") -> int:
    """Add low-rank pairs to the weights of a U-Net.

    Args:
        unet: its modules are named by the pairs, dots written as underscores.
        pairs: ``lora_unet_NAME.lora_down.weight`` (r, in, ...), ``.lora_up.weight`` (out, r, ...) and ``.alpha``.
        source: for errors.

    Returns:
        How many weights were changed.

    Raises:
        UsageError: a pair that this network has no place for, or half of one: it is another network's.
    """
    import torch

    modules = {name.replace(".", "_"): module for name, module in unet.named_modules()}
    names = dict.fromkeys(key.partition(".")[0] for key in pairs)
    wrong = []
    with torch.no_grad():
        for name in names:
            down, up = (pairs.get(f"{name}.lora_{side}.weight") for side in ("down", "up"))
            weight = getattr(modules.get(name.removeprefix(PREFIX)), "weight", None)
            if not name.startswith(PREFIX) or down is None or up is None or weight is None:
                wrong.append(name)
                continue
            alpha = float(pairs.get(f"{name}.alpha", torch.tensor(float(down.shape[0]))))
            change = up.flatten(1).float() @ down.flatten(1).float()
            if change.numel() != weight.numel() or change.shape[0] != weight.shape[0]:
                wrong.append(name)
                continue
            weight += alpha / down.shape[0] * change.reshape(weight.shape).to(weight)
    if wrong or not names:
        some = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise UsageError(f"{source} is no LoRA of this network: {len(wrong)} of {len(names)} pairs do not fit: {some}")
    return len(names)


def _file(lora: str) -> Path:
    """The file of a LoRA: itself, in a folder, or in the local cache. Raises ``PrerequisiteError`` where it is not."""
    path = Path(lora).expanduser()
    if path.exists():
        return path / FILE if path.is_dir() else path
    if (listing := listed(lora)) is not None:
        return require(listing)[0].folder / FILE
    path = snapshot(lora) / FILE
    if not path.is_file():
        raise PrerequisiteError(f"{lora} is not in the local cache. Fetch it with:\n  hf download {lora} {FILE}")
    return path


def _locate(**options: Any) -> Weights:
    base, file = locate(options["model"], options["revision"], LAYOUT), _file(options["lora"])
    identity = digest(["lora", base.digest, file_digest(file)])
    return Weights(identity, f"{base.source} with {options['lora']}", base.folder)


def _load(
    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision: str | None = None,
    lora: str = LORA,
    **options: Any,
) -> StableDiffusion:
    """Stable Diffusion 1.5 with LCM-LoRA merged in, 512 px squares in a few steps (CreativeML Open RAIL).

    ``lora`` is a file, a folder, or ``owner/name`` in the local cache.
    """
    from safetensors.torch import load_file

    target(options["device"], options["precision"])  # before anything large is read
    weights = _locate(model=model, revision=revision, lora=lora)
    _, parts = load_parts(model, revision, LAYOUT)
    merge(parts["unet"], load_file(_file(lora)), lora)
    parts["scheduler"] = {**parts["scheduler"], **SCHEDULE}
    return StableDiffusion("sd15-lcm", weights.digest, parts, sampler="checkpoint", **options)


def _blank(lora: str = LORA, **options: Any) -> StableDiffusion:
    parts = blank_parts("sd15")
    parts["scheduler"] = {**parts["scheduler"], **SCHEDULE}
    return StableDiffusion("sd15-lcm", "", parts, sampler="checkpoint", **options)


sd15_lcm = Factory("sd15-lcm", "latent", _load, _locate, _blank)
