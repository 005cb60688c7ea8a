"""Prompt sets: ``prompts/NAME/VERSION/{prompts.jsonl,card.toml}`` and the small language that selects from them.

scrollworld@1               the whole set; ``./mine.jsonl`` and ``./folder`` (one that holds prompts.jsonl) work too
scrollworld@1:spread        a named split of the card
scrollworld@1:24            24 prompts spread evenly over the set, unless the card has a split of that name
scrollworld@1:theme=sea     prompts whose attribute matches; ``unique=none`` those where it is null
scrollworld@1:theme=sea,style=ink:5    all of several attributes, then five of what is left

Sets are looked for in the repository's ``prompts/`` and then in the folders named by ``SCROLLBENCH_PROMPTS``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.errors import UsageError, near
from bench.ids import digest
from bench.reading import (
    MOST,
    almost,
    expanded,
    is_file,
    lines_of,
    parse_json,
    read_text,
    read_toml,
    refuse,
    shown,
    unreadable,
)  # fmt: skip
from bench.types import Prompt

ROOT = Path(__file__).resolve().parent.parent / "prompts"
WORD_FIELDS = ("short", "theme", "subtheme", "style", "layout")  # optional fields that hold a word or a few
KNOWN_FIELDS = (*WORD_FIELDS, "time", "unique", "counts", "scene", "world")  # optional fields whose types are checked


@dataclass(frozen=True)
class PromptSet:
    """A versioned set of prompts, or a selection of one; ``ref`` is how it was asked for, ``file`` what was read."""

    name: str
    version: str
    ref: str
    prompts: tuple[Prompt, ...]
    card: MappingProxyType[str, Any]
    file: Path | None = None

    @property
    def digest(self) -> str:
        """Identity of what is asked: ids, texts and attributes, not the card's prose."""
        return digest([[p.id, p.text, p.negative, dict(p.attributes)] for p in self.prompts])

    def place(self, prompt_id: str) -> str:
        """Where a prompt is written, for errors: ``mine.jsonl, line 3``."""
        lines = lines_of(read_text(self.file)) if self.file else []
        at = (n for n, line in enumerate(lines, 1) if line.strip() and json.loads(line)["id"] == prompt_id)
        return f"{self.file}, line {next(at)}" if self.file else f"{self.ref}, prompt {prompt_id!r}"


def roots(root: Path = ROOT) -> tuple[Path, ...]:
    """Folders that may hold sets: ``root`` first, then those of ``SCROLLBENCH_PROMPTS`` (separated like ``PATH``)."""
    extra = os.environ.get("SCROLLBENCH_PROMPTS", "").split(os.pathsep)
    return (root, *(Path(e).expanduser() for e in extra if e))


def available(root: Path = ROOT) -> list[str]:
    """All sets under :func:`roots` as ``name@version``."""
    files = (p for folder in roots(root) for p in folder.glob("*/*/prompts.jsonl"))
    return sorted({f"{p.parent.parent.name}@{p.parent.name}" for p in files})


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read a JSON-lines prompt file. Raises ``UsageError`` naming file, line and field.

    ``id`` and ``text`` are required. Checked where they are given: ``negative`` and ``world`` (strings), ``short``,
    ``theme``, ``subtheme``, ``style``, ``layout`` (non-empty strings), ``time`` and ``unique`` (the same, or null),
    ``counts`` (an object of integers from 1), ``scene`` (an object). Other fields are kept as they are.
    """
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(lines_of(read_text(path, "prompt file")), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line, path, number)
            if not isinstance(row, dict):
                raise UsageError(f"{where}: expected an object with 'id' and 'text', got {type(row).__name__}")
            check_row(row, where)
        except UsageError as error:
            problems.append(str(error))
            continue
        if row["id"] in seen:
            problems.append(f"{where}: duplicate id {row['id']!r}, first used in line {seen[row['id']]}")
        seen[row["id"]] = number
        rest = {k: v for k, v in row.items() if k not in ("id", "text", "negative")}
        prompts.append(Prompt(row["id"], row["text"], row.get("negative", ""), rest))
    refuse(problems)
    if not prompts:
        raise UsageError(f"{path}: holds no prompts")
    return tuple(prompts)


def check_row(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row whose fields are not of the types :func:`read_prompts` states, naming place and field."""

    def expect(field: str, right: bool, wanted: str) -> None:
        if not right:
            raise UsageError(f"{where}: field {field!r} must be {wanted}, got {shown(row.get(field))}")

    for name in row:
        if meant := almost(name, ("id", "text", "negative", *KNOWN_FIELDS)):
            raise UsageError(f"{where}: field {name!r} is not {meant!r}; write it so, or give it another name")
    for field in ("id", "text", *(f for f in WORD_FIELDS if f in row)):
        expect(field, _is_word(row.get(field)), "a non-empty string")
    expect("id", not re.search(r"[\t\r\n]", row["id"]), "on one line")
    for field in ("negative", "world"):
        expect(field, isinstance(row.get(field, ""), str), "a string")
    for field in ("time", "unique"):
        expect(field, row.get(field) is None or _is_word(row[field]), "a non-empty string or null")
    counts = row.get("counts", {})
    expect("counts", isinstance(counts, dict) and all(map(_is_count, counts.values())), "an object of integers from 1")
    expect("scene", isinstance(row.get("scene", {}), dict), "an object")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def load_prompts(ref: str, root: Path = ROOT) -> PromptSet:
    """Load ``name@version[:selection]`` or a path (see the module's text). Raises ``UsageError``."""
    if bad := unreadable(ref):
        raise UsageError(f"prompt set {ref!r} holds {bad}")
    base, _, selection = ref.partition(":")
    if base.endswith(".jsonl") or "/" in base or base in (".", ".."):
        name, version, file = _at_path(base)
    else:
        name, version, file = _in_roots(base, root)
    card = read_card(file.parent) if file.name == "prompts.jsonl" else {}
    whole = chosen = read_prompts(file)
    for step in selection.split(":") if selection else ():
        chosen = _select(whole, chosen, step, card, ref)
    if not chosen:
        raise UsageError(f"{ref}: selects no prompt")
    return PromptSet(name, version, ref, chosen, MappingProxyType(card), file)


