"""Reading what people write: TOML, JSON, lists and tables, by one strict reader for all doors. Free of torch.

A file is UTF-8, with or without a byte-order mark at its start, with the line ends of any system. What anybody would
read alike is read so: blank lines, spaces around the cells of a table, line breaks inside quotes. All else is refused
with file, line and field: a key or a column that stands there twice, a column that is almost one of ours, a quote that
is never closed, a row with more or fewer cells than the head, a text that cannot be written as UTF-8 or holds control
characters, a number that is not finite or that no 64-bit integer holds.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError

MOST = 2**63 - 1  # the largest integer that records, Parquet and DuckDB hold; seeds are 0 to MOST
DEEPEST = 32  # tables in tables that a file may hold
SHOWN = 10  # faults named in one error


@dataclass(frozen=True)
class Row:
    """One entry of a table or list, its line from 1, and how errors name it: ``words.csv, line 7``."""

    where: str
    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A CSV or TSV file: the names of its columns, its rows as texts, and what is wrong with the rows left out."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    problems: tuple[str, ...]


# -- texts


def read_text(file: Path, what: str = "") -> str:
    """A file as text. ``what`` names it in errors (``"prompt file"``). Raises ``UsageError``."""
    return decode(read_bytes(file, what), file)


def read_bytes(file: Path, what: str = "") -> bytes:
    """A file as it is. Raises ``UsageError`` if it is not there, is none, or must not be read."""
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {what + ' ' if what else ''}{file}: {why}") from error


def decode(content: bytes, file: Path) -> str:
    """Bytes of a file as text, without the byte-order mark at its start. Raises ``UsageError`` naming the line."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        bad = content[error.start : error.start + 4].hex(" ")
        raise UsageError(f"{file}, line {line}: not UTF-8 (bytes {bad}); save the file as UTF-8") from error


def unreadable(text: str) -> str:
    """``"the unreadable character U+0007"`` of the first that nobody meant to write, empty if there is none.

    Those are control characters other than tab and line ends, halves of surrogate pairs, a byte-order mark inside a
    text, and U+FFFD, which a failed decoding leaves behind.
    """
    if text.isascii() and text.isprintable():
        return ""
    bad = next((c for c in text if _is_unreadable(c)), None)
    return f"the unreadable character U+{ord(bad):04X}" if bad else ""


def _is_unreadable(character: str) -> bool:
    if character in "\ufffd\ufeff":
        return True
    return character not in "\t\r\n" and unicodedata.category(character) in ("Cc", "Cs")


def shown(value: Any, room: int = 120) -> str:
    """A value for an error message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= room else f"{text[: room - 3]}..."


# What a terminal obeys instead of showing: C0 but for tabs and line breaks, DEL, C1, and what turns lines round.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """A text for a terminal: characters that it would obey are written out, ``\\x1b`` for an escape."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def is_file(path: Path) -> bool:
    """Whether there is such a file; also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def expanded(text: str) -> Path:
    """A path as people write it, ``~`` for the home folder. Raises ``UsageError`` for a home that nobody has."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text}: no such home folder; write the path out") from error


# -- values


