"""IP-Adapter (Ye et al., arXiv:2308.06721, Apache-2.0): a picture beside the text, as diffusers' U-Net takes it.

Files are the released ones: ``image_proj.*`` and ``ip_adapter.N.to_k_ip.weight``, ``.to_v_ip.weight`` in safetensors,
and beside them the CLIP encoder in a folder ``image_encoder``. The plain adapter (four tokens of CLIP's projected
picture) is read; the ``plus`` and face ones look at CLIP's inner layers and are refused. The unconditional half gets
zeros, as there.

CLIP looks at squares: of a scroll the released preprocessing would crop the middle. PROPOSAL: ``letterbox`` shows all
of it between bars of CLIP's mean colour; ``squash`` and ``centre`` are the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import PrerequisiteError, UsageError, near
from bench.extractors.weights.manifest import load_manifest, require
from bench.ids import digest, file_digest, folder_digest
from methods.backbones import Tensor
from methods.shared.lora import header

ROWS = "image_embeds"  # U-Net's own name of what the picture becomes
VIEWS = ("letterbox", "squash", "centre")
USUAL = {"sdxl": "ip-adapter-sdxl", "sd15": "ip-adapter-sd15"}
ENCODER = "image_encoder"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's pictures


class Found(NamedTuple):
    """An adapter's weights: digest of file and encoder, and where they lie."""

    digest: str
    file: Path
    encoder: Path


def locate(name: str, backbone: str) -> Found:
    """Where an adapter's weights are on this machine; nothing is loaded.

    Args:
        name: of the weights manifest (``ip-adapter-sdxl``), or a folder with one adapter (``*.safetensors``) and
            ``image_encoder/``; empty for the backbone's.
        backbone: whose, for the empty name.

    Raises:
        UsageError: neither, or no plain adapter.
        PrerequisiteError: known, but not here.
    """
    name = name or USUAL.get(backbone, "")
    known = {m.name: m for m in load_manifest().values() if m.name.startswith("ip-adapter")}
    if name in known:
        (found,) = require(known[name])
        (file,) = (f for f in found.files if f.endswith(".safetensors") and ENCODER not in f)
        path = found.folder / file
    else:
        folder = Path(name).expanduser()
        files = sorted(folder.glob("*.safetensors")) if name and folder.is_dir() else []
        if len(files) != 1:
            raise UsageError(
                f"no IP-Adapter {name!r} for backbone {backbone!r}; {near(name, known)} Or a folder with one adapter "
                f"(*.safetensors) and {ENCODER}/"
            )
        path = files[0]
    encoder = path.parent / ENCODER
    if not (encoder / "config.json").is_file():
        raise PrerequisiteError(f"{path} needs the CLIP encoder it was trained with in {encoder}")
    _plain(path)
    return Found(digest([file_digest(path), folder_digest(encoder)]), path, encoder)


def _plain(path: Path) -> None:
    shapes, _ = header(path)
    if "image_proj.proj.weight" not in shapes or not any(name.startswith("ip_adapter.") for name in shapes):
        raise UsageError(
            f"{path} is no plain IP-Adapter: expected image_proj.proj.weight and ip_adapter.1.to_k_ip.weight, ...; "
            f"plus and face adapters are not read"
        )


@contextmanager
def adapted(unet: Any, path: Path, scale: float) -> Iterator[None]:
    """Let a U-Net look at rows ``image_embeds`` of what is added to its text; its own processors come back.

    Args:
        scale: of what cross-attention finds in the picture's tokens; 0 is the plain U-Net.

    Raises:
        UsageError: an adapter of another network.
    """
    from safetensors.torch import load_file
    from torch.nn import Module
    from torch.random import fork_rng

    nested: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        nested.setdefault(part, {})[rest] = tensor
    own = dict(unet.attn_processors), unet.encoder_hid_proj, unet.config.encoder_hid_dim_type

    def listed(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        added = dict(named.get("added_cond_kwargs") or {})
        return given, {**named, "added_cond_kwargs": {**added, ROWS: [added[ROWS]]}}

    hook = None
    try:
        unet.to = partial(Module.to, unet)  # diffusers' own, which it calls, warns of layers that are not there
        try:
            with fork_rng(devices=[]):  # layers are drawn before they are filled
                unet._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UsageError(f"{path} is no IP-Adapter for this network: {error}") from error
        finally:
            del unet.to
        for processor in unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = [scale]
        unet.requires_grad_(False)
        hook = unet.register_forward_pre_hook(listed, with_kwargs=True)
        yield
    finally:
        if hook is not None:
            hook.remove()
        unet.encoder_hid_proj = None
        unet.set_attn_processor(own[0])
        unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = own[1:]


def embedded(picture: Tensor, found: Found, backbone: Any, view: str) -> Tensor:
    """The rows (2, 1, width) of a picture (3, h, w) in [0, 1]: zeros, and CLIP's embedding of it."""
    import torch

    encoder = _encoder(found, str(backbone.device))
    seen = encoder(shown(picture.float(), encoder.config.image_size, view)[None]).image_embeds
    rows: Tensor = torch.cat([torch.zeros_like(seen), seen])[:, None].to(backbone.dtype)
    return rows


@lru_cache(maxsize=1)  # for the next picture
def _encoder(found: Found, device: str) -> Any:
    import torch
    from transformers import CLIPVisionModelWithProjection

    made = CLIPVisionModelWithProjection.from_pretrained(
        found.encoder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return made.to(device).eval().requires_grad_(False)


def shown(picture: Tensor, side: int, view: str) -> Tensor:
    """A picture (3, h, w) in [0, 1] as CLIP takes it, (3, side, side).

    Raises:
        UsageError: an unknown view.
    """
    from torch.nn.functional import interpolate

    if view not in VIEWS:
        raise UsageError(f"unknown adapter_view {view!r}; {near(view, VIEWS)}")
    mean, deviation = (picture.new_tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    height, width = picture.shape[-2:]
    if view == "centre":
        edge = min(height, width)
        y, x = (height - edge) // 2, (width - edge) // 2
        picture, height, width = picture[:, y : y + edge, x : x + edge], edge, edge
    longest = max(height, width)
    size = (side, side) if view == "squash" else tuple(max(1, round(n * side / longest)) for n in (height, width))
    small = (interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1) - mean) / deviation
    out = picture.new_zeros((3, side, side))
    y, x = (side - size[0]) // 2, (side - size[1]) // 2
    out[:, y : y + size[0], x : x + size[1]] = small
    return out
