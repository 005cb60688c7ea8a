"""Where pipeline weights are: one folder, checked and identified without loading it, for planning and loading alike.

A repository of the hub is the folder of its snapshot in the local cache, at the revision that a user names or the
manifest pins; nothing follows a branch that moves, and nothing is fetched. The identity is the content of what is
loaded, so a snapshot and a copy of it elsewhere are the same weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from bench.errors import PrerequisiteError, UsageError
from bench.extractors.weights.digests import blob_name
from bench.extractors.weights.manifest import listed, require, snapshot
from bench.ids import LENGTH, deciding_files, file_digest, folder_digest

WORLD = Path(str(files("bench"))) / "world" / "weights" / "world-sd"
SHA256 = 64  # hex digits


class Part(NamedTuple):
    """A folder of a pipeline: the class its config must name (or an older name), and whether it holds weights."""

    cls: str
    weights: bool = True
    formerly: str | None = None

    @property
    def config(self) -> str:
        """Its config file."""
        if self.cls.endswith("Scheduler"):
            return "scheduler_config.json"
        return "config.json" if self.weights else "tokenizer_config.json"


Layout = Mapping[str, Part]


class Weights(NamedTuple):
    """A pipeline's weights: digest of what decides pixels, where they come from, and the folder they lie in."""

    digest: str
    source: str  # owner/name@commit, or the folder
    folder: Path


def check_folder(folder: Path, layout: Layout) -> None:
    """Refuse a folder that does not hold the parts of a layout, in one error that lists what is wrong."""
    if wrong := [*_missing(folder, layout), *_foreign(folder, layout)]:
        raise UsageError(
            f"{folder} is not the pipeline folder expected: {'; '.join(wrong)}. "
            f"Expected what the pipeline's save_pretrained writes: {', '.join(layout)}"
        )


def _missing(folder: Path, layout: Layout) -> list[str]:
    """Configs and weights that a folder lacks."""
    wrong = []
    for part, expected in layout.items():
        if not (folder / part / expected.config).is_file():
            wrong.append(f"{part}/{expected.config} is missing")
        elif expected.weights:
            wrong.extend(_weights_missing(folder / part, part))
    return wrong


def _foreign(folder: Path, layout: Layout) -> list[str]:
    """Configs that cannot be read or are another class's."""
    wrong = []
    for part, expected in layout.items():
        path = folder / part / expected.config
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            wrong.append(f"{part}/{expected.config} is unreadable ({error})")
            continue
        if not expected.weights:  # any scheduler of the family, any tokenizer class: the loader decides
            continue
        name = found.get("_class_name", found.get("architectures")) if isinstance(found, dict) else None
        name = name[0] if isinstance(name, list) and name else name
        if name not in (expected.cls, expected.formerly, None):
            wrong.append(f"{part} is a {name}, expected {expected.cls}")
    return wrong


def _weights_missing(folder: Path, part: str) -> list[str]:
    """What a part's weights lack: all of them, or shards that its index names."""
    if not any(p.suffix == ".safetensors" for p in deciding_files(folder)):
        others = any(folder.glob("*.bin")) or any(folder.glob("*.safetensors"))
        remark = " (pickled .bin files and variants are not loaded)" if others else ""
        return [f"{part} has no *.safetensors{remark}"]
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return [f"{part}/{index.name} is unreadable"]
        missing = sorted(n for n in named if not (folder / n).is_file())
        if missing:
            return [f"{part} lacks {len(missing)} of {len(named)} shards, first {missing[0]}"]
    return []


@cache
def _digest(folder: Path, parts: tuple[str, ...], stamp: tuple[tuple[str, int, int], ...]) -> str:
    return folder_digest(folder, parts, _content)


def _content(path: Path) -> str:
    """Digest of a file; the cache names large files by it, so that they need not be read to make a plan."""
    name = blob_name(path) or ""
    return name[:LENGTH] if len(name) == SHA256 else file_digest(path)


def identity(folder: Path, layout: Layout) -> str:
    """The digest of the parts of a folder; hashed again only where a file's size or time has changed."""
    check_folder(folder, layout)
    stats = ((str(p), p.stat()) for p in deciding_files(folder, layout))
    return _digest(folder.absolute(), tuple(layout), tuple((p, s.st_size, s.st_mtime_ns) for p, s in stats))


def fetch_command(repo: str, revision: str | None) -> str:
    """The command that puts a repository's pipeline into the cache."""
    pinned = f" --revision {revision}" if revision else ""
    wanted = (
        "*.json",
        "*.txt",
        "*.model",
        "*/diffusion_pytorch_model*.safetensors",
        "text_encoder*/model*.safetensors",
    )
    patterns = " ".join(f'--include "{pattern}"' for pattern in wanted)
    return f"hf download {repo}{pinned} {patterns}"


def place(model: str) -> Path | None:
    """The folder ``model`` names, None if it is a hub id. Raises ``UsageError`` on neither."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UsageError(f"no folder {model!r}; expected a pipeline folder or a hub id such as owner/name")
    return None


def locate(model: str, revision: str | None, layout: Layout) -> Weights:
    """The one folder that a folder's name, or a hub id and a revision, stand for on this machine.

    Raises:
        UsageError: neither a folder nor a hub id, or files that are not the layout's.
        PrerequisiteError: a repository that is not here, or not all of it; the message names the command.
    """
    folder = place(model)
    if folder is not None:
        return Weights(identity(folder, layout), str(folder), folder)
    listing = listed(model, revision)
    if listing is not None:
        folder = require(listing)[0].folder
    else:
        folder = snapshot(model, revision)
        if lacking := _missing(folder, layout):
            absent = f"only in part in the local cache ({lacking[0]})" if folder.is_dir() else "not in the local cache"
            raise PrerequisiteError(
                f"{model} at {revision or 'main'} is {absent}. Fetch it with:\n  {fetch_command(model, revision)}"
            )
    return Weights(identity(folder, layout), f"{model}@{folder.name}", folder)


def world_folder(name: str = "world-sd", file: str = "model_index.json") -> Path:
    """An embedded pipeline, or network that has another ``file``. Raises ``PrerequisiteError`` where it is missing."""
    folder = WORLD if name == "world-sd" else WORLD.with_name(name)
    if not (folder / file).is_file():
        raise PrerequisiteError(
            f"the embedded weights {name} are not in {WORLD.parent}; reinstall scrollbench, or train them with "
            f"`scrollbench world train {name}`"
        )
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Progress is the caller's to show: switch the bars of diffusers and transformers off for a while."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    shown = [library for library in (diffusers, transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
