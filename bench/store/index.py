"""The leaderboard: a DuckDB file built from the records, never the truth itself.

One writer builds it in a temporary file and moves it into place, so readers see the old index or the new one.
What a client that opened the old file for writing left beside it (a ``.wal``) goes with it, and is never read.
It can be deleted at any time; :func:`build` makes the same one again. Everybody else opens it read-only: through
:func:`query` and ``scrollbench sql``, the duckdb client, or ``duckdb.connect(path, read_only=True).sql(...).df()``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StoreError, UsageError, near
from bench.store.commit import sync_folder, writing
from bench.store.engine import attached, cursor, quoted
from bench.store.index_rows import Row, tabulate
from bench.store.places import places
from bench.store.records import Record, no_cycles
from bench.store.tables import DERIVED, TABLES, VIEWS

if TYPE_CHECKING:
    import duckdb

    from bench.store.store import Store

NAME = "leaderboard.duckdb"
STORAGE = "v1.2.0"  # the oldest file format that holds all of this: duckdb clients from 1.2 on can read it
LISTS = {"name": "VARCHAR[]", "index": "BIGINT[]", "value": "DOUBLE[]"}  # the numbers of a record, a row each


def build(store: Store) -> Path:
    """Build the index from all records of a store and put it in place atomically.

    Returns:
        the path of the DuckDB file.

    Raises:
        StoreError: an unreadable record, or a store that cannot be written.
    """
    return build_file(store.records(), store.root / NAME)


def build_file(records: Iterable[Record], path: Path) -> Path:
    """Build the index of any records at ``path`` (see :func:`build`)."""
    import duckdb

    with no_cycles(), writing(path, 0):
        rows = tabulate(records)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".index-", suffix=".tmp"))
        work = scratch.absolute() if _literal(scratch) else Path(tempfile.mkdtemp(prefix="scrollbench-"))
        try:
            with cursor() as con, attached(con, work / NAME, f"storage_version '{STORAGE}'") as name:
                for table, columns in TABLES.items():
                    _fill(con, table, columns, rows[table], work / "rows.json")
                for view, sql in VIEWS.items():
                    con.execute(f"create view {view} as {sql}")
                for table, sql in DERIVED.items():
                    con.execute(f"insert into {table} by name {sql}")
                _load(con, "place", TABLES["place"], list(places(con)), work / "rows.json")
                con.execute(f"checkpoint {name}")  # all of it is in the one file that is moved
            if not (scratch / NAME).exists():
                shutil.copyfile(work / NAME, scratch / NAME)
            with (scratch / NAME).open("rb") as f:
                os.fsync(f.fileno())
            _put(scratch / NAME, path)
        except duckdb.IOException as error:
            raise StoreError(
                f"cannot write the index {path}: {error}. Free some space, or point --store elsewhere"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
    return path


# What a stranger's SQL must not reach: files, other databases, extensions, the network; nor may it unlock them.
LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false", "autoload_known_extensions": "false", "autoinstall_known_extensions": "false",
    "lock_configuration": "true",
}  # fmt: skip


def query(store: Store, sql: str, *, locked: bool = False) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Ask the leaderboard something. The file is opened read-only.

    Args:
        locked: nothing but the leaderboard can be reached: no COPY, EXPORT, files, extensions, network.

    Returns:
        column names, and rows as tuples of Python values (JSON columns as text).

    Raises:
        StoreError: there is no index yet.
        UsageError: the SQL is wrong, or empty; the message names near misses of tables and columns.
    """
    return query_file(store.root / NAME, sql, locked=locked)


