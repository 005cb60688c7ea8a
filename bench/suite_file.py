"""A suite as it is written: a TOML file, checked key by key. What it means is resolved in bench.suite."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import UsageError, near


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PartFile(_Table):
    """A canvas and the prompts to draw on it. ``prompts`` is a selection (bench.prompts) or a ``.jsonl`` file."""

    name: str = Field(min_length=1)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    loop: bool = False
    prompts: str = Field(min_length=1)


class MethodFile(_Table):
    """A method and its knobs; ``label`` is its name on the board."""

    ref: str = Field(min_length=1)
    preset: str | None = None
    label: str | None = None
    set: dict[str, Any] = {}


class MetricFile(_Table):
    """A metric, where it looks, with what network, and (set metrics) against which of the ``references``."""

    ref: str = Field(min_length=1)
    label: str | None = None
    view: str | None = None
    extractor: str | None = None
    reference: str | None = None
    set: dict[str, Any] = {}


class ReferenceFile(_Table):
    """A reference set (bench.references)."""

    kind: Literal["world", "folder"]
    width: int | None = None
    count: int | None = None
    prompts: str | None = None
    seed: int | None = None
    loop: bool | None = None
    path: str | None = None


class SuiteFile(_Table):
    """A suite as it is written. ``defaults`` are knobs for every method that has them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(min_length=1)
    tier: Literal["miniature", "full"]
    title: str = ""
    seeds: list[int] = Field(default=[0], min_length=1)
    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    parts: list[PartFile] = Field(min_length=1)
    methods: list[MethodFile] = []
    metrics: list[MetricFile] = []
    references: dict[str, ReferenceFile] = {}


_TABLES: dict[str, type[BaseModel]] = {
    "parts": PartFile, "methods": MethodFile, "metrics": MetricFile, "references": ReferenceFile,
}  # fmt: skip


def read_suite(file: Path) -> SuiteFile:
    """Read and check a suite file; relative paths in it come back anchored at its folder.

    Raises:
        UsageError: an unreadable file, or wrong keys and values, each with file, key and near misses.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read suite {file}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: not TOML: {error}") from error
    try:
        return _anchored(SuiteFile.model_validate(data), file.parent)
    except ValidationError as error:
        raise UsageError("\n".join(f"{file}: {_explain(e)}" for e in error.errors())) from error


def _explain(error: Mapping[str, Any]) -> str:
    """``methods[1].preste: unknown key; did you mean 'preset'?``"""
    where = error["loc"]
    key = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in where).lstrip(".")
    if error["type"] == "extra_forbidden":
        known = (_TABLES[where[0]] if len(where) > 1 else SuiteFile).model_fields
        return f"{key}: unknown key; {near(str(where[-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing; expected a value"
    return f"{key}: {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}"


def _anchored(spec: SuiteFile, folder: Path) -> SuiteFile:
    """Relative paths written in a suite are meant from its folder."""

    def ref(text: str) -> str:
        file, at, name = text.rpartition("@")
        return f"{folder / file}@{name}" if at and file.endswith(".py") else text

    def path(text: str | None) -> str | None:
        return str(folder / Path(text).expanduser()) if text else text

    return spec.model_copy(
        update={
            "backbone": ref(spec.backbone) if spec.backbone else None,
            "methods": [m.model_copy(update={"ref": ref(m.ref)}) for m in spec.methods],
            "metrics": [m.model_copy(update={"ref": ref(m.ref)}) for m in spec.metrics],
            "references": {n: r.model_copy(update={"path": path(r.path)}) for n, r in spec.references.items()},
        }
    )


def check_suite(spec: SuiteFile, file: Path) -> None:
    """What one table must know of another: unique names, references that exist."""
    names = {
        "parts": [p.name for p in spec.parts],
        "methods": [m.label or default_label(m.ref, m.preset) for m in spec.methods],
        "metrics": [m.label or default_label(m.ref, None) for m in spec.metrics],
    }
    for table, used in names.items():
        for i, name in enumerate(used):
            if name in used[:i]:
                hint = "part names must differ" if table == "parts" else "give one of them another label"
                raise UsageError(f"{file}: {table}[{i}]: {name!r} is there twice; {hint}")
    for i, m in enumerate(spec.metrics):
        if m.reference is not None and m.reference not in spec.references:
            hint = near(m.reference, spec.references)
            raise UsageError(f"{file}: metrics[{i}].reference: unknown {m.reference!r}; {hint}")


def default_label(ref: str, preset: str | None) -> str:
    """Name on the board: the reference, of a file only its last part, and the preset."""
    path, at, name = ref.rpartition("@")
    plain = f"{Path(path).name}@{name}" if at and path.endswith(".py") else ref
    return f"{plain}:{preset}" if preset else plain
