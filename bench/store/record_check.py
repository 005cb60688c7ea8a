"""What a record may say: fields of the types that the leaderboard has columns for, and nothing that it could not hold.

The same rules stand at the door (:meth:`bench.store.records.Journal.append` refuses) and over what is in a store
already (reading sets a record aside): a text with half a surrogate pair, a whole number beyond 64 bits, a number that
is not finite, a field of another type. Provenance alone is cleaned, because what happened must be told whatever it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from bench.store.tables import PROTOCOL, TABLES

BIGGEST = 2**63
DEEPEST = 32  # levels of lists and objects
MAX_PIXELS = 2**29  # no canvas is larger: bench.store.pictures reads none that is
PROVENANCE = ("message", "argv", "environment", "cost")

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", re.ASCII)

# Fields a record of a kind cannot be used without. Unknown kinds are kept and passed on.
FIELDS: dict[str, tuple[str, ...]] = {
    "run": ("run_id", "status"),
    "member": ("suite", "suite_digest", "part", "label", "recipe_id", "prompt_id", "seed"),
    "image": ("recipe_id", "recipe", "image_id"),
    "failure": ("recipe_id", "recipe", "reason"),
    "score": ("key", "image_id", "metric", "values"),
    "set_score": ("key", "suite_digest", "part", "label", "metric", "values"),
    "score_failure": ("key", "metric", "reason"),
    "column": ("suite_digest", "label", "name", "metric", "numbers"),
}

_OF_SET = {"suite": "VARCHAR", "suite_digest": "VARCHAR", "part": "VARCHAR", "label": "VARCHAR", "group_id": "VARCHAR"}
_ALWAYS = {"v": "BIGINT", "id": "VARCHAR", "time": "TIMESTAMP", "replaces": "VARCHAR[]"}

# The types of a record's own fields, by kind; nested objects are in _NESTED.
_COLUMNS: dict[str, dict[str, str]] = {
    "run": {**TABLES["run"], "environment": "JSON"},
    "member": {**TABLES["member"], "label": "VARCHAR"},
    "image": {**TABLES["image"], "suite": "VARCHAR", "part": "VARCHAR", "label": "VARCHAR", "recipe": "JSON",
              "cost": "JSON"},
    "failure": {**TABLES["failure"], "recipe": "JSON"},
    "score": {**PROTOCOL, "image_id": "VARCHAR", "key": "VARCHAR", "prompt_id": "VARCHAR", "asked": "VARCHAR",
              "turn": "BIGINT"},
    "set_score": {**PROTOCOL, **_OF_SET, "key": "VARCHAR", "n": "BIGINT", "m": "BIGINT"},
    "column": TABLES["board_column"],
    "score_failure": {**PROTOCOL, **_OF_SET, **TABLES["score_failure"], "prompt_id": "VARCHAR", "asked": "VARCHAR",
                      "turn": "BIGINT"},
}  # fmt: skip
_CANVAS = {"width": "BIGINT", "height": "BIGINT", "loop": "BOOLEAN"}
_NESTED: dict[str, dict[str, str]] = {
    "recipe": {**TABLES["recipe"], "canvas": "JSON"},
    "environment": {name: kind for name, kind in TABLES["environment"].items() if name != "details"},
    "cost": {"nfe": "DOUBLE", "peak_bytes": "DOUBLE", "seconds": "JSON"},
}

_NONE = type(None)
_IS: dict[str, tuple[str, tuple[type, ...]]] = {
    "VARCHAR": ("a text", (str, _NONE)),
    "BIGINT": ("a whole number", (int, _NONE)),
    "DOUBLE": ("a number", (int, float, _NONE)),
    "BOOLEAN": ("true or false", (bool, _NONE)),
    "VARCHAR[]": ("a list of texts", (list, _NONE)),
    "TIMESTAMP": ("a time such as 2026-01-31T12:00:00Z", (str, _NONE)),
    "JSON": ("an object", (dict, _NONE)),
}


def problem(record: Any) -> str:
    """What is wrong with a record made of plain JSON values, with the field's name; empty if nothing is."""
    if not isinstance(record, dict) or type(record.get("kind")) is not str:
        return "not a record (an object with a 'kind')"
    kind = record["kind"]
    if type(record.get("v")) is not int:
        return "it has no version 'v'"
    for field in ("time", *FIELDS.get(kind, ())):
        if record.get(field) is None:
            return f"a record of kind {kind!r} without {field!r}"
    values = _VALUES.get(kind)
    for name, value in record.items():
        found = _flaw(name, 0) or (None if values and name == "values" else _flaw(value, 0))
        if found:
            return f"{_shown(name)}{found[0]}: {found[1]}"
    if why := _mistyped(record, _ALWAYS, "") or _mistyped(record, _COLUMNS.get(kind, {}), ""):
        return why
    for name in _NESTED.keys() & _COLUMNS.get(kind, {}).keys():
        if record.get(name) is not None and (why := _nested(name, record[name])):
            return why
    return values(record["values"]) if values else ""


