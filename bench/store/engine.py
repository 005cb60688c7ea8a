"""The process's one DuckDB, in memory: starting another takes longer than most of what a store asks it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_started: dict[int, duckdb.DuckDBPyConnection] = {}  # by process: a fork's copy has lost its threads
_turns: dict[int, threading.RLock] = {}
_names = itertools.count()


@contextmanager
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of one's own, closed at the end. What it makes in memory is temporary (``create temp table``).

    After an error that DuckDB does not survive the next cursor is of a new one.
    """
    import duckdb

    if os.getpid() not in _started:
        _started[os.getpid()] = duckdb.connect()
    con = _started[os.getpid()].cursor()
    try:
        yield con
    except (duckdb.FatalException, duckdb.InternalException):
        _started.pop(os.getpid(), None)
        raise
    finally:
        con.close()


def quoted(path: Path) -> str:
    """A path as it stands between single quotes."""
    return str(path).replace("'", "''")


@contextmanager
def attached(con: duckdb.DuckDBPyConnection, path: Path, options: str) -> Iterator[str]:
    """Use a database file, under the name that is given, for the time of the block; nothing holds it afterwards.

    Threads take turns: no file can be attached twice.

    Args:
        con: of :func:`cursor`.
        path: the file.
        options: of SQL's ``attach``.
    """
    name = f"file_{next(_names)}"
    with _turns.setdefault(os.getpid(), threading.RLock()):
        con.execute(f"attach '{quoted(path)}' as {name} ({options})")
        try:
            con.execute(f"use {name}")
            yield name
        finally:
            con.execute("use memory")
            con.execute(f"detach {name}")
