"""Bring in somebody's list of prompts (``.txt``, ``.csv``, ``.tsv``, ``.jsonl``, ``.json``) as a set.

A set is prompts.jsonl and a card. A list is taken whole or not at all: all rows that are empty, repeated or unreadable
are named, with line and field.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from bench import toml
from bench.errors import UsageError, near
from bench.prompts.card import update_card
from bench.prompts.sets import KNOWN_FIELDS, ROOT, PromptSet, check_row, load_prompts, roots
from bench.prompts.words import FUNCTION_WORDS, normalised, words
from bench.reading import Row, almost, decode, lines_of, parse_json, problems_of, read_bytes, read_csv, refuse, shown

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".json")
TEXT_FIELDS = ("text", "prompt", "caption")  # where the text is looked for, unless --field text=NAME says it
FIELDS = ("id", "text", "negative", *KNOWN_FIELDS)
SLUG_WORDS, SLUG_LENGTH = 4, 40
CELLS = ("counts", "scene")  # fields that no cell of a table can hold


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

    ``.txt`` has a prompt a line; ``.csv`` and ``.tsv`` a head and rows; ``.jsonl`` an object or a string a line;
    ``.json`` a list of them, or an object of captions by key (MAD's GPT1k.json: "0" to "999"), in the order of the
    file. The text is in the field ``text``, ``prompt`` or ``caption``; fields of ours that the list has under the same
    name come along. Ids are kept where every row has another one in ``id`` (or in what ``fields`` names), else
    they are slugs of the first words that mean something.

    Args:
        root: where sets live; the last of :func:`bench.prompts.sets.roots` by default.
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
    content, faults = read_bytes(file), list[str]()
    rows = list(_rows(file, decode(content, file), faults))
    taken = _taken(file, rows, dict(fields or {}), faults)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in taken)
    card = {
        "title": title or name, "licence": licence, "language": language,
        "made": f"Adopted from {file.name} by scrollbench prompts adopt",
    }  # fmt: skip
    source = {"file": file.name, "sha256": hashlib.sha256(content).hexdigest(), "prompts": len(rows)}
    refuse([f"{k} {wrong}" for k, wrong in problems_of({**card, **source})], f"nothing of {file} was adopted:")
    head = [f"{k} = {toml.value(v)}" for k, v in card.items()]
    head += ["", "[source]", *(f"{k} = {toml.value(v)}" for k, v in source.items())]
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


def _taken(file: Path, rows: list[Row], fields: dict[str, str], faults: list[str]) -> list[dict[str, Any]]:
    """The rows as prompts. Raises ``UsageError`` with everything that is wrong with them, after the faults so far."""
    if "id" not in fields and _names_all(rows):
        fields = {**fields, "id": "id"}
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
    refuse(faults, f"nothing of {file} was adopted:")
    if not prompts:
        raise UsageError(f"{file} holds no prompts")
    return prompts


def _names_all(rows: list[Row]) -> bool:
    """Whether a list has ids of its own: in every row, another one each, on one line."""
    ids = [row.values.get("id") for row in rows]
    return all(isinstance(i, str) and i == i.strip() != "" and i.isprintable() for i in ids) and len({*ids}) == len(ids)


def _prompt(row: Row, fields: dict[str, str]) -> dict[str, Any]:
    values = {k: v for k, v in row.values.items() if v not in ("", None)}
    for theirs in fields.values():
        if theirs not in row.values:
            raise UsageError(f"{row.where}: no field {theirs!r}; {near(theirs, row.values)}")
    for name in row.values:
        if name not in fields.values() and (meant := almost(name, _known(fields))):
            ours = "text" if meant in TEXT_FIELDS else meant
            raise UsageError(f"{row.where}: field {name!r} is not {meant!r}; say what it is: --field {ours}={name}")
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
    refuse([f"{row.where}: field {path!r} {wrong}" for path, wrong in problems_of(prompt)])
    prompt["text"] = prompt["text"].strip()
    prompt |= {f: values.get(names[f]) for f in ("time", "unique") if f in row.values or f in fields}
    return {f: prompt[f] for f in FIELDS if f in prompt}


# -- from a file to rows


def _rows(file: Path, text: str, faults: list[str]) -> Iterator[Row]:
    """The entries of a list; what is wrong with others goes to ``faults``."""
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        yield from _table(file, text, "\t" if kind == ".tsv" else ",", faults)
    elif kind == ".txt":
        for number, line in enumerate(lines_of(text), 1):
            yield Row(f"{file}, line {number}", number, {"text": line})
    elif kind == ".jsonl":
        yield from _json_lines(file, text, faults)
    elif kind == ".json":
        yield from _json(file, text, faults)
    else:
        raise UsageError(f"{file}: expected a file ending in {', '.join(KINDS)}")


def _table(file: Path, text: str, delimiter: str, faults: list[str]) -> Iterator[Row]:
    table = read_csv(file, content=text, delimiter=delimiter, breaks=True)
    faults += table.problems
    for row in table.rows:
        yield Row(row.where, row.line, {k: v for k, v in row.values.items() if k not in CELLS})


def _known(fields: Mapping[str, str]) -> set[str]:
    """Names that mean a field of ours in a list, but for ids."""
    return {*FIELDS, *TEXT_FIELDS} - {"id"} - set(fields)


def _json_lines(file: Path, text: str, faults: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        where = f"{file}, line {number}"
        try:
            yield Row(where, number, _fields_of(parse_json(line, file, number), where))
        except UsageError as error:
            faults.append(str(error))


def _json(file: Path, text: str, faults: list[str]) -> Iterator[Row]:
    data = parse_json(text, file)
    if not isinstance(data, list | dict):
        raise UsageError(f"{file}: expected a list or an object of captions, got {type(data).__name__}")
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        where = f"{file}, {'key' if isinstance(data, dict) else 'item'} {key!r}"
        try:
            yield Row(where, 0, _fields_of(value, where))
        except UsageError as error:
            faults.append(str(error))


def _fields_of(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    raise UsageError(f"{where}: field 'text' must be a string, or the entry an object, got {shown(value)}")