def _at_path(base: str) -> tuple[str, str, Path]:
    """Name, version and file of a ``.jsonl`` file or of a folder NAME/VERSION that holds prompts.jsonl."""
    path = expanded(base)
    if base.endswith(".jsonl"):
        return path.stem, "", path
    if not is_file(path / "prompts.jsonl"):
        raise UsageError(f"{path} holds no prompts.jsonl; expected such a folder, a .jsonl file, or name@version")
    folder = path.resolve()
    return folder.parent.name, folder.name, path / "prompts.jsonl"


def _in_roots(base: str, root: Path) -> tuple[str, str, Path]:
    name, _, version = base.partition("@")
    for folder in roots(root) if name else ():
        versions = sorted(_versions(folder / name), key=_natural)
        found = version or (versions[-1] if versions else "")
        if found in versions:
            return name, found, folder / name / found / "prompts.jsonl"
    raise UsageError(f"unknown prompt set {base!r}; {near(base, available(root))}")


def _versions(folder: Path) -> list[str]:
    try:
        return [p.parent.name for p in folder.glob("*/prompts.jsonl")]
    except OSError:  # a name longer than any folder's
        return []


def _natural(version: str) -> list[tuple[int, str]]:
    """Sorts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", version)]


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a set, empty where there is none. Raises ``UsageError`` if it is not TOML, or has a wrong table."""
    path = folder / "card.toml"
    if not path.exists():
        return {}
    card = read_toml(path)
    splits, sizes = card.get("splits", {}), card.get("splits_wanted", [])
    problems = []
    if not (isinstance(splits, dict) and all(_are_words(ids) for ids in splits.values())):
        problems.append(f"{path}: splits must be a table of lists of prompt ids, got {shown(splits)}")
    if not (isinstance(sizes, list) and all(map(_is_count, sizes))):
        problems.append(f"{path}: splits_wanted must be a list of integers from 1, got {shown(sizes)}")
    if not isinstance(card.get("lint", {}), dict):
        problems.append(f"{path}: [lint] must be a table, got {shown(card['lint'])}")
    if not isinstance(card.get("language", "en"), str):
        problems.append(f"{path}: language must be a text such as 'en', got {shown(card['language'])}")
    refuse(problems)
    return card


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_word, value))


def spread(prompts: tuple[Prompt, ...], n: int) -> tuple[Prompt, ...]:
    """n prompts at even distances through the set (all of them if n is 0 or too large)."""
    if n <= 0 or n >= len(prompts):
        return prompts
    return tuple(prompts[i * len(prompts) // n] for i in range(n))


def _select(
    whole: tuple[Prompt, ...], prompts: tuple[Prompt, ...], step: str, card: dict[str, Any], ref: str
) -> tuple[Prompt, ...]:
    """One step of a selection, applied to what the steps before it left of the whole set."""
    splits: dict[str, list[str]] = card.get("splits", {})
    if step in splits:
        known, left = {p.id for p in whole}, {p.id: p for p in prompts}
        missing = [i for i in splits[step] if i not in known]
        if missing:
            raise UsageError(f"{ref}: split names unknown prompt ids, first {missing[0]!r}")
        return tuple(left[i] for i in splits[step] if i in left)
    if re.fullmatch("[0-9]+", step):
        return spread(prompts, int(step.lstrip("0")[:18] or "0"))  # 18 digits are more than any set has
    if "=" not in step:
        hint = near(step, splits)
        raise UsageError(f"{ref}: unknown selection {step!r}; expected a number, key=value or a split: {hint}")
    for condition in step.split(","):
        key, _, wanted = condition.partition("=")
        chosen = tuple(p for p in prompts if key in p.attributes and _said(p.attributes[key]) == wanted)
        if not chosen:
            values = {_said(p.attributes[key]) for p in prompts if key in p.attributes}
            raise UsageError(f"{ref}: no prompt has {key}={wanted!r}; {near(wanted, values)}")
        prompts = chosen
    return prompts


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
