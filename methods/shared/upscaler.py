"""Single-picture super-resolution with released networks, tile by tile.

Networks are read through spandrel (MIT), which knows Real-ESRGAN (Wang et al., ICCVW 2021, arXiv:2107.10833; code and
weights BSD-3-Clause) and many others by the names and shapes in a file. Tiles are those of that code's
``RealESRGANer``: the picture is padded by reflection, right and below, until the network takes it; tiles stand side by
side, each is given ``context`` pixels around it as far as the picture goes, and what stands for the context is cut off
again. Nothing is blended. The numbers equal that code's at equal settings.

The published networks see far (351 pixels to each side for x4plus, counted from its convolutions), though weakly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import load_manifest, require
from bench.ids import file_digest
from bench.reading import is_file
from methods.backbones import Tensor
from methods.backbones.identity import world_folder
from methods.shared.lora import header

EMBEDDED = "world-upscaler"


class Found(NamedTuple):
    """An upscaler's one file of weights, and the digest of it."""

    digest: str
    file: Path


def locate(model: str) -> Found:
    """Where an upscaler's weights are on this machine; nothing is loaded.

    Args:
        model: a name of the weights manifest (``real-esrgan-x4plus``), a ``.pth`` or ``.safetensors`` file, or
            ``world-upscaler``, which is the miniature's and ships with this project.

    Raises:
        UsageError: neither.
        PrerequisiteError: a model of the manifest that is not here; the message names the command.
    """
    if model.endswith((".pth", ".safetensors")):
        file = Path(model).expanduser()
        if not is_file(file):
            raise UsageError(f"no file {model!r}; expected an upscaler's weights")
        return Found(_digest(file, file.stat().st_mtime_ns, file.stat().st_size), file)
    if model == EMBEDDED:
        return locate(str(world_folder(model, "model.safetensors") / "model.safetensors"))
    known = {m.name: m for m in load_manifest().values() if m.role == "upscaler" and not m.hub}
    if model not in known:
        raise UsageError(
            f"unknown upscaler {model!r}; {near(model, [*known, EMBEDDED])} Or a .pth or .safetensors file"
        )
    (found,) = require(known[model])
    return locate(str(found.folder / found.files[0]))


@lru_cache
def _digest(file: Path, changed: int, size: int) -> str:
    return file_digest(file)


@dataclass(frozen=True)
class Upscaler:
    """One network, frozen: pictures (n, 3, h, w) in, ``scale`` times as large out.

    Attributes:
        scale: output pixels for one of the input's, per side.
        multiple: input sides are padded to multiples of it.
    """

    network: Callable[[Tensor], Tensor]
    scale: int
    multiple: int
    device: Any
    dtype: Any

    def __call__(self, picture: Tensor, tile: int = 0, context: int = 10) -> Tensor:
        """A picture (3, h, w) in [0, 1], ``scale`` times as large; outside [0, 1] where the network overshoots.

        Args:
            picture: on any device, of any float type; the answer is on the same device.
            tile: side of a tile in the picture's pixels; 0 for the whole picture at once.
            context: pixels seen around a tile.

        Raises:
            UsageError: a tile or a context that the network's blocks of ``multiple`` pixels do not divide.
        """
        import torch
        from torch.nn.functional import pad

        if tile % self.multiple or context % self.multiple:
            raise UsageError(
                f"this network takes blocks of {self.multiple} pixels: tile {tile} and context {context} must be "
                f"multiples of it"
            )
        height, width = picture.shape[-2:]
        home, kind = picture.device, picture.dtype
        x = picture[None].to(self.device, self.dtype)
        x = pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="reflect")
        if not tile:
            return self.network(x)[0, :, : height * self.scale, : width * self.scale].to(home, kind)
        s, (rows, columns) = self.scale, x.shape[-2:]
        whole = torch.empty((3, rows * s, columns * s), dtype=kind, device=home)
        for y in range(0, rows, tile):
            for left in range(0, columns, tile):
                y0, x0 = max(0, y - context), max(0, left - context)
                y1, x1 = min(rows, y + tile), min(columns, left + tile)
                seen = self.network(x[..., y0 : y1 + context, x0 : x1 + context])[0]
                core = seen[:, (y - y0) * s : (y1 - y0) * s, (left - x0) * s : (x1 - x0) * s]
                whole[:, y * s : y1 * s, left * s : x1 * s] = core.to(home, kind)
        return whole[:, : height * s, : width * s]


