"""Baselines that do not move: a sampler's digest in a file that is committed, reviewed and diffed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commit import write_file
from bench.errors import UsageError, near
from bench.measured import Side, sampler_digest

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
    if not path.exists():
        if name.endswith(".toml"):
            have = sorted(p.stem for p in GATES.glob("*.toml"))
            raise UsageError(f"no baseline {path}; {near(path.stem, have)} `--update` writes one from the candidate")
        return None
    data = read_toml(path)
    try:
        baseline, margins = data["baseline"], {k: float(v) for k, v in data["margins"].items()}
        pin = Pin(path, data["suite"], data["suite_digest"], baseline["label"], baseline["digest"], margins)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: not a pinned baseline ({error!r}); `--update` writes it anew") from error
    fields = {k: baseline.get(k) for k in baseline if k not in ("label", "digest")}
    if sampler_digest(fields) != pin.digest:
        raise UsageError(f"{path}: its digest is not that of the sampler it describes; `--update` writes it anew")
    return pin


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


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ``UsageError``."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
