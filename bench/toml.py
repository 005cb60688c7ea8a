"""TOML files that are written here: reading with errors that name the file, writing of plain tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """A nested mapping as TOML, in its order, plain values before tables."""
    plain = [f"{toml_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, Mapping) and v is not None]
    text = "\n".join(plain) + ("\n" if plain else "")
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            where = f"{path}.{toml_key(name)}" if path else toml_key(name)
            text += f"\n[{where}]\n{toml(inner, where)}"
    return text


def toml_key(name: str) -> str:
    """A name as a key of TOML, in quotes where it needs them."""
    bare = name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    return name if bare else _value(name)


def _value(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
