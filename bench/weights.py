"""The weights manifest: what every backbone and scorer is made of, and what of it is on this machine.

``weights.toml`` lists the models. They lie where every loader looks for them: files of the Hugging Face hub in the
hub's cache, files from elsewhere in torch's checkpoint folder. Nothing here asks the network or reads the files: see
:mod:`bench.weights_fetch` and :mod:`bench.weights_check`; :mod:`bench.weights_suite` says what a suite needs. Free of
torch.

Everybody who wants a file asks here where it is: ``snapshot`` turns a repository and a revision into one folder,
``require`` says whether a model is complete. Plan, doctor and loaders so have one answer, and loaders get a folder
instead of a name that somebody could look up again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import PrerequisiteError, UsageError, near
from bench.reading import read_toml, shown

MANIFEST = Path(__file__).with_name("weights.toml")
COMMIT = re.compile(r"[0-9a-f]{40}")
_switch = RLock()  # of offline


class Model(BaseModel):
    """One entry of the manifest; ``weights.toml`` says what the fields mean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    repository: str = Field(pattern=r"^([\w.-]+/[\w.-]+|https?://\S+/[^/\s]+)$")
    revision: str = "main"
    pinned: bool = False
    files: list[str] = Field(min_length=1)
    size_gb: float = Field(gt=0)
    size_from: Literal["published", "card", "computed", "recall"]
    licence: str = Field(min_length=1)
    gated: bool = False
    role: Literal["backbone", "vae", "text-encoder", "tokenizer", "adapter", "controlnet", "upscaler", "scorer"]
    needed_by: list[str] = Field(min_length=1)
    digests: dict[str, str] = {}
    notes: str = ""

    @property
    def hub(self) -> bool:
        """Whether the repository is one of the hub's, not the URL of a file."""
        return "://" not in self.repository

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.pinned != bool(COMMIT.fullmatch(self.revision)):
            raise ValueError(f"pinned means a revision of 40 hex digits, and only that; got revision {self.revision!r}")
        if not self.hub and self.files != [unquote(self.repository.rpartition("/")[2])]:
            raise ValueError(f"files of a URL are the one file it ends in; got {self.files}")
        for file, digest in self.digests.items():
            if not any(fnmatch(file, pattern) for pattern in self.files):
                raise ValueError(f"digests names {file!r}, which no pattern of files matches")
            if not re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", digest):
                raise ValueError(f"digests of {file!r} are 64, or the first 8, hex digits of sha256; got {digest!r}")
        return self


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    model: list[Model]


@cache
def load_manifest(file: Path = MANIFEST) -> dict[str, Model]:
    """The models by name, in the file's order.

    Raises:
        UsageError: an unreadable file or wrong fields, each with file, entry and field.
    """
    data = read_toml(file, "the weights manifest")
    try:
        models = _Manifest.model_validate(data).model
    except ValidationError as error:
        raise UsageError("\n".join(f"{file}: {_explain(e, data)}" for e in error.errors())) from error
    for i, model in enumerate(models):
        if any(model.name == other.name for other in models[:i]):
            raise UsageError(f"{file}: model[{i}] {model.name!r}: name: is there twice")
    return {model.name: model for model in models}


def _explain(error: Mapping[str, Any], data: dict[str, Any]) -> str:
    """``model[3] 'sdxl-base': size_gb: input should be greater than 0, got -1``."""
    where = list(error["loc"])
    entry = ""
    if len(where) > 1 and isinstance(where[1], int):
        written = data["model"][where[1]]
        entry = f"model[{where[1]}] {written.get('name', 'without a name') if isinstance(written, dict) else written!r}"
        where = where[2:]
    field = ".".join(map(str, where))
    said = ": ".join(part for part in (entry, field) if part)
    if error["type"] == "extra_forbidden":
        return f"{said}: unknown key; {near(field, Model.model_fields)}"
    if error["type"] == "missing":
        return f"{said}: missing; expected a value"
    if error["type"] == "value_error":
        return f"{said}: {error['ctx']['error']}"
    return f"{said}: {error['msg'][:1].lower()}{error['msg'][1:]}, got {shown(error['input'])}"


# -- where, and how much of it


@dataclass(frozen=True)
class Found:
    """What is here of a model: ``present``, ``partial`` or ``missing``; the files were not read."""

    model: Model
    state: str
    folder: Path  # where the files are, or would be
    files: tuple[str, ...]  # below the folder
    lacking: tuple[str, ...]  # patterns without a file, and shards that an index names

    @property
    def fix(self) -> str:
        """The command that fetches the model; where it is gated, after the steps that unlock it."""
        return remedy([self])

    @property
    def complaint(self) -> str:
        """What is not here, and what it takes to get it."""
        some = ", ".join(self.lacking[:3]) + (", ..." if len(self.lacking) > 3 else "")
        absent = "not on this machine" if self.state == "missing" else f"only in part on this machine, without {some}"
        model, gated = self.model, ", gated" if self.model.gated else ""
        where = model.repository + (f" at {model.revision}" if model.hub else "")
        return f"{where} is {absent}: {model.size_gb:.3g} GB, licence {model.licence}{gated}"