def problems_of(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """What no door takes in values of JSON or TOML: (path such as ``parts[0].name``, what is wrong there)."""
    if depth > DEEPEST:
        yield path, f"is nested more than {DEEPEST} deep"
    elif isinstance(value, Mapping):
        for key in getattr(value, "repeated", ()):
            yield _below(path, key), "stands there twice"
        for key, inner in value.items():
            if bad := unreadable(key):
                yield _below(path, key), f"is a name with {bad}"
            yield from problems_of(inner, _below(path, key), depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from problems_of(inner, f"{path}[{i}]", depth + 1)
    elif wrong := fault(value):
        yield path, wrong


def fault(value: Any) -> str:
    """What is wrong with a text, number, truth value or null, empty if nothing is."""
    if isinstance(value, str):
        bad = unreadable(value)
        return f"holds {bad}" if bad else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"must be a finite number, got {value}"
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if -MOST - 1 <= value <= MOST else f"must be a 64-bit integer, got {shown(value)}"
    return f"must be a text, a number or a truth value, got {value}; write it in quotes"  # TOML has dates


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def refuse(problems: Sequence[str], head: str = "") -> None:
    """Raise ``UsageError`` with the first of the problems, and how many more there are; return if there is none."""
    if not problems:
        return
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    lines = [*problems[:SHOWN], *more]
    raise UsageError("\n  ".join([head, *lines]) if head else "\n".join(lines))


# -- TOML and JSON


def read_toml(file: Path, what: str = "") -> dict[str, Any]:
    """A TOML file. Raises ``UsageError`` with the line of a wrong sign, and all values that no door takes by key."""
    return parse_toml(read_text(file, what), file)


def parse_toml(text: str, file: Path) -> dict[str, Any]:
    """The text of a TOML file; see :func:`read_toml`."""
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{file}: not TOML: nested more than {DEEPEST} deep") from error
    except ValueError as error:  # tomllib's own, and that of an integer of thousands of digits
        raise UsageError(f"{file}: not TOML: {error}") from error
    refuse([f"{file}: {_printable(path)}: {wrong}" for path, wrong in problems_of(data)])
    return data


def _printable(path: str) -> str:
    return repr(path)[1:-1] if unreadable(path) else path


class _Object(dict[str, Any]):
    """An object of JSON with keys that stand there twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]


def parse_json(text: str, file: Path, line: int | None = None) -> Any:
    """A JSON document. Raises ``UsageError`` with file, line and field.

    Args:
        text: the document.
        file: where it comes from.
        line: its line there, if it is one of many; else the file is the document and has lines itself.
    """
    place = f"{file}, line {line}" if line else f"{file}"
    try:
        value = json.loads(text, object_pairs_hook=_plain_or_repeated, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{file}, line {line or error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{place}: nested more than {DEEPEST} deep") from error
    refuse([f"{place}: field {path!r} {wrong}" for path, wrong in problems_of(value)])
    return value


def _plain_or_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Object(pairs)


def _integer(text: str) -> int:
    return int(text[:40])  # Python converts no more than 4,300 digits; forty are far too many already


def lines_of(text: str) -> list[str]:
    """Lines of a list, by their ends on any system (not U+2028, which a text may hold); none for blank ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n ").split("\n")


# -- tables


def read_csv(
    file: Path, known: Collection[str] = (), required: Collection[str] = (), *, content: str | None = None,
    delimiter: str = ",", trim: bool = True, breaks: bool = False,
) -> Table:  # fmt: skip
    """A table with a head.

    Args:
        file: where it is.
        known: the columns that are looked for. One that differs from them in case, spaces or hyphens is refused, and
            so is one that is a letter away from one that is missing.
        required: those of them that must be there.
        content: its text, if it was read already.
        delimiter: a comma, or a tab.
        trim: take spaces around cells and names away.
        breaks: whether a cell may hold line breaks. Where none is expected, one is a quote that was left open.

    Raises:
        UsageError: not to be read, or a head that cannot be used. What is wrong with rows is in ``problems``.
    """
    text = read_text(file) if content is None else content
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=trim)
    names: tuple[str, ...] | None = None
    rows: list[Row] = []
    problems: list[str] = []
    for line, cells in _records(reader, file, problems):
        where = f"{file}, line {line}"
        cells = [c.strip() for c in cells] if trim else cells
        if names is None:
            names = tuple(cells)
            refuse([*_missing(names, known, required, where), *_head_problems(names, known, where)])
        elif wrong := _row_problem(names, cells, breaks):
            problems.append(f"{where}: {wrong}")
        else:
            rows.append(Row(where, line, {n: c for n, c in zip(names, cells) if n}))
    if names is None:
        refuse(problems or [f"{file}: is empty; expected a line with the names of columns"])
    return Table(names or (), tuple(rows), tuple(problems))


def _records(reader: Any, file: Path, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line each begins in; the first that is no CSV ends them."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            why = "a quote that is opened here is never closed" if open_quote else error
            problems.append(f"{file}, line {line}: not CSV: {why}")
            return
        if cells:
            yield line, cells


def _missing(names: Sequence[str], known: Collection[str], required: Collection[str], where: str) -> Iterator[str]:
    for name in required:
        if name not in names:
            have = ", ".join(n or "(no name)" for n in names)
            yield f"{where}: no column {name!r}; expected {', '.join(known)}; got {shown(have)[1:-1]}"
            return


def _head_problems(names: Sequence[str], known: Collection[str], where: str) -> Iterator[str]:
    for i, name in enumerate(names):
        if bad := unreadable(name):
            yield f"{where}: column {name!r} is a name with {bad}"
        if name and name in names[:i]:
            yield f"{where}: column {name!r} stands there twice"
        if meant := almost(name, known):
            yield f"{where}: column {name!r} is not {meant!r}; write it so, or give it another name"
        elif close := [k for k in known if k not in names and _one_letter_apart(name, k)]:
            yield f"{where}: unknown column {name!r}; did you mean {close[0]!r}? If not, give it another name"


def almost(name: str, known: Collection[str]) -> str:
    """The known name that this one is but for case, spaces, hyphens and underscores; empty if there is none."""
    if name in known:
        return ""
    return next((k for k in sorted(known) if _bare(k) == _bare(name)), "")


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _one_letter_apart(a: str, b: str) -> bool:
    """Whether one letter more, less, other, or two in each other's place make one word of the other."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return max(len(a), len(b)) == 1 or (len(a) == 2 and a == b[::-1])


def _row_problem(names: Sequence[str], cells: Sequence[str], breaks: bool) -> str:
    if len(cells) != len(names):
        wanted = ", ".join(n or "(no name)" for n in names)
        return f"expected {len(names)} cells ({wanted}), got {len(cells)}; a cell with a comma or quote needs quotes"
    for name, cell in zip(names, cells):
        if bad := unreadable(cell):
            return f"column {name!r} holds {bad}"
        if not breaks and re.search(r"[\r\n]", cell):
            return f"column {name!r} goes on over the next lines; is a quote left open?"
    return ""
