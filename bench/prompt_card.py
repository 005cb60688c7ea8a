"""The computed part of a card: ``[counts]``, ``[statistics]``, balanced ``[splits]``. The rest is kept as written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.level import choose_level, hash_order
from bench.prompt_stats import shares, statistics, subtheme
from bench.prompt_tokens import count_tokens
from bench.prompts import read_card, read_prompts
from bench.reading import parse_toml, read_text
from bench.types import Prompt

COMPUTED = ("counts", "statistics", "splits")
NOTE = "# Below: computed by `scrollbench prompts card`, from prompts.jsonl."


def update_card(
    folder: Path, sizes: Sequence[int] = (), tokenizers: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Compute the card of the set in ``folder`` again and rewrite ``card.toml``; returns what was computed.

    Splits of ``sizes`` and of the card's ``splits_wanted`` are chosen by :func:`balanced_splits` and named after their
    size; splits with other names are kept. Hand-written keys, tables and comments stay as they are.

    Raises:
        UsageError: prompts or card cannot be read, a split is larger than the set, a kept one names an unknown prompt,
            or the card cannot be rewritten without changing what was written by hand.
    """
    prompts, card, path = read_prompts(folder / "prompts.jsonl"), read_card(folder), folder / "card.toml"
    splits = {**card.get("splits", {}), **balanced_splits(prompts, [*card.get("splits_wanted", []), *sizes], str(path))}
    known = {p.id for p in prompts}
    for name, ids in splits.items():
        if unknown := [i for i in ids if i not in known]:
            raise UsageError(f"{path}: split {name!r} names unknown prompt ids, first {unknown[0]!r}")
    computed = {
        "counts": shares(prompts),
        "statistics": statistics(prompts, count_tokens([p.text for p in prompts], tokenizers)),
        "splits": splits,
    }
    before = read_text(path) if path.exists() else ""
    after = "\n".join([*_by_hand(before), NOTE, *_tables(computed)]).lstrip() + "\n"
    if _parsed(after, path) != {**{k: v for k, v in card.items() if k not in COMPUTED}, **_full(computed)}:
        raise UsageError(
            f"{path}: cannot be rewritten without changing what is written by hand. Expected [counts], [statistics] "
            "and [splits] as plain tables, and no line that looks like a table's head inside a text"
        )
    temporary = path.with_name(f".card.{os.getpid()}.tmp")
    temporary.write_text(after, encoding="utf-8")
    temporary.replace(path)
    return computed


def balanced_splits(prompts: Sequence[Prompt], sizes: Sequence[Any], where: str = "") -> dict[str, list[str]]:
    """Splits of the given sizes, each named after its size and a part of the next larger one.

    One order of the prompts decides: themes are level first, then sub-themes, then style, layout, time and whether
    there is a ``unique`` thing, all in the shares they have in the set. It depends on ids and attributes alone.
    """
    for n in sizes:
        if type(n) is not int or not 1 <= n <= len(prompts):
            raise UsageError(f"{where}: a split must have 1 to {len(prompts)} prompts, got {n!r}")
    if not sizes:
        return {}
    pool = [prompts[i] for i in hash_order([p.id for p in prompts])]
    fields = [
        [p.attributes.get("theme"), subtheme(p), *(p.attributes.get(f) for f in ("style", "layout", "time")),
         p.attributes.get("unique") is not None] for p in pool
    ]  # fmt: skip
    order = choose_level(fields, max(sizes), weights=[1e8, 1e4, 1, 1, 1, 1], proportional=True)
    return {str(n): [pool[i].id for i in order[:n]] for n in sorted(set(sizes))}


# -- TOML


def _by_hand(text: str) -> list[str]:
    """Lines of a card without its computed tables. A comment above a table's head belongs to that table."""
    kept: list[str] = []
    above: list[str] = []
    keep = True
    for line in text.splitlines():
        head = re.match(r"\s*\[\[?\s*\"?([\w-]+)", line)
        if head:
            keep = head[1] not in COMPUTED
        if line.lstrip().startswith("#") or not line.strip():
            above.append(line)
            continue
        if keep:
            kept += above
            kept.append(line)
        above = []
    return [*kept, *(above if keep else []), ""]


def _tables(computed: Mapping[str, Any]) -> list[str]:
    out = ["", "[counts]", *(f"{_key(k)} = {toml_value(v)}" for k, v in computed["counts"].items())]
    for name, table in computed["statistics"].items():
        out += ["", f"[statistics.{name}]", *(f"{_key(k)} = {toml_value(v)}" for k, v in table.items())]
    if computed["splits"]:
        out += ["", "[splits]"]
    for name, ids in computed["splits"].items():
        out += [f"{_key(name)} = [", *(f"  {toml_value(i)}," for i in ids), "]"]
    return out


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII) else toml_value(name)


def toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(k))} = {toml_value(v)}" for k, v in value.items()) + " }"
    text = json.dumps(value, ensure_ascii=False)  # what TOML and JSON write alike, but for one character
    return text.replace("\x7f", "\\u007f")


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return parse_toml(text, path)
    except UsageError:
        return {}


def _full(computed: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in computed.items() if v}
