"""Variants of released weights, such as ``unet/diffusion_pytorch_model.fp16.safetensors``, and single files.

``variants.toml`` says which models have files in 16 bits and which they replace. Loaders ask for plain names: a
variant is handed to them as a folder of links, in which its files stand under those. So identities are by content here
as everywhere, and a full-precision copy beside it is neither needed nor in the way. Free of torch.
"""

from __future__ import annotations

import shutil
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import Model, hub_cache, listed, require
from bench.ids import digest
from bench.reading import read_toml

TABLE = Path(__file__).with_name("variants.toml")
SINGLE = (".safetensors", ".ckpt", ".pt", ".pth")


@cache
def _table() -> dict[str, dict[str, Any]]:
    return read_toml(TABLE, "the table of variants")


def of(model: Model, variant: str) -> Model:
    """A model of the manifest with the files of a variant in the place of those of the same plain name.

    Raises:
        UsageError: a variant that is not known of it.
    """
    known = _table().get(model.name, {})
    if variant not in known:
        raise UsageError(f"{model.repository} has no variant {variant!r} that is known here; {near(variant, known)}")
    plain = {_plain(file, variant): file for file in known[variant]["files"]}
    files = [plain.get(file, file) for file in model.files]
    return model.model_copy(update={"files": files, "size_gb": known[variant]["size_gb"], "size_from": "computed"})


def folder_of(model: str, revision: str | None, variant: str) -> tuple[Path, str]:
    """(a pipeline's folder of links that holds a variant under plain names, where it is from).

    Args:
        model: a folder, or a repository of the manifest; all that is there is taken, the variant's files first.
        revision: of a repository; the manifest's where None.
        variant: what stands between name and ending, such as ``fp16``.

    Raises:
        PrerequisiteError: files that are not here, with the command that fetches them.
        UsageError: a variant that the folder, or the manifest, does not have.
    """
    root, source, files = Path(model).expanduser(), model, list[str]()
    if root.is_dir():
        files = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
    else:
        if (listing := listed(model, revision)) is None:
            raise UsageError(f"variants are known of folders and of the manifest's models, not of {model!r}")
        found = require(of(listing, variant))[0]
        root, files, source = found.folder, list(found.files), f"{model}@{found.folder.name}"
    taken = {_plain(f, variant): f for f in files if f".{variant}." in f}
    if not taken:
        raise UsageError(f"{model} holds no variant {variant!r}: no file there is named *.{variant}.safetensors")
    wanted = {f: f for f in files if f".{variant}." not in f} | taken
    return _links({name: (root / file).resolve() for name, file in wanted.items()}), f"{source} ({variant})"


def _plain(file: str, variant: str) -> str:
    return file.replace(f".{variant}.", ".")


def _links(files: dict[str, Path]) -> Path:
    """A folder of links, made once for the same files in the same state."""
    stats = sorted((name, str(path), path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items())
    home = hub_cache().with_name("scrollbench-variants") / digest(stats)
    if home.is_dir():
        return home
    making = home.with_name(f"{home.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        for name, path in files.items():
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                (making / name).symlink_to(path)
            except OSError:  # a system without links
                shutil.copyfile(path, making / name)
        if not home.is_dir():
            making.rename(home)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return home


def refuse_single_file(model: str) -> None:
    """Refuse a checkpoint that is one file, with the command that makes a pipeline's folder of it."""
    if model.lower().endswith(SINGLE):
        raise UsageError(
            f"{model!r} is a single-file checkpoint, and backbones load a pipeline's folder. diffusers' own loader "
            f'makes one of it, once:\n  python -c "from diffusers import DiffusionPipeline; '
            f"DiffusionPipeline.from_single_file('{model}').save_pretrained('FOLDER')\"\nthen say model = \"FOLDER\""
        )
