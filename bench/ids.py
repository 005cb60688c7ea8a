"""Identities: digests of canonical JSON. The scheme is versioned and frozen by golden tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.types import Canvas, Recipe

if TYPE_CHECKING:
    import numpy as np

ID_VERSION = 2  # bump when any rule below changes; old ids then no longer match, on purpose
LENGTH = 24  # hex digits kept of a sha256


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces. Integral floats are written as floats; NaN and infinities are refused."""

    def plain(v: Any) -> Any:
        if isinstance(v, Mapping):
            return {str(k): plain(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        if isinstance(v, float) and not math.isfinite(v):
            raise ValueError(f"cannot identify a non-finite number: {v}")
        if v is None or isinstance(v, str | bool | int | float):
            return v
        raise TypeError(f"cannot identify a value of type {type(v).__name__}: {v!r}")

    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: Any) -> str:
    """Digest of a JSON-like value."""
    return hashlib.sha256(f"scrollbench:{ID_VERSION}:{canonical(value)}".encode()).hexdigest()[:LENGTH]


def recipe_id(recipe: Recipe) -> str:
    """The identity of a piece of work: the digest of its fields, the canvas as a mapping.

    The canonical text is put together here, since a plan asks for millions, and what recipes share is written once.
    """
    r, text = recipe, encode_basestring_ascii
    fields = (
        f'{{"attributes":{_text(r.attributes)},"backbone":{_text(r.backbone)},'
        f'"backbone_source":{_text(r.backbone_source)},"canvas":{_canvas(r.canvas)},"method":{text(r.method)},'
        f'"method_source":{text(r.method_source)},"method_version":{text(r.method_version)},'
        f'"negative":{text(r.negative)},"params":{_params(r.params)},"precision":{text(r.precision)},'
        f'"prompt":{text(r.prompt)},"prompt_id":{text(r.prompt_id)},"seed":{r.seed},"weights":{_text(r.weights)}}}'
    )
    return hashlib.sha256(f"scrollbench:{ID_VERSION}:{fields}".encode()).hexdigest()[:LENGTH]


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)


@lru_cache(256)
def _canvas(canvas: Canvas) -> str:
    return canonical(dataclasses.asdict(canvas))


def _params(params: Mapping[str, Any]) -> str:
    """The text of a sampler's knobs; of the same frozen ones as before, the same text."""
    global _known
    known = _known  # another thread may put its own in place meanwhile
    if known[0] is not params:
        known = _known = params, canonical(params)
    return known[1]


_known: tuple[Mapping[str, Any], str] = {}, "{}"


def image_id(rgb: np.ndarray) -> str:
    """Digest of a decoded uint8 array (h, w, 3) and its shape; independent of the PNG encoder."""
    return strips_id(rgb.shape, [rgb], str(rgb.dtype))


def strips_id(shape: tuple[int, ...], strips: Iterable[np.ndarray], dtype: str = "uint8") -> str:
    """:func:`image_id` of a picture (h, w, 3) that comes in strips of whole rows, from the top."""
    found = hashlib.sha256(f"scrollbench:{ID_VERSION}:image:{'x'.join(map(str, shape))}:{dtype}:".encode())
    for strip in strips:
        found.update(strip.ravel().data)  # no copy of a large picture
    return found.hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:LENGTH]


# What in a folder of weights decides nothing: cards, licences and pictures; weights in forms that no loader here reads.
_BESIDE = re.compile(
    r"card\.json|(readme|licen[sc]e|notice|copying)([ ._-].*)?|.*\.(md|rst|pdf|png|jpe?g|gif|webp|svg|mp4)"
    r"|.*\.(bin|bin\.index\.json|h5|msgpack|onnx|onnx_data|ot|ckpt|gguf)"
    r"|(model|diffusion_pytorch_model)\.(?!safetensors).+\.safetensors"  # variants: model.fp16.safetensors
    r"|(model|diffusion_pytorch_model)\.safetensors\.index\..+\.json"
)


def folder_digest(folder: Path, parts: Iterable[str] = ("",), of: Callable[[Path], str] = file_digest) -> str:
    """Digest of a folder of weights: names and contents of all that decides what a network computes.

    What stands behind a dot (``.cache``, ``.gitattributes``), cards, licences and pictures do not count, nor do pickles
    of other tools and variants such as ``model.fp16.safetensors``, which nothing here loads. Everything else does:
    weights, configs, tokenizers. A snapshot in the hub's cache, whose files are links, and a copy of it are equal.

    Args:
        folder: where the files are.
        parts: the sub-folders that count; all of it by default.
        of: digest of one file.
    """
    return digest([[p.relative_to(folder).as_posix(), of(p)] for p in deciding_files(folder, parts)])


def deciding_files(folder: Path, parts: Iterable[str] = ("",)) -> list[Path]:
    """The files below sub-folders that :func:`folder_digest` looks at, in its order."""
    there = {p: p.relative_to(folder) for part in parts for p in (folder / part).rglob("*") if p.is_file()}
    return sorted(
        p for p, name in there.items()
        if not any(n.startswith(".") for n in name.parts) and not _BESIDE.fullmatch(name.name.lower())
    )  # fmt: skip
