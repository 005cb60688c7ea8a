"""LoRA (Hu et al., ICLR 2022, arXiv:2106.09685): what a low-rank pair adds to a linear layer, W x + s B A x.

Pairs stay beside the weights, so that each group of tokens of one call may have its own. Files are safetensors as
diffusers writes them, ``transformer.MODULE.lora_A.weight`` (r, in) and ``.lora_B.weight`` (out, r), or as peft does
(``base_model.model.MODULE...``); of a U-Net ``unet.MODULE.lora.down.weight`` and ``.lora.up.weight``, or the same with
A and B. s is alpha / r: alpha of the file's ``.alpha``, of its metadata, else r.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import PrerequisiteError, UsageError
from bench.ids import file_digest
from methods.backbones import Tensor

FILE = "pytorch_lora_weights.safetensors"  # what diffusers calls it in a folder
_KEY = re.compile(r"(?P<module>.+?)\.(?P<part>lora_[AB](?:\.default)?\.weight|alpha)")
_PREFIX = re.compile(r"(transformer|unet|base_model\.model)\.")
_OF_UNET = ((".lora.down.", ".lora_A."), (".lora.up.", ".lora_B."))  # how diffusers still spells those of a U-Net
# Other spellings and other things: first what the names look like, then what it is.
_FOREIGN = (
    ("lora_unet_", "a kohya LoRA (original FLUX names)"),
    (".qkv_lora", "an XLabs LoRA (original FLUX names)"),
    ("double_blocks.", "a LoRA on the original FLUX names"),
    (".lora.down.", "a LoRA in the spelling of diffusers before 0.25"),
    ("dora_scale", "DoRA, which is no plain LoRA"),
    (".diff", "differences of whole weights, which are no LoRA"),
)


class Lora(NamedTuple):
    """A low-rank pair: A (r, in), B (out, r) and the factor s."""

    a: Tensor
    b: Tensor
    scale: float = 1.0


Adapter = Mapping[str, Lora]
"""Low-rank pairs by the name of the linear layer they belong to."""

Shapes = Mapping[str, tuple[int, int]]
"""(in, out) of linear layers by name."""


def linear(layer: Any, x: Tensor, lora: Lora | None = None) -> Tensor:
    """A linear layer, with a low-rank pair where there is one."""
    out: Tensor = layer(x)
    return out if lora is None else out + lora.scale * ((x @ lora.a.to(x.dtype).T) @ lora.b.to(x.dtype).T)


def layers(network: Any, pattern: str) -> dict[str, tuple[int, int]]:
    """(in, out) of the linear layers whose whole name a regular expression matches, in the network's order."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in network.named_modules()
        if hasattr(module, "in_features") and re.fullmatch(pattern, name)
    }


def fresh(shapes: Shapes, rank: int, draw: Callable[[tuple[int, ...]], Tensor], scale: float = 1.0) -> dict[str, Lora]:
    """Pairs that change nothing yet: A normal with deviation 1 / rank (peft's ``gaussian``), B zero.

    Args:
        rank: r.
        draw: standard normal numbers of a shape.
    """
    made = {}
    for name, (width, out) in shapes.items():
        a = draw((rank, width)) / rank
        made[name] = Lora(a, a.new_zeros((out, rank)), scale)
    return made


def save(adapter: Adapter, path: Path, network: str = "transformer") -> None:
    """Write a file that :func:`load` and diffusers' ``load_lora_weights`` read. Pairs must have one factor.

    Args:
        network: which part of the pipeline they are of: ``transformer`` or ``unet``.
    """
    from safetensors.torch import save_file

    tensors, alphas = {}, set()
    for name, lora in adapter.items():
        tensors[f"{network}.{name}.lora_A.weight"] = lora.a.detach().contiguous()
        tensors[f"{network}.{name}.lora_B.weight"] = lora.b.detach().contiguous()
        alphas.add((lora.a.shape[0], lora.scale * lora.a.shape[0]))
    if len(alphas) != 1:
        raise ValueError(f"one rank and one factor for all pairs, got {sorted(alphas)}")
    rank, alpha = alphas.pop()
    told = json.dumps({f"{network}.r": rank, f"{network}.lora_alpha": alpha})
    save_file(tensors, path, metadata={"lora_adapter_metadata": told})  # one entry: several come in a random order


# -- files


