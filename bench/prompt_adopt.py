"""Bring in somebody's list of prompts (``.txt``, ``.csv``, ``.jsonl``, ``.json``) as a set: prompts.jsonl and a card.

A list is taken whole or not at all: all rows that are empty, repeated or unreadable are named, with line and field.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from bench.errors import UsageError, near
from bench.prompt_card import toml_value, update_card
from bench.prompt_words import FUNCTION_WORDS, normalised, words
from bench.prompts import KNOWN_FIELDS, ROOT, PromptSet, check_row, load_prompts, roots

TEXT_FIELDS = ("text", "prompt", "caption")  # where the text is looked for, unless --field text=NAME says it
FIELDS = ("id", "text", "negative", *KNOWN_FIELDS)
SLUG_WORDS, SLUG_LENGTH = 4, 40
SHOWN = 10  # faults named in one error


@dataclass(frozen=True)
class Row:
    """One entry of a list and where it stands: ``words.csv, line 7``."""

    where: str
    values: Mapping[str, Any]


def adopt(
    file: Path,
    name: str,
    version: str = "1",
    *,
    root: Path | None = None,
    fields: Mapping[str, str] | None = None,
    licence: str = "unknown: say",
    title: str = "",
    language: str = "en",
) -> PromptSet:
    """Write ``root/NAME/VERSION/{prompts.jsonl,card.toml}`` from a list, and load it.

    ``.txt`` has a prompt a line; ``.csv`` a head and rows; ``.jsonl`` an object or a string a line; ``.json`` a list of
    them, or an object of captions by key (MAD's GPT1k.json: "0" to "999"), in the order of the file. The text is
    in the field ``text``, ``prompt`` or ``caption``; fields of ours that the list has under the same name come along.
    Ids are slugs of the first words that mean something, unless ``fields`` names an id.

    Args:
        root: where sets live; the last of :func:`bench.prompts.roots` by default.
        fields: our field -> the list's: ``{"text": "Title", "theme": "Category"}``. What it names must be in every row.

    Raises:
        UsageError: a name that is taken or no slug, an unknown kind of file, or rows that cannot be taken; nothing is
            written then.
    """
    for what, given in (("name", name), ("version", version)):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", given):
            raise UsageError(f"{what} must be lower-case letters, digits, hyphens and dots, got {given!r}")
    if unknown := set(fields or {}) - set(FIELDS):
        raise UsageError(f"--field: no field {min(unknown)!r}; {near(min(unknown), FIELDS)}")
    top = root or roots()[-1]
    if top == ROOT and not (ROOT.parent / "pyproject.toml").is_file():  # installed: ours to replace, not yours to fill
        raise UsageError("this installation keeps no sets of yours; give a folder with --root or SCROLLBENCH_PROMPTS")
    folder = top / name / version
    for place in (top, *roots()):
        if (place / name / version).exists():
            raise UsageError(
                f"{place / name / version} exists already and sets are not overwritten; give another name or --version"
            )
    content = _bytes(file)
    rows = list(_rows(file, _decoded(file, content)))
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in _taken(file, rows, dict(fields or {})))
    card = {
        "title": title or name, "licence": licence, "language": language,
        "made": f"Adopted from {file.name} by scrollbench prompts adopt",
    }  # fmt: skip
    source = {"file": file.name, "sha256": hashlib.sha256(content).hexdigest(), "prompts": len(rows)}
    head = [f"{k} = {toml_value(v)}" for k, v in card.items()]
    head += ["", "[source]", *(f"{k} = {toml_value(v)}" for k, v in source.items())]
    top.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".adopt-", dir=top))
    try:
        made.chmod(0o755)
        (made / "prompts.jsonl").write_text(lines, encoding="utf-8")
        (made / "card.toml").write_text("\n".join(head) + "\n", encoding="utf-8")
        update_card(made)
        folder.parent.mkdir(exist_ok=True)
        os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return load_prompts(f"{name}@{version}" if top in roots() else str(folder))


def slug(text: str, taken: Collection[str] = ()) -> str:
    """An id for a text: its first four words that mean something, of letters and digits only, not in ``taken``.

    Further words, then numbers from 2, are added until it is free. A text without letters gives ``prompt-`` and a
    digest.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    said = [w.replace("'", "") for w in words(plain)]
    meant = [w for w in said if w not in FUNCTION_WORDS] or said
    if not any(w.isalpha() for w in meant):
        meant = ["prompt", hashlib.sha256(text.encode()).hexdigest()[:8]]
    names = ["-".join(meant[:n]) for n in range(SLUG_WORDS, max(SLUG_WORDS, len(meant)) + 1)]
    first = names[0][:SLUG_LENGTH].rstrip("-")
    longer = (name for name in names[1:] if len(name) <= SLUG_LENGTH)
    numbered = (f"{first}-{i}" for i in count(2))
    return next(name for name in chain([first], longer, numbered) if name not in taken)


# -- from rows to prompts


def _taken(file: Path, rows: list[Row], fields: dict[str, str]) -> list[dict[str, Any]]:
    """The rows as prompts. Raises ``UsageError`` with everything that is wrong with them."""
    faults: list[str] = []
    seen: dict[str, str] = {}
    made: list[tuple[Row, dict[str, Any]]] = []
    for row in rows:
        try:
            prompt = _prompt(row, fields)
        except UsageError as error:
            faults.append(str(error))
            continue
        same = normalised(prompt["text"])
        if same in seen:
            faults.append(f"{row.where}: field 'text' is the same as in {seen[same]}: {prompt['text']!r}")
        seen.setdefault(same, row.where.rpartition(", ")[2])
        made.append((row, prompt))
    ids = {p["id"] for _, p in made if "id" in p}
    given: set[str] = set()
    prompts = []
    for row, prompt in made:
        if prompt.get("id") in given:
            faults.append(f"{row.where}: field 'id' is not unique: {prompt['id']!r}")
        prompt = {"id": prompt.get("id") or slug(prompt["text"], ids), **prompt}
        ids.add(prompt["id"])
        given.add(prompt["id"])
        prompts.append(prompt)
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise UsageError("\n  ".join([f"nothing of {file} was adopted:", *faults[:SHOWN], *more]))
    if not prompts:
        raise UsageError(f"{file} holds no prompts")
    return prompts


def _prompt(row: Row, fields: dict[str, str]) -> dict[str, Any]:
    values = {k: v for k, v in row.values.items() if v not in ("", None)}
    for theirs in fields.values():
        if theirs not in row.values:
            raise UsageError(f"{row.where}: no field {theirs!r}; {near(theirs, row.values)}")
    names = {f: f for f in FIELDS if f in row.values and f != "id"} | fields
    if "text" not in fields:
        found = [f for f in TEXT_FIELDS if f in row.values]
        if not found:
            have = ", ".join(map(repr, row.values)) or "none"
            wanted = "'text', 'prompt' or 'caption'"
            raise UsageError(f"{row.where}: no field {wanted} among {have}; name it: --field text=...")
        names["text"] = found[0]
    prompt = {ours: values[theirs] for ours, theirs in names.items() if theirs in values}
    check_row({"id": "given later", "text": row.values[names["text"]], **prompt}, row.where)
    for field, value in prompt.items():
        if isinstance(value, str) and (bad := [c for c in value if _unreadable(c)]):
            raise UsageError(f"{row.where}: field {field!r} holds the unreadable character U+{ord(bad[0]):04X}")
    prompt["text"] = prompt["text"].strip()
    prompt |= {f: values.get(names[f]) for f in ("time", "unique") if f in row.values or f in fields}
    return {f: prompt[f] for f in FIELDS if f in prompt}


def _unreadable(character: str) -> bool:
    """Control characters, halves of surrogate pairs, and what a failed decoding leaves behind."""
    return character == "\ufffd" or (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\r\n")


# -- from a file to rows


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _decoded(file: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        bad = content[error.start : error.start + 4].hex(" ")
        raise UsageError(f"{file}, line {line}: field 'text' is not UTF-8 (bytes {bad})") from error


def _rows(file: Path, text: str) -> Iterator[Row]:
    readers = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl, ".json": _json}
    if file.suffix.lower() not in readers:
        raise UsageError(f"{file}: expected a file ending in {', '.join(readers)}")
    return readers[file.suffix.lower()](file, text)


def _txt(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        yield Row(f"{file}, line {number}", {"text": line})


def _lines(text: str) -> list[str]:
    """Lines, by their ends on any system; empty ones at the end do not count."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n ").split("\n")


def _csv(file: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                wanted = ", ".join(reader.fieldnames or ())
                raise UsageError(f"{where}: expected the fields {wanted}, got more or fewer")
            yield Row(where, {k: v for k, v in row.items() if k not in ("counts", "scene")})  # these are no cells
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.reader.line_num}: not CSV: {error}") from error


def _jsonl(file: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        where = f"{file}, line {number}"
        try:
            value = json.loads(line, object_pairs_hook=_unrepeated)
        except ValueError as error:
            raise UsageError(f"{where}: not JSON: {error}; expected one object or string a line") from error
        yield Row(where, _fields_of(value, where))


def _json(file: Path, text: str) -> Iterator[Row]:
    try:
        data = json.loads(text, object_pairs_hook=_unrepeated)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    if not isinstance(data, list | dict):
        raise UsageError(f"{file}: expected a list or an object of captions, got {type(data).__name__}")
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        where = f"{file}, {'key' if isinstance(data, dict) else 'item'} {key!r}"
        yield Row(where, _fields_of(value, where))


def _fields_of(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    raise UsageError(f"{where}: field 'text' must be a string, or the entry an object, got {value!r}")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} stands there twice")
        found[key] = value
    return found
