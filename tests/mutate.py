"""Seeded damage to what people write: to the bytes of a file, to an option, to a value of JSON.

Everything is drawn from the ``random.Random`` that is handed in, so that a case can be made again from its seed. The
damage is of the kinds that hands, editors, spreadsheets and scripts do: a cut or doubled line, another type, a quote
that stays open, marks that cannot be seen, numbers beyond all ranges.
"""

from __future__ import annotations

import copy
import json
import random
import re
import tomllib
from typing import Any

# What is put in the place of a word, a number or a text of a file.
TOKENS = (
    "", "null", "true", "false", "0", "-1", "1", "0.5", "-0.0", "nan", "NaN", "inf", "-Infinity", "1e400", "1e-400",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" + "0" * 40, "9" * 5000, "0x10", "1_000",
    "٣", "²", "½", '"', "'", '""', '"""', "'''", ",", ",,", ";", "\t", "=", "==", ":", "::", "@", "#", "\\",
    "\\u0000", "\\ud83d", "\\udc00\\ud83d", "\\x00", "[", "]", "[]", "[[]]", "{", "}", "{}", "{{", "[" * 600,
    "{\"a\":" * 600, "a=" * 40, "\n", "\r", "\r\n", "\n\n", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028",
    "\ufeff", "\ufffd", "\uffff", "\U0001f600", "e\u0301", "..", "../..", "/", "~nobody", "/dev/null", "name", "Seed",
    "Prompt ID", "none", "1979-05-27", "07:32:00", "*", "(", "(a+)+$", "[a-", "%", "$HOME", "é" * 300, "x" * 5000,
)  # fmt: skip

# What is put in the place of a value of JSON.
VALUES = (
    None, True, False, 0, 1, -1, 2, 4, 0.5, 2.0, -0.0, float("nan"), float("inf"), 1e308, 2**31, 2**63 - 1, 2**63,
    -(2**63) - 1, 10**30, "", " ", "a", "sun", "boat", "2", "none", "\x00", "\ud83d", "\ufeff", "\ufffd", "x" * 5000,
    [], {}, [[]], [None], ["boat"], ["boat", 2], ["boat", "2"], ["boat", 2.0], ["boat", 2, 3], [2, "boat"],
    ["boat", True], {"a": 1}, {"": {}}, {"style": "ink"}, ("sun", 1), b"sun",
)  # fmt: skip

_PIECE = re.compile(rb"[A-Za-z0-9_.+-]+|\"[^\"\n]*\"|[^\sA-Za-z0-9]")


def damaged_bytes(original: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one to four things wrong with them."""
    made = original
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        made = rng.choice(_OF_BYTES)(made, rng)
    return made


def damaged_toml(original: str, rng: random.Random) -> bytes:
    """A TOML file with something wrong with it: with its letters, or, so that more of it is read, with its values."""
    if rng.random() < 0.4:
        return damaged_bytes(original.encode(), rng)
    made = damaged_value(tomllib.loads(original), rng)
    lines = [f"{_toml(k)} = {_toml(v)}" for k, v in made.items()] if isinstance(made, dict) else [f"x = {_toml(made)}"]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def damaged_text(original: str, rng: random.Random) -> str:
    """An option or another short text with one or two things wrong with it; it may hold what UTF-8 cannot."""
    made = original
    for _ in range(rng.choice((1, 1, 2))):
        made = damaged_bytes(made.encode("utf-8", "surrogatepass"), rng).decode("utf-8", "surrogateescape")
        if rng.random() < 0.05:
            made = _put(made, rng.randrange(len(made) + 1), rng.choice(("\ud83d", "\x00", "~", "9" * 5000)))
    return made


def damaged_value(original: Any, rng: random.Random) -> Any:
    """A copy of a value of JSON, with one to three things wrong with it."""
    made = copy.deepcopy(original)
    for _ in range(rng.choice((1, 1, 2, 3))):
        made = _damage_value(made, rng)
    return made


# -- bytes


def _put(text: Any, at: int, more: Any) -> Any:
    return text[:at] + more + text[at:]


def _token(rng: random.Random) -> bytes:
    return rng.choice(TOKENS).encode()


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    return bytes(_put(data, rng.randrange(len(data) + 1), _token(rng)))


def _replace(data: bytes, rng: random.Random) -> bytes:
    """Another token in the place of a word, number, text or mark."""
    pieces = list(_PIECE.finditer(data))
    if not pieces:
        return data
    piece = rng.choice(pieces)
    new = _token(rng)
    if piece[0].startswith(b'"') and rng.random() < 0.5:
        new = b'"' + new + b'"'
    return data[: piece.start()] + new + data[piece.end() :]


def _swap(data: bytes, rng: random.Random) -> bytes:
    """Two words, numbers, texts or marks in each other's place."""
    pieces = [m.span() for m in _PIECE.finditer(data)]
    if len(pieces) < 2:
        return data
    (a, b), (c, d) = sorted(rng.sample(pieces, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[min(b, a + rng.choice((1, 3, 40))) :]


def _double(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _lines(data: bytes, rng: random.Random) -> bytes:
    """A line twice, gone, or in another place."""
    lines = data.split(b"\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = lines[at] if rng.random() < 0.5 else lines.pop(at)
    if rng.random() < 0.7:
        lines.insert(to, line)
    return b"\n".join(lines)


def _case(data: bytes, rng: random.Random) -> bytes:
    """A word as a spreadsheet would head it."""
    words = list(re.finditer(rb"[A-Za-z_]{3,}", data))
    if not words:
        return data
    word = rng.choice(words)
    new = rng.choice((word[0].title(), word[0].upper(), word[0].replace(b"_", b" "), b" " + word[0], word[0][:-1]))
    return data[: word.start()] + new + data[word.end() :]


def _encode(data: bytes, rng: random.Random) -> bytes:
    """Another encoding, other ends of lines, a byte-order mark."""
    text = data.decode("utf-8", "replace")
    return rng.choice(
        (
            text.encode("utf-16"), text.encode("latin-1", "replace"), text.encode("utf-8-sig"), text.encode("utf-7"),
            text.replace("\n", "\r\n").encode(), text.replace("\n", "\r").encode(), (text + "\ufeff" + text).encode(),
            text.replace(",", ";").encode(), text.replace(",", "\t").encode(), text.replace('"', "“").encode(),
        )
    )  # fmt: skip


# The likelier ones stand there several times.
_OF_BYTES = (
    _flip, _insert, _insert, _replace, _replace, _replace, _replace, _swap, _cut, _double, _truncate, _lines, _lines,
    _case, _encode,
)  # fmt: skip


# -- values


def _toml(value: Any) -> str:
    """Any value as TOML writes it inside a line; what TOML has no word for stands there as it would in Python."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool | float) else repr(value)


def _value(rng: random.Random) -> Any:
    """A copy: further damage to it must not reach the next case."""
    return copy.deepcopy(rng.choice(VALUES))


def _damage_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        roll = rng.random()
        if roll < 0.12:
            del value[key]
        elif roll < 0.2:
            value[rng.choice(("", key.upper(), key[:-1], f" {key}", "x"))] = value.pop(key)
        elif roll < 0.25:
            value[rng.choice(("x", "scene", "Style"))] = _value(rng)
        else:
            value[key] = _damage_value(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            value.insert(at, _value(rng))
        else:
            value[at] = _damage_value(value[at], rng)
        return value
    return rng.choice((_value(rng), [value], {"x": value}, str(value), _value(rng)))