def query_file(path: Path, sql: str, *, locked: bool = False) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Ask any leaderboard file something (see :func:`query`)."""
    import duckdb

    if not path.exists():
        raise StoreError(
            f"no leaderboard at {path}. `scrollbench store index` builds it from the records; "
            "`scrollbench run` makes pictures and scores first"
        )
    _refuse_sidecars(path)
    try:
        with _readable(path) as file, _opened(file, locked) as con:
            _refuse_sidecars(path)  # one that came in between was replayed just now
            result: duckdb.DuckDBPyConnection | None = con.execute(sql)
            if result is None:
                raise UsageError('an empty query; "show tables" lists what there is, "from leaderboard" is the board')
            return [str(d[0]) for d in result.description or []], result.fetchall()
    except duckdb.IOException as error:
        raise StoreError(f"cannot read {path}: {error}. `scrollbench store index` builds it again") from error
    except duckdb.Error as error:
        text = str(error).strip()
        unknown = re.match(r"Catalog Error: Table with name \"?(\w+)", text)
        if unknown:
            raise UsageError(
                f"no table or view {unknown[1]!r} in the leaderboard; {near(unknown[1], [*TABLES, *VIEWS])}"
            ) from error
        if isinstance(error, duckdb.PermissionException):
            raise UsageError(f"only the leaderboard can be read here, and nothing written. {text}") from error
        raise UsageError(f"the leaderboard does not understand this SQL. {text}") from error


@contextmanager
def _opened(path: Path, locked: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A leaderboard, read-only; ``locked`` in a DuckDB of its own, whose locks are for good."""
    import duckdb

    if locked:
        with duckdb.connect(str(path), read_only=True, config=LOCKED) as con:
            yield con
    else:
        with cursor() as con, attached(con, path, "read_only"):
            yield con


def _literal(path: Path) -> bool:
    """Whether DuckDB takes a name as it is: it ends names of databases at ``?`` and turns backslashes round."""
    return not ({"?", "\\"} - {os.sep}) & set(str(path.absolute()))


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """A leaderboard under a name that DuckDB takes; a link beside it, or a copy, where its own is none."""
    if _literal(path):
        yield path.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="scrollbench-") as folder:
        other = Path(folder) / NAME
        try:
            os.link(path, other)
        except OSError:  # on another disk
            shutil.copyfile(path, other)
        yield other


def _put(made: Path, path: Path) -> None:
    """Move a new file into place without what belonged to the old one; open readers keep the old one."""
    for sidecar in _sidecars(path):  # before, so that no crash leaves them beside the new file
        sidecar.unlink(missing_ok=True)
    os.replace(made, path)
    for sidecar in _sidecars(path):  # and after, as a client that has the old file open may have written again
        sidecar.unlink(missing_ok=True)
    sync_folder(path.parent)


def _sidecars(path: Path) -> list[Path]:
    """Write-ahead logs beside a leaderboard. DuckDB replays them over whatever file has the name, on any opening."""
    return [p for p in path.parent.iterdir() if p.name.startswith(path.name + ".") and ".wal" in p.name]


def _refuse_sidecars(path: Path) -> None:
    if found := _sidecars(path):
        raise StoreError(
            f"{found[0]}: a client that opened the leaderboard for writing left this beside it, and what it wrote is "
            "not of the records. `scrollbench store index` builds the leaderboard again without it"
        )


def _fill(con: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str], rows: list[Row], file: Path) -> None:
    """Create a table and load it, through a file of JSON lines: the one bulk path that keeps NULLs, lists and JSON."""
    declared = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    con.execute(f"create table {table} ({declared})")
    _load(con, table, columns, rows, file)


def _load(con: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str], rows: list[Row], file: Path) -> None:
    if not rows:
        return
    with file.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps({c: _finite(row.get(c)) for c in columns}) + "\n" for row in rows)
    lists = {c: LISTS[c] for c in columns if c in LISTS and "value" in columns}
    types = ", ".join(f"'{c}': '{t}'" for c, t in {**columns, **lists}.items())
    chosen = ", ".join(f'unnest("{c}")' if c in lists else f'"{c}"' for c in columns)
    con.execute(
        f"insert into {table} select {chosen} from read_json('{quoted(file)}', format='nd', columns={{{types}}})"
    )


def _finite(value: Any) -> Any:
    """A sum that is no number any more is undefined: NULL."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
