"""TOML files that are written here: reading with errors that name the file, writing of plain tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def written(table: Mapping[str, Any], path: str = "") -> str:
    """A nested mapping as TOML, in its order, plain values before tables."""
    plain = [f"{key(k)} = {value(v)}" for k, v in table.items() if not isinstance(v, Mapping) and v is not None]
    text = "\n".join(plain) + ("\n" if plain else "")
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            where = f"{path}.{key(name)}" if path else key(name)
            text += f"\n[{where}]\n{written(inner, where)}"
    return text


def key(name: str) -> str:
    """A key, bare where it may be."""
    bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if bare else value(name)


def value(given: Any) -> str:
    """A value on one line: text, numbers, booleans, lists, and mappings as inline tables."""
    if isinstance(given, Mapping):
        return "{ " + ", ".join(f"{key(str(k))} = {value(v)}" for k, v in given.items()) + " }"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, list | tuple):
        return "[" + ", ".join(map(value, given)) + "]"
    if isinstance(given, str):  # TOML and JSON write text alike, but for one character
        return json.dumps(given, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(given)
