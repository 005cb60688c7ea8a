"""Where Stable Diffusion weights are: folders and hub repositories, checked and identified without loading them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import bench
from bench.errors import PrerequisiteError, UsageError
from bench.ids import folder_digest

WORLD = Path(bench.__file__).parent / "world" / "weights" / "world-sd"
# Folder of a pipeline -> (its config file, the class the config must name, the key that names it, has weights).
LAYOUT = {
    "unet": ("config.json", "UNet2DConditionModel", "_class_name", True),
    "vae": ("config.json", "AutoencoderKL", "_class_name", True),
    "text_encoder": ("config.json", "CLIPTextModel", "architectures", True),
    "tokenizer": ("tokenizer_config.json", None, "", False),
    "scheduler": ("scheduler_config.json", None, "", False),
}


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete Stable Diffusion pipeline, in one error that lists what is wrong."""
    wrong = []
    for part, (config, wanted, key, has_weights) in LAYOUT.items():
        path = folder / part / config
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            wrong.append(f"{part}/{config} is missing")
            continue
        except (OSError, ValueError) as error:
            wrong.append(f"{part}/{config} is unreadable ({error})")
            continue
        name = found.get(key) if isinstance(found, dict) else None
        name = name[0] if isinstance(name, list) and name else name
        if wanted and name not in (wanted, None):
            wrong.append(f"{part} is a {name}, expected {wanted}")
        if has_weights and not any((folder / part).glob("*.safetensors")):
            pickles = any((folder / part).glob("*.bin"))
            wrong.append(f"{part} has no *.safetensors" + (" (pickled .bin files are not loaded)" if pickles else ""))
    if wrong:
        raise UsageError(
            f"{folder} is not a Stable Diffusion folder: {'; '.join(wrong)}. "
            f"Expected what diffusers' StableDiffusionPipeline.save_pretrained writes"
        )


@cache
def _digest(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return folder_digest(folder)


def identity(folder: Path) -> str:
    """The folder's digest; hashed again only where a file's size or time has changed."""
    check_folder(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return _digest(folder.resolve(), tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


def hub_commit(repo: str, revision: str | None) -> str | None:
    """The commit a revision stands for in the local cache, None if it is not there. Never asks the network."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repo, "unet/config.json", revision=revision or "main")
    return Path(cached).parent.parent.name if isinstance(cached, str) else None


def fetch_command(repo: str, revision: str | None) -> str:
    """The command that puts a repository's pipeline into the cache."""
    pinned = f" --revision {revision}" if revision else ""
    wanted = ("*.json", "*.txt", "*/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors")
    patterns = " ".join(f'--include "{pattern}"' for pattern in wanted)
    return f"hf download {repo}{pinned} {patterns}"


def place(model: str) -> Path | None:
    """The folder ``model`` names, None if it is a hub id. Raises ``UsageError`` on neither."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise UsageError(f"no folder {model!r}; expected a Stable Diffusion folder or a hub id such as owner/name")
    return None


def world_folder() -> Path:
    """The embedded world-sd. Raises ``PrerequisiteError`` where it was not shipped."""
    if not (WORLD / "unet").is_dir():
        raise PrerequisiteError(
            f"the embedded weights world-sd are not in {WORLD.parent}; reinstall scrollbench, or train them with "
            f"`scrollbench world train world-sd`"
        )
    return WORLD


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
