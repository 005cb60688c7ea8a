"""ControlNet (Zhang et al., ICCV 2023, arXiv:2302.05543) beside a frozen U-Net, as diffusers' ``ControlNetModel``.

The control picture travels with the prompt: rows ``control`` of :class:`methods.backbones.Conditioning.added`,
(2m, 3, height, width) in [0, 1] at the size of the window in pixels, both halves alike, so that guidance cuts it into
batches as it cuts text. Within :func:`watched` the U-Net takes it out of there, asks the ControlNet, and adds its
answers to the skips and to the middle block. diffusers' guess mode is not offered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.errors import PrerequisiteError, UsageError, near
from bench.extractors.weights.manifest import Model, load_manifest, require, snapshot
from methods.backbones.identity import Part, Weights, identity, place, quiet, world_folder

ROWS = "control"  # what the rows are called
EMBEDDED = "world-control"
LAYOUT = {"": Part("ControlNetModel")}  # the folder itself
# A backbone's Canny ControlNet where none is named.
USUAL = {"world-sd": EMBEDDED, "sdxl": "controlnet-canny-sdxl", "sd15": "controlnet-canny-sd15"}

Answer = Callable[..., tuple[Any, Any]]


@contextmanager
def watched(unet: Any, ask: Answer, scale: Callable[[], float] = lambda: 1.0) -> Iterator[None]:
    """Let a U-Net work with a ControlNet; without rows ``control``, or at scale 0, it works as before.

    Args:
        ask: the ControlNet: sample, timestep, text, picture, scale, added conditions (SDXL's) -> residuals.
        scale: of the residuals, asked for at every call.
    """

    def before(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        added = dict(named.get("added_cond_kwargs") or {})
        picture, factor = added.pop(ROWS, None), scale()
        if picture is None:
            return None
        named = {**named, "added_cond_kwargs": added or None}
        if factor == 0:
            return given, named
        sample, t = given
        down, middle = ask(
            sample, t, named["encoder_hidden_states"], picture, factor, added_cond_kwargs=added or None,
            return_dict=False,
        )  # fmt: skip
        return given, {**named, "down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    hook = unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def active(step: int, steps: int, begin: float, end: float) -> bool:
    """Whether a ControlNet counts in a step (from 0) of so many: diffusers' ``control_guidance_start`` and ``_end``."""
    return not (step / steps < begin or (step + 1) / steps > end)


# -- its weights


def locate(name: str, backbone: str) -> Weights:
    """Where a ControlNet's weights are on this machine; nothing is loaded.

    Args:
        name: of the weights manifest (``controlnet-canny-sdxl``), a folder as diffusers writes it, a repository of the
            hub that is in the local cache, ``world-control``; empty for the backbone's Canny ControlNet.
        backbone: whose, for the empty name.

    Raises:
        UsageError: none of these.
        PrerequisiteError: known, but not here.
    """
    name = name or USUAL.get(backbone, "")
    if not name:
        raise UsageError(
            f"no Canny ControlNet is known for backbone {backbone!r}: name a folder or a repository, or use one of "
            f"{', '.join(USUAL)}"
        )
    if name == EMBEDDED:
        return _found(world_folder(EMBEDDED, "config.json"), EMBEDDED)
    known = {m.name: m for m in load_manifest().values() if m.role == "controlnet"}
    listed = known.get(name) or next((m for m in known.values() if m.repository == name), None)
    if listed is not None:
        return _required(listed)
    try:
        folder = place(name)
    except UsageError as error:
        raise UsageError(f"unknown ControlNet {name!r}; {near(name, [*known, EMBEDDED])} Or {error}") from error
    if folder is None:
        folder = snapshot(name)
        if not folder.is_dir():
            raise PrerequisiteError(
                f"{name} is not in the local cache. Fetch it with:\n  hf download {name} config.json "
                f"diffusion_pytorch_model.safetensors"
            )
    return _found(folder, name)


def _required(model: Model) -> Weights:
    (found,) = require(model)
    return _found(found.folder, f"{model.repository}@{found.folder.name}")


def _found(folder: Path, source: str) -> Weights:
    return Weights(identity(folder, LAYOUT), source, folder)


def check(folder: Path, backbone: Any) -> None:
    """Refuse a ControlNet that does not fit a network; only its config is read.

    Raises:
        UsageError: another layout, or a network without a U-Net.
    """
    unet = backbone.parts.get("unet")
    if type(unet).__name__ != "UNet2DConditionModel":
        raise UsageError(
            f"a ControlNet works beside a U-Net of Stable Diffusion or SDXL; backbone {backbone.name} has none"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wanted = {
        "in_channels": unet.config.in_channels, "block_out_channels": list(unet.config.block_out_channels),
        "layers_per_block": unet.config.layers_per_block, "cross_attention_dim": unet.config.cross_attention_dim,
        "addition_embed_type": unet.config.addition_embed_type, "px a cell": backbone.factor,
    }  # fmt: skip
    steps = len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256)))
    found: Mapping[str, Any] = {**config, "px a cell": 2 ** (steps - 1)}
    wrong = [f"{k} {found.get(k)!r}, expected {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if wrong:
        raise UsageError(f"{folder} is no ControlNet for {backbone.name}: {'; '.join(wrong)}")


def load(found: Weights, backbone: Any) -> Any:
    """A checked ControlNet, frozen, on the U-Net's device and in its type; on the meta device one of its shapes.

    Raises:
        UsageError: files that do not load.
    """
    return _loaded(found, str(backbone.device), backbone.unet.dtype)


@lru_cache(maxsize=1)  # for the next picture
def _loaded(found: Weights, device: str, dtype: Any) -> Any:
    import torch
    from diffusers import ControlNetModel

    try:
        with quiet():
            if device == "meta":
                with torch.device("meta"):
                    made = ControlNetModel.from_config(ControlNetModel.load_config(found.folder))
            else:
                made = ControlNetModel.from_pretrained(
                    found.folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True
                )
    except Exception as error:  # of safetensors, json and the loader
        raise UsageError(f"{found.source}: the weights do not load: {error}") from error
    torch.nn.Module.to(made, device, dtype)  # diffusers' own `to` warns of layers that are not there
    return made.eval().requires_grad_(False)
