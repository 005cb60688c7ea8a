"""Where pipeline weights are: folders and hub repositories, checked and identified without loading them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import bench
from bench.errors import PrerequisiteError, UsageError
from bench.ids import folder_digest

WORLD = Path(bench.__file__).parent / "world" / "weights" / "world-sd"


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


def check_folder(folder: Path, layout: Layout) -> None:
    """Refuse a folder that does not hold the parts of a layout, in one error that lists what is wrong."""
    wrong = []
    for part, expected in layout.items():
        path = folder / part / expected.config
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            wrong.append(f"{part}/{expected.config} is missing")
            continue
        except (OSError, ValueError) as error:
            wrong.append(f"{part}/{expected.config} is unreadable ({error})")
            continue
        if not expected.weights:  # any scheduler of the family, any tokenizer class: the loader decides
            continue
        name = found.get("_class_name", found.get("architectures")) if isinstance(found, dict) else None
        name = name[0] if isinstance(name, list) and name else name
        if name not in (expected.cls, expected.formerly, None):
            wrong.append(f"{part} is a {name}, expected {expected.cls}")
        wrong.extend(_weights_missing(folder / part, part))
    if wrong:
        raise UsageError(
            f"{folder} is not the pipeline folder expected: {'; '.join(wrong)}. "
            f"Expected what the pipeline's save_pretrained writes: {', '.join(layout)}"
        )


def _weights_missing(folder: Path, part: str) -> list[str]:
    """What a part's weights lack: all of them, or shards that its index names."""
    if not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin"))
        return [f"{part} has no *.safetensors" + (" (pickled .bin files are not loaded)" if pickles else "")]
    for index in folder.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(n for n in named if not (folder / n).is_file())
        if missing:
            return [f"{part} lacks {len(missing)} of {len(named)} shards, first {missing[0]}"]
    return []


@cache
def _digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return folder_digest(folder)


def identity(folder: Path, layout: Layout) -> str:
    """The folder's digest; hashed again only where a file's size or time has changed."""
    check_folder(folder, layout)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return _digest(folder.resolve(), tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


def hub_commit(repo: str, revision: str | None) -> str | None:
    """The commit a revision stands for in the local cache, None if it is not there. Never asks the network."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import try_to_load_from_cache

    for file in ("model_index.json", "unet/config.json", "transformer/config.json"):
        cached = try_to_load_from_cache(repo, file, revision=revision or "main")
        if isinstance(cached, str):
            return Path(cached).parents[file.count("/")].name
    return None


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


def identify(model: str, revision: str | None, layout: Layout) -> str:
    """Digest of a folder, ``repo@commit`` of a hub repository in the local cache.

    Raises:
        UsageError: neither a folder nor a hub id, or a folder that does not hold the layout.
        PrerequisiteError: a repository whose commit is unknown because it was never fetched.
    """
    folder = place(model)
    if folder is not None:
        return identity(folder, layout)
    commit = hub_commit(model, revision)
    if commit is None:
        raise PrerequisiteError(
            f"{model} at {revision or 'main'} is not in the local cache, so its commit is unknown. "
            f"Fetch it with: {fetch_command(model, revision)}"
        )
    return f"{model}@{commit}"


def world_folder(name: str = "world-sd") -> Path:
    """An embedded pipeline. Raises ``PrerequisiteError`` where it was not shipped."""
    folder = WORLD if name == "world-sd" else WORLD.with_name(name)
    if not (folder / "model_index.json").is_file():
        raise PrerequisiteError(
            f"the embedded weights {name} are not in {WORLD.parent}; reinstall scrollbench, or train them with "
            f"`scrollbench world train {name}`"
        )
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """Progress is the caller's to show: switch the bars of transformers off for a while."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