def command(model: Model) -> str:
    """The command that fetches a model; the hub's own where a suite asks for another revision than the manifest's."""
    if load_manifest().get(model.name) == model:
        return f"scrollbench weights fetch {model.name}"
    wanted = " ".join(f'--include "{pattern}"' for pattern in model.files)
    return f"hf download {model.repository} --revision {model.revision} {wanted}"


def unlock(model: Model) -> str:
    """The two steps that a gated model asks of its user once."""
    return f"1. open https://huggingface.co/{model.repository}, log in and accept the licence; 2. run `hf auth login`"


def remedy(absent: Iterable[Found]) -> str:
    """One line that brings models here: the steps that unlock what is gated, then the commands."""
    models = [found.model for found in absent]
    plain = [m.name for m in models if load_manifest().get(m.name) == m]
    commands = [f"scrollbench weights fetch {' '.join(plain)}"] if plain else []
    commands += [command(m) for m in models if m.name not in plain]
    return "".join(f"{unlock(m)}; then " for m in models if m.gated) + " && ".join(commands)


def state(model: Model) -> Found:
    """Look for a model's files on this machine; the network is not asked."""
    folder = snapshot(model.repository, model.revision) if model.hub else checkpoints()
    files, lacking = inventory(folder, model.files)
    found = "missing" if not files else "partial" if lacking else "present"
    return Found(model, found, folder, files, lacking)


def require(*models: Model) -> tuple[Found, ...]:
    """What is here of models that something is made of, all of it complete.

    Raises:
        PrerequisiteError: something is lacking; the second line is the command that fetches it.
    """
    found = tuple(map(state, models))
    if absent := [f for f in found if f.state != "present"]:
        raise PrerequisiteError(f"{'; '.join(f.complaint for f in absent)}. Fetch it with:\n  {remedy(absent)}")
    return found


def listed(repository: str, revision: str | None = None) -> Model | None:
    """The manifest's model of a hub repository, at another revision where one is named; None if it lists none."""
    model = next((m for m in load_manifest().values() if m.repository == repository), None)
    return model and at(model, revision)


def at(model: Model, revision: str | None) -> Model:
    """A model at another revision than the manifest's, whose digests then say nothing; as it is for None."""
    if revision in (None, model.revision):
        return model
    pinned = bool(COMMIT.fullmatch(str(revision)))
    return model.model_copy(update={"revision": revision, "pinned": pinned, "digests": {}})


def snapshot(repository: str, revision: str | None = None) -> Path:
    """Where the hub's cache keeps a repository's files, which need not be there; the network is not asked.

    The revision is the one named, else the manifest's, else ``main``. A branch or tag stands for the commit that the
    cache last saw it at, which is the name of the folder.
    """
    model = listed(repository)
    meant = revision or (model.revision if model else "main")
    ref = repository_folder(repository) / "refs" / meant
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    return repository_folder(repository) / "snapshots" / (commit or meant)


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the hub inside: what a loader does not find in the folder it was given, it may not fetch.

    The switch is the library's, one for the process, so loaders in several threads take turns.
    """
    from huggingface_hub import constants

    with _switch:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def inventory(folder: Path, patterns: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(files below a folder that match the patterns, what is missing: patterns without any, shards of an index)."""
    patterns = list(patterns)
    plain = not any(set(p) & set("*?[") for p in patterns)
    paths = patterns if plain else sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
    kept = [p for p in paths if (folder / p).is_file() and not p.startswith((".cache/", ".git/"))]
    have = [p for p in kept if any(fnmatch(p, pattern) for pattern in patterns)]
    lacking = [pattern for pattern in patterns if not any(fnmatch(p, pattern) for p in have)]
    for index in (p for p in have if p.endswith(".index.json")):
        try:
            shards = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            lacking.append(f"{index} (unreadable)")
            continue
        beside = {(Path(index).parent / shard).as_posix() for shard in shards}
        lacking += sorted(beside - set(have))
    return tuple(have), tuple(lacking)


def hub_cache() -> Path:
    """The cache of the Hugging Face hub: HF_HUB_CACHE, or below HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(repository: str) -> Path:
    """Where the hub's cache keeps a repository: ``blobs``, ``refs`` and ``snapshots`` are below."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def checkpoints() -> Path:
    """Torch's folder of single files: where ``torch.hub`` puts them and finds them."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"
