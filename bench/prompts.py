"""Prompt sets: ``prompts/NAME/VERSION/{prompts.jsonl,card.toml}`` and the small language that selects from them.

scrollworld@1          the whole set
scrollworld@1:spread   a named split of the card
scrollworld@1:24       24 prompts spread evenly over the set
scrollworld@1:theme=sea     prompts whose attribute matches
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.errors import UsageError, near
from bench.ids import digest
from bench.types import Prompt

ROOT = Path(__file__).resolve().parent.parent / "prompts"


@dataclass(frozen=True)
class PromptSet:
    """A versioned set of prompts, or a selection of one. ``ref`` is how it was asked for."""

    name: str
    version: str
    ref: str
    prompts: tuple[Prompt, ...]
    card: MappingProxyType[str, Any]

    @property
    def digest(self) -> str:
        """Identity of what is asked: ids, texts and attributes, not the card's prose."""
        return digest([[p.id, p.text, p.negative, dict(p.attributes)] for p in self.prompts])


def available(root: Path = ROOT) -> list[str]:
    """All sets under ``root`` as ``name@version``."""
    return sorted(f"{p.parent.parent.name}@{p.parent.name}" for p in root.glob("*/*/prompts.jsonl"))


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a JSON-lines prompt file. Raises ``UsageError`` naming file, line and field."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read prompt file {path}: {error}") from error
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            said = f"not JSON ({error.msg} at column {error.colno}); expected one object a line"
            raise UsageError(f"{where}: {said}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where}: expected an object with 'id' and 'text', got {type(row).__name__}")
        for name in ("id", "text"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise UsageError(f"{where}: field {name!r} must be a non-empty string, got {row.get(name)!r}")
        if not isinstance(row.get("negative", ""), str):
            raise UsageError(f"{where}: field 'negative' must be a string, got {row['negative']!r}")
        if row["id"] in seen:
            raise UsageError(f"{where}: duplicate id {row['id']!r}, first used in line {seen[row['id']]}")
        seen[row["id"]] = number
        rest = {k: v for k, v in row.items() if k not in ("id", "text", "negative")}
        prompts.append(Prompt(row["id"], row["text"], row.get("negative", ""), MappingProxyType(rest)))
    if not prompts:
        raise UsageError(f"{path}: holds no prompts")
    return tuple(prompts)


def load_prompts(ref: str, root: Path = ROOT) -> PromptSet:
    """Load ``name@version[:selection]`` (see the module's text). Raises ``UsageError``."""
    base, _, selection = ref.partition(":")
    name, _, version = base.partition("@")
    if not version:
        versions = sorted(p.name for p in (root / name).glob("*") if (p / "prompts.jsonl").exists())
        version = versions[-1] if versions else ""
    folder = root / name / version
    if not version or not (folder / "prompts.jsonl").exists():
        raise UsageError(f"unknown prompt set {base!r}; {near(base, available(root))}")
    card_path = folder / "card.toml"
    try:
        card = tomllib.loads(card_path.read_text(encoding="utf-8")) if card_path.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{card_path}: not TOML: {error}") from error
    prompts = read_prompts(folder / "prompts.jsonl")
    if selection:
        prompts = _select(prompts, selection, card, ref)
    return PromptSet(name, version, ref, prompts, MappingProxyType(card))


def spread(prompts: tuple[Prompt, ...], n: int) -> tuple[Prompt, ...]:
    """n prompts at even distances through the set (all of them if n is 0 or too large)."""
    if n <= 0 or n >= len(prompts):
        return prompts
    return tuple(prompts[i * len(prompts) // n] for i in range(n))


def _select(prompts: tuple[Prompt, ...], selection: str, card: dict[str, Any], ref: str) -> tuple[Prompt, ...]:
    splits: dict[str, list[str]] = card.get("splits", {})
    if selection in splits:
        by_id = {p.id: p for p in prompts}
        missing = [i for i in splits[selection] if i not in by_id]
        if missing:
            raise UsageError(f"{ref}: split names unknown prompt ids, first {missing[0]!r}")
        return tuple(by_id[i] for i in splits[selection])
    if selection.isdecimal():
        return spread(prompts, int(selection))
    key, equals, wanted = selection.partition("=")
    if equals:
        chosen = tuple(p for p in prompts if str(p.attributes.get(key)) == wanted)
        if chosen:
            return chosen
        values = {str(p.attributes.get(key)) for p in prompts if key in p.attributes}
        raise UsageError(f"{ref}: no prompt has {key}={wanted!r}; {near(wanted, values)}")
    hint = near(selection, splits)
    raise UsageError(f"{ref}: unknown selection {selection!r}; expected a number, key=value or a split: {hint}")
