"""Identities: digests of canonical JSON. The scheme is versioned and frozen by golden tests."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.types import Recipe

if TYPE_CHECKING:
    import numpy as np

ID_VERSION = 1  # bump when any rule below changes; old ids then no longer match, on purpose
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
    """The identity of a piece of work."""
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    return digest({**fields, "canvas": dataclasses.asdict(recipe.canvas)})


def image_id(rgb: np.ndarray) -> str:
    """Digest of a decoded uint8 array (h, w, 3) and its shape; independent of the PNG encoder."""
    head = f"scrollbench:{ID_VERSION}:image:{'x'.join(map(str, rgb.shape))}:{rgb.dtype}:".encode()
    found = hashlib.sha256(head)
    found.update(rgb.ravel().data)  # no copy of a large picture
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


def source_digest(function: Callable[..., Any]) -> str:
    """Digest of the source a function is made of: its module's file and the sibling modules that file imports.

    Siblings are modules of the same package (``methods``, say), followed recursively through the import statements,
    so the digest does not depend on what happens to be loaded. Line endings do not count, nor do the files' names and
    places.
    """
    top = function.__module__.rpartition(".")[0] or function.__module__
    sources: dict[str, str] = {}

    def visit(name: str) -> None:
        path = _source_file(name)
        if name in sources or path is None:
            return
        sources[name] = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for sibling in _imports(sources[name], package):
            if sibling == top or sibling.startswith(top + "."):
                visit(sibling)

    visit(function.__module__)
    return digest(sorted(sources.values()))


def _source_file(module: str) -> Path | None:
    """The Python file of a module, whether or not it is loaded; None where there is none."""
    loaded = sys.modules.get(module)
    try:
        file = loaded.__file__ if loaded else getattr(importlib.util.find_spec(module), "origin", None)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(file) if file and file.endswith(".py") else None


def _imports(source: str, package: str) -> Iterator[str]:
    """Every module an import statement may mean; ``from a import b`` is a and, if there is such a module, a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (parent, node.module) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
