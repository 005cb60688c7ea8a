"""Baselines that do not move: a sampler's digest in a file that is committed, reviewed and diffed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commit import write_file
from bench.errors import UsageError, near
from bench.measured import Side, sampler_digest
from bench.reading import is_file, read_toml, shown

if TYPE_CHECKING:
    from bench.suite import Suite

GATES = Path("results/gates")


@dataclass(frozen=True)
class Pin:
    """A baseline kept in a file by digest: ``results/gates/NAME.toml``, written by ``--update`` and reviewed."""

    path: Path
    suite: str
    suite_digest: str
    label: str
    digest: str
    margins: dict[str, float]


def pin_path(name: str) -> Path:
    """Where a pinned baseline is kept: a ``.toml`` file, or a name in ``results/gates``."""
    return Path(name) if name.endswith(".toml") else GATES / f"{name}.toml"


def find_pin(name: str) -> Pin | None:
    """A pinned baseline by file, or by its name in ``results/gates``; None where there is none of that name.

    Raises:
        UsageError: a ``.toml`` file that is not there, or not such a file.
    """
    path = pin_path(name)
    if not is_file(path):
        if name.endswith(".toml"):
            have = sorted(p.stem for p in GATES.glob("*.toml"))
            hint = f"{near(path.stem, have)} `--update` writes one from the candidate"
            raise UsageError(f"no baseline {shown(str(path))[1:-1]}; {hint}")
        return None
    data = read_toml(path)
    baseline = data.get("baseline", {})
    if wrong := _not_pinned(data, baseline):
        raise UsageError(f"{path}: not a pinned baseline: {wrong}; `--update` writes it anew")
    margins = margins_in(data, path, "margins")
    pin = Pin(path, data["suite"], data["suite_digest"], baseline["label"], baseline["digest"], margins)
    fields = {k: baseline.get(k) for k in baseline if k not in ("label", "digest")}
    if sampler_digest(fields) != pin.digest:
        raise UsageError(f"{path}: its digest is not that of the sampler it describes; `--update` writes it anew")
    return pin


def _not_pinned(data: Mapping[str, Any], baseline: Any) -> str:
    """What keeps a file from being a pinned baseline, empty if nothing does; its margins are looked at apart."""
    tables = {"baseline": baseline, "baseline.params": {}, "margins": data.get("margins")}
    if isinstance(baseline, dict):
        tables["baseline.params"] = baseline.get("params", {})
    for key, table in tables.items():
        if not isinstance(table, dict):
            return f"{key} must be a table, got {shown(table)}"
    texts = {key: data.get(key) for key in ("suite", "suite_digest")}
    texts |= {f"baseline.{key}": baseline.get(key) for key in ("label", "digest")}
    return next((f"{key} must be a text, got {shown(t)}" for key, t in texts.items() if not isinstance(t, str)), "")


def write_pin(path: Path, suite: Suite, side: Side, margins: Mapping[str, float]) -> str:
    """Pin a side as the baseline of a gate. Returns the change of the file as a unified diff, empty if none."""
    from bench.gate_output import toml

    sampler: dict[str, Any] = {k: v for k, v in side.sampler.items() if k != "said"}
    baseline = {"label": side.name, "digest": side.digest, **sampler}
    said = "# The baseline of a gate, by digest. Written by `scrollbench gate --update`; review the difference.\n"
    said += toml({"suite": suite.ref, "suite_digest": suite.digest, "margins": dict(margins), "baseline": baseline})
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if said != before:
        write_file(path, said.encode())
    lines = before.splitlines(keepends=True), said.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, str(path), str(path)))


def margins_in(table: Mapping[str, Any], file: Path, *keys: str) -> dict[str, float]:
    """The margins below ``keys`` of a TOML file, none where they are missing. Raises ``UsageError`` naming the key."""
    for i, key in enumerate(keys, 1):
        table = table.get(key, {})
        if not isinstance(table, dict):
            raise UsageError(f"{file}: {'.'.join(keys[:i])} must be a table, got {shown(table)}")
    for name, margin in table.items():
        if type(margin) not in (int, float) or margin < 0:
            raise UsageError(f"{file}: {'.'.join(keys)}.{name} must be a margin, a number from 0; got {shown(margin)}")
    return {name: float(margin) for name, margin in table.items()}