def load(found: Found, device: Any, dtype: Any) -> Upscaler:
    """Load an upscaler's weights, in half precision where ``dtype`` is and the network can, else in single.

    Raises:
        UsageError: a file that holds no upscaler of RGB pictures that spandrel knows.
    """
    return _loaded(found, str(device), dtype)


@lru_cache(maxsize=1)  # for the next picture
def _loaded(found: Found, device: str, dtype: Any) -> Upscaler:
    import torch
    from safetensors.torch import load_file

    try:
        pickled = found.file.suffix == ".pth"
        state = torch.load(found.file, map_location="cpu", weights_only=True) if pickled else load_file(found.file)
        return made(state, device, dtype)
    except Exception as error:  # of pickle, safetensors, spandrel: whatever is in the file
        raise UsageError(f"{found.file} holds no upscaler that can be used: {error}") from error


def made(state: dict[str, Any], device: str, dtype: Any) -> Upscaler:
    """The network of a state. Raises ``ValueError``, or what spandrel raises, where it is no upscaler's."""
    import torch
    from spandrel import ImageModelDescriptor, ModelLoader, canonicalize_state_dict

    # Layers are drawn before they are filled, and the global generator is nobody's to move.
    with torch.random.fork_rng(devices=[]), torch.device(device if device == "meta" else "cpu"):
        net = ModelLoader(torch.get_default_device()).load_from_state_dict(canonicalize_state_dict(state))
    if not isinstance(net, ImageModelDescriptor) or net.purpose != "SR":
        raise ValueError(f"{net.architecture.name} does not upscale single pictures")
    if (net.input_channels, net.output_channels) != (3, 3):
        raise ValueError(f"it maps {net.input_channels} channels to {net.output_channels}, expected RGB to RGB")
    half = {torch.float16: net.supports_half, torch.bfloat16: net.supports_bfloat16, torch.float64: True}
    kept = dtype if half.get(dtype) else torch.float32
    # As RealESRGANer pads; spandrel knows what other networks need.
    multiple = {1: 4, 2: 2}.get(net.scale, net.size_requirements.multiple_of)
    return Upscaler(net.model.eval().requires_grad_(False).to(device, kept), net.scale, multiple, device, kept)


# -- released networks without their weights: every shape and cost, no numbers


def blank(model: str) -> Upscaler:
    """A network on the meta device: a released one needs no weights, of another the shapes in its file are read.

    Raises:
        UsageError, PrerequisiteError: no such model, or a file that is not here, as :func:`locate`.
    """
    import torch

    file = None if model in RRDB else locate(model).file
    if file is not None and file.suffix == ".pth":
        state = torch.load(file, map_location="meta", weights_only=True)
    else:
        shapes = rrdb(*RRDB[model]) if file is None else header(file)[0]
        state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return made(state, "meta", torch.float32)


# blocks, and whether pixels are unshuffled in front
RRDB = {
    "real-esrgan-x4plus": (23, False), "real-esrgan-x2plus": (23, True), "real-esrgan-x4plus-anime": (6, False),
}  # fmt: skip


def rrdb(blocks: int, unshuffled: bool, features: int = 64, growth: int = 32) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released Real-ESRGAN file: 702 tensors at 23 blocks."""
    convolutions = {"conv_first": (12 if unshuffled else 3, features)}
    for b in range(blocks):
        for r in range(1, 4):
            for c in range(1, 6):
                seen = features + (c - 1) * growth
                convolutions[f"body.{b}.rdb{r}.conv{c}"] = (seen, growth if c < 5 else features)
    convolutions |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (features, features))
    convolutions["conv_last"] = (features, 3)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (taken, given) in convolutions.items():
        shapes |= {f"{name}.weight": (given, taken, 3, 3), f"{name}.bias": (given,)}
    return shapes