def _flaw(value: Any, depth: int) -> tuple[str, str] | None:
    """The first thing in a JSON value that no leaderboard could hold: where below the value, and what."""
    kind = type(value)
    if kind is str:
        return None if value.isascii() or _whole(value) else ("", f"{_shown(value)!r} holds half a surrogate pair")
    if value is None or kind is bool:
        return None
    if kind is float:
        return None if math.isfinite(value) else ("", f"{value} is no finite number")
    if kind is int:
        return None if -BIGGEST <= value < BIGGEST else ("", "a whole number beyond 64 bits")
    if kind is not list and kind is not dict:
        return "", f"JSON has no {kind.__name__}"
    if depth >= DEEPEST:
        return "", f"more than {DEEPEST} levels of lists and objects"
    if kind is dict:
        for key, item in value.items():
            if found := _flaw(key, depth):
                return f" (a name in it){found[0]}", found[1]
            if found := _flaw(item, depth + 1):
                return f".{key}{found[0]}", found[1]
    else:
        for i, item in enumerate(value):
            if found := _flaw(item, depth + 1):
                return f"[{i}]{found[0]}", found[1]
    return None


def cleaned(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with provenance that can always be kept: odd texts escaped, numbers that are none null."""
    return {k: _clean(v) if k in PROVENANCE else v for k, v in record.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(v) for v in value]
    return None if isinstance(value, int | float) and _flaw(value, 0) else value


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """A text as an error may show it."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= 40 else plain[:37] + "..."


def _mistyped(record: Mapping[str, Any], columns: Mapping[str, str], where: str) -> str:
    for name, kind in columns.items():
        value = record.get(name)
        if type(value) not in _IS[kind][1] or (kind in _INSIDE and value is not None and not _INSIDE[kind](value)):
            return f"{where}{name}: expected {_IS[kind][0]}, got {type(value).__name__}"
    return ""


def _nested(name: str, value: dict[str, Any]) -> str:
    if why := _mistyped(value, _NESTED[name], f"{name}."):
        return why
    if name == "cost":
        seconds = value.get("seconds") or {}
        wrong = [stage for stage, s in seconds.items() if type(s) not in _IS["DOUBLE"][1]]
        return f"cost.seconds.{_shown(wrong[0])}: expected a number or null" if wrong else ""
    if name != "recipe":
        return ""
    canvas = value.get("canvas") or {}
    if why := _mistyped(canvas, _CANVAS, f"{name}.canvas."):
        return why
    width, height = (1 if canvas.get(side) is None else canvas[side] for side in ("width", "height"))
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        return f"{name}.canvas: {width}x{height} is no canvas of 1 to {MAX_PIXELS} pixels"
    return ""


def _is_time(text: str) -> bool:
    try:
        return _TIME.fullmatch(text) is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


_INSIDE: dict[str, Callable[[Any], bool]] = {
    "TIMESTAMP": _is_time, "VARCHAR[]": lambda texts: all(type(t) is str for t in texts),
}  # fmt: skip


def _rows(value: Any) -> str:
    whole, number = _IS["BIGINT"][1], _IS["DOUBLE"][1]
    for i, row in enumerate(value if type(value) is list else [None]):
        if type(row) is not list or len(row) != 3:
            return f"values[{i}]: expected [name, index or null, number or null]"
        name, index, measured = row
        if type(name) is not str or type(index) not in whole or type(measured) not in number:
            return f"values[{i}]: expected [name, index or null, number or null]"
        odd = not name.isascii() or type(measured) is int or not math.isfinite(measured or 0.0)
        if (odd or not -BIGGEST <= (index or 0) < BIGGEST) and (found := _flaw(row, 0)):
            return f"values[{i}]{found[0]}: {found[1]}"
    return ""


def _named(value: Any) -> str:
    if type(value) is not dict:
        return "values: expected an object of numbers"
    wrong = [name for name, v in value.items() if type(v) not in _IS["DOUBLE"][1]]
    if wrong:
        return f"values.{_shown(wrong[0])}: expected a number or null"
    found = _flaw(value, 0)
    return f"values{found[0]}: {found[1]}" if found else ""


_VALUES: dict[str, Callable[[Any], str]] = {"score": _rows, "set_score": _named}