def find(where: str, missing: str) -> Path:
    """The file that ``where`` names: itself, or in a folder the one that diffusers writes.

    Args:
        missing: what to do where there is none, for the error.

    Raises:
        PrerequisiteError: there is none.
    """
    path = Path(where).expanduser()
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise PrerequisiteError(f"no file {str(path)!r}; {missing}")
    return path


def digest(path: Path) -> str:
    """Digest of a file's content; read again only where its size or time has changed."""
    about = path.stat()
    return _digest(path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


class _Header(NamedTuple):
    """What a file holds, before its tensors are read: key -> shape, key -> (module, part), alpha for all."""

    shapes: Mapping[str, tuple[int, ...]]
    names: Mapping[str, tuple[str, str]]
    alpha: float | None


def check(path: Path, expected: Shapes, optional: Iterable[str], whose: str) -> None:
    """Refuse a file that is no LoRA for these layers; only its header is read.

    Args:
        expected: the layers.
        optional: names of layers that the file may lack, all of them together.
        whose: the network's name, for errors.

    Raises:
        UsageError: not a safetensors file, another spelling, layers unknown or missing, shapes that do not fit.
    """
    header = _header(path)
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, (module, part) in header.names.items():
        if part != "alpha":
            pairs.setdefault(module, {})[part] = header.shapes[key]
    unknown, missing = sorted(set(pairs) - set(expected)), sorted(set(expected) - set(pairs))
    left_out = set(optional)
    if set(missing) == left_out:
        missing = []
    if unknown or missing:
        lists = ((unknown, "unknown"), (missing, "missing"))
        wrong = [f"{len(names)} {what}, first {names[0]}" for names, what in lists if names]
        raise UsageError(
            f"{path} is no adapter for {whose}: layers {'; '.join(wrong)}; expected pairs for all {len(expected)} of it"
            + (f", or for all but {len(left_out)} of them" if left_out else "")
        )
    for module, parts in pairs.items():
        wide, out = expected[module]
        a, b = parts.get("A", ()), parts.get("B", ())
        if len(a) != 2 or b != (out, a[0]) or a[1] != wide:
            raise UsageError(
                f"{path} is no adapter for {whose}: {module} has lora_A {list(a)} and lora_B {list(b)}; expected "
                f"[r, {wide}] and [{out}, r]"
            )


def load(path: Path, device: Any = None, dtype: Any = None) -> dict[str, Lora]:
    """The pairs of a file, checked before by :func:`check`."""
    from safetensors.torch import load_file

    header, tensors = _header(path), load_file(path)
    found: dict[str, dict[str, Any]] = {}
    for key, (module, part) in header.names.items():
        found.setdefault(module, {})[part] = tensors[key]
    made = {}
    for module, parts in found.items():
        rank = parts["A"].shape[0]
        alpha = float(parts["alpha"]) if "alpha" in parts else rank if header.alpha is None else header.alpha
        made[module] = Lora(parts["A"].to(device, dtype), parts["B"].to(device, dtype), alpha / rank)
    return made


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes and metadata of a safetensors file, whose tensors are not read. Raises ``UsageError``."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            return shapes, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a safetensors file that can be read: {error}") from error


def _header(path: Path) -> _Header:
    shapes, told = header(path)
    names = {}
    for key in shapes:
        spelt = key
        for theirs, ours in _OF_UNET if key.startswith("unet.") else ():
            spelt = spelt.replace(theirs, ours)
        for sign, what in _FOREIGN:
            if sign in spelt:
                raise UsageError(
                    f"{path} holds {key!r}: {what}; expected transformer.MODULE.lora_A.weight and .lora_B.weight"
                )
        bare = _PREFIX.sub("", spelt, count=1)
        match = _KEY.fullmatch(bare)
        if match is None:
            raise UsageError(f"{path} holds {key!r}; expected transformer.MODULE.lora_A.weight and .lora_B.weight")
        part = match["part"]
        names[key] = match["module"], part if part == "alpha" else part[5]
    return _Header(shapes, names, _alpha(path, told.get("lora_adapter_metadata")))


def _alpha(path: Path, told: str | None) -> float | None:
    """Alpha of the metadata that newer diffusers write, None where there is none."""
    if told is None:
        return None
    try:
        about = json.loads(told)
        alpha = about.get("transformer.lora_alpha", about.get("unet.lora_alpha"))
        return None if alpha is None else float(alpha)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: its lora_adapter_metadata cannot be read: {error}") from error
