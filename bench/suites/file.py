"""A suite as it is written: a TOML file, checked key by key. What it means is resolved in bench.suites.suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bench.errors import UsageError, near
from bench.reading import read_toml
from bench.suites.protocols import load_protocol
from bench.suites.tables import MetricFile, ReferenceFile, SuiteFile, explain

if TYPE_CHECKING:
    from bench.suites.tables import MethodFile, MiniatureFile


def read_suite(file: Path) -> SuiteFile:
    """Read and check a suite file; relative paths in it come back anchored at its folder.

    Raises:
        UsageError: an unreadable file, or wrong keys and values, each with file, key and near misses.
    """
    try:
        spec = SuiteFile.model_validate(read_toml(file, "suite"))
    except ValidationError as error:
        raise UsageError("\n".join(f"{file}: {explain(e)}" for e in error.errors())) from error
    spec = _anchored(_with_protocol(spec, file), file.parent)
    _check(spec, file)
    return spec


def _with_protocol(spec: SuiteFile, file: Path) -> SuiteFile:
    """The suite with the metrics and references of its protocol before its own."""
    if spec.protocol is None:
        return spec
    try:
        preset = load_protocol(spec.protocol)
    except UsageError as error:
        raise UsageError(f"{file}: protocol: {error}") from error
    metrics = [MetricFile.model_validate(m) for m in preset.metrics]
    references = {name: ReferenceFile.model_validate(r) for name, r in preset.references.items()}
    return spec.model_copy(
        update={"metrics": [*metrics, *spec.metrics], "references": {**references, **spec.references}}
    )


def _anchored(spec: SuiteFile, folder: Path) -> SuiteFile:
    """Relative paths written in a suite are meant from its folder."""

    def ref(text: str) -> str:
        file, at, name = text.rpartition("@")
        return f"{folder / file}@{name}" if at and file.endswith(".py") else text

    def path(text: str | None) -> str | None:
        return str(folder / Path(text).expanduser()) if text else text

    def looked(table: SuiteFile | MiniatureFile) -> dict[str, Any]:
        return {
            "metrics": [
                m.model_copy(update={"ref": ref(m.ref), "extractor": ref(m.extractor) if m.extractor else None})
                for m in table.metrics
            ],
            "references": {n: r.model_copy(update={"path": path(r.path)}) for n, r in table.references.items()},
        }

    small = spec.miniature
    if small is not None:
        stand_ins = {"backbone": ref(small.backbone), "backbones": {k: ref(v) for k, v in small.backbones.items()}}
        small = small.model_copy(update={**looked(small), **stand_ins})
    return spec.model_copy(
        update={
            "backbone": ref(spec.backbone) if spec.backbone else None,
            "methods": [
                m.model_copy(update={"ref": ref(m.ref), "backbone": ref(m.backbone) if m.backbone else None})
                for m in spec.methods
            ],
            "miniature": small,
            **looked(spec),
        }
    )


def _check(spec: SuiteFile, file: Path) -> None:
    """What one table must know of another, whatever a command changes later."""
    if spec.miniature is not None and spec.tier == "miniature":
        raise UsageError(f"{file}: miniature: this table shows how a suite of tier full gets there; the tier is given")
    small = spec.miniature.metrics if spec.miniature else []
    tables: dict[str, Sequence[MethodFile | MetricFile]] = {
        "methods": spec.methods, "metrics": spec.metrics, "miniature.metrics": small,
    }  # fmt: skip
    for table, entries in tables.items():
        for i, m in enumerate(entries):
            if m.planned and ".py@" in m.ref:
                raise UsageError(f"{file}: {table}[{i}].planned: only names can be planned, {m.ref!r} is a file")
            known = spec.miniature.references if spec.miniature and table != "metrics" else spec.references
            if isinstance(m, MetricFile) and m.reference is not None and m.reference not in known:
                raise UsageError(f"{file}: {table}[{i}].reference: unknown {m.reference!r}; {near(m.reference, known)}")


def check_labels(spec: SuiteFile, file: Path) -> None:
    """Refuse two entries of one table under one name."""
    names = {
        "parts": [p.name for p in spec.parts],
        "methods": [m.name for m in spec.methods],
        "metrics": [m.name for m in spec.metrics],
    }
    for table, used in names.items():
        for i, name in enumerate(used):
            if name in used[:i]:
                hint = "part names must differ" if table == "parts" else "give one of them another label"
                raise UsageError(f"{file}: {table}[{i}]: {name!r} is there twice; {hint}")
