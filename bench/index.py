"""The leaderboard: a DuckDB file built from the records, never the truth itself.

One writer builds it in a temporary file and moves it into place, so readers see the old index or the new one.
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
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commit import sync_folder, writing
from bench.errors import ScrollBenchError, StoreError, UsageError, near
from bench.ids import digest
from bench.tables import PROTOCOL, TABLES, VIEWS

if TYPE_CHECKING:
    import duckdb

    from bench.store import Store

NAME = "leaderboard.duckdb"
STORAGE = "v1.2.0"  # the oldest file format that holds all of this: duckdb clients from 1.2 on can read it

Row = dict[str, Any]


def build(store: Store) -> Path:
    """Build the index from all records of a store and put it in place atomically.

    Returns:
        the path of the DuckDB file.

    Raises:
        StoreError: an unreadable record, or a store that cannot be written.
    """
    return build_file(store.records(), store.root / NAME)


def build_file(records: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Build the index of any records at ``path`` (see :func:`build`)."""
    import duckdb

    rows = tabulate(records)
    with writing(path, 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".index-"))
        try:
            with duckdb.connect() as con:
                con.execute(f"attach '{_quoted(scratch / NAME)}' as leaderboard (storage_version '{STORAGE}')")
                con.execute("use leaderboard")
                for table, columns in TABLES.items():
                    _fill(con, table, columns, rows[table], scratch / "rows.json")
                for view, sql in VIEWS.items():
                    con.execute(f"create view {view} as {sql}")
                con.execute("use memory")
                con.execute("detach leaderboard")
            with (scratch / NAME).open("rb") as f:
                os.fsync(f.fileno())
            os.replace(scratch / NAME, path)
            sync_folder(path.parent)
        except duckdb.IOException as error:
            raise StoreError(
                f"cannot write the index {path}: {error}. Free some space, or point --store elsewhere"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return path


def query(store: Store, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Ask the leaderboard something. The file is opened read-only.

    Returns:
        column names, and rows as tuples of Python values (JSON columns as text).

    Raises:
        StoreError: there is no index yet.
        UsageError: the SQL is wrong; the message names near misses of tables and columns.
    """
    return query_file(store.root / NAME, sql)


def query_file(path: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Ask any leaderboard file something (see :func:`query`)."""
    import duckdb

    if not path.exists():
        raise StoreError(
            f"no leaderboard at {path}. `scrollbench store index` builds it from the records; "
            "`scrollbench run` makes pictures and scores first"
        )
    try:
        with duckdb.connect(str(path), read_only=True) as con:
            result = con.execute(sql)
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
        raise UsageError(f"the leaderboard does not understand this SQL. {text}") from error


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _fill(con: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str], rows: list[Row], file: Path) -> None:
    """Create a table and load it through a file of JSON lines: the one bulk path that keeps NULLs, lists and JSON."""
    declared = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    con.execute(f"create table {table} ({declared})")
    if rows:
        lines = (json.dumps({c: _finite(row.get(c)) for c in columns}) for row in rows)
        file.write_text("\n".join(lines), encoding="utf-8")
        types = ", ".join(f"'{c}': '{t}'" for c, t in columns.items())
        con.execute(f"insert into {table} select * from read_json('{_quoted(file)}', format='nd', columns={{{types}}})")


def _finite(value: Any) -> Any:
    """NaN and infinities mean "undefined" and become NULL; numpy scalars become Python's."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- records to rows

COST = {"seconds": "s", "nfe": "evaluations", "peak_bytes": "bytes"}


def tabulate(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Sort records into the rows of the tables. Where two say the same thing, the later one counts."""
    tables: dict[str, dict[Any, Row]] = {name: {} for name in TABLES}
    scored: dict[Any, Row] = {}
    for r in sorted(records, key=lambda r: str(r.get("time", ""))):  # stable: ties keep the order of the files
        kind = r.get("kind")
        if kind == "run":
            _run(tables, r)
        elif kind == "member":
            cell = (r["suite_digest"], r["part"], r["label"], r["prompt_id"], r["seed"])
            tables["member"][cell] = {**r, "method": r["label"]}  # label: the method's name on the board
            tables["suite"][r["suite_digest"]] = dict(r)
        elif kind in ("image", "failure"):
            tables["recipe"][r["recipe_id"]] = {**r["recipe"], **r["recipe"]["canvas"], "recipe_id": r["recipe_id"]}
            if kind == "image":
                tables["image"][r["recipe_id"]] = _image(r)
            else:
                tables["failure"][len(tables["failure"])] = dict(r)
        elif kind == "score_failure":
            tables["score_failure"][r["key"]] = dict(r)
        elif kind in ("score", "set_score"):
            protocol = {c: r.get(c) for c in PROTOCOL if c != "protocol"}
            protocol["protocol"] = digest(protocol)
            tables["protocol"][protocol["protocol"]] = {**protocol, "last_used": r.get("time")}
            of = r["image_id"] if kind == "score" else (r["suite_digest"], r["part"], r["label"])
            scored[kind, of, r.get("prompt_id"), protocol["protocol"]] = {**r, **protocol}
            tables["score_failure"].pop(r["key"], None)
    for r in scored.values():
        values = r["values"] if r["kind"] == "score" else [[n, None, v] for n, v in r["values"].items()]
        for name, index, value in values:
            row = {**r, "method": r.get("label"), "name": name, "index": index, "value": value}
            tables[r["kind"]][len(tables[r["kind"]])] = row
    _derive(tables)
    return {name: list(rows.values()) for name, rows in tables.items()}


def _run(tables: dict[str, dict[Any, Row]], r: Mapping[str, Any]) -> None:
    """A run is told of twice: started, then finished (or never)."""
    run = tables["run"].setdefault(r["run_id"], {"run_id": r["run_id"], "started": r.get("time")})
    run.update({c: r[c] for c in ("suite", "suite_digest", "argv", "status") if c in r})
    if r.get("status") != "started":
        run["finished"] = r.get("time")
    if environment := r.get("environment"):
        run["environment_id"] = digest(environment)
        details = {"environment_id": run["environment_id"], "details": environment}
        tables["environment"][run["environment_id"]] = {**environment, **details}


def _image(r: Mapping[str, Any]) -> Row:
    cost = r.get("cost") or {}
    stages = cost.get("seconds")
    seconds = sum(stages.values()) if stages else None
    return {**r, "nfe": cost.get("nfe"), "peak_bytes": cost.get("peak_bytes"), "seconds": seconds, "stages": stages}


def _derive(tables: dict[str, dict[Any, Row]]) -> None:
    """Tables that follow from the others: prompts, parts, how to read each number, how much each view saw."""
    for member in tables["member"].values():
        if recipe := tables["recipe"].get(member["recipe_id"]):
            joined = {**member, **recipe}
            tables["part"][member["suite_digest"], member["part"]] = joined
            tables["prompt"][member["prompt_set"], member["prompt_id"]] = joined
    for prompt_set, count in Counter(p["prompt_set"] for p in tables["prompt"].values()).items():
        tables["prompt_set"][prompt_set] = {"prompt_set": prompt_set, "prompts": count}
    tables["protocol"]["cost"] = {"protocol": "cost", "metric": "cost"}
    for name, unit in COST.items():
        tables["reading"]["cost", name] = {"metric": "cost", "name": name, "direction": "lower", "unit": unit}
    for metric in {p["metric"] for p in tables["protocol"].values()} - {"cost"}:
        for name, direction, unit in _readings(metric):
            tables["reading"][metric, name] = {"metric": metric, "name": name, "direction": direction, "unit": unit}
    for view in {p["view"] for p in tables["protocol"].values() if p.get("view")}:
        for canvas in {(p["width"], p["height"], p["loop"]) for p in tables["part"].values()}:
            row = dict(zip(("width", "height", "loop"), canvas), view=view, seen=_seen(view, *canvas))
            tables["sight"][view, canvas] = row


def _readings(metric: str) -> list[tuple[str, str, str]]:
    """Direction and unit of a metric's values. Nothing for a plug-in that is not installed here: its numbers stay."""
    from bench.registry import find

    try:
        found = find("metrics", metric)
    except ScrollBenchError:
        return []
    return [(name, direction, found.unit) for name, direction in found.values.items()]


def _seen(view: str, width: int, height: int, loop: bool) -> float | None:
    """Share of the canvas's pixels that a view looks at; None for a view that is not known here."""
    from bench.types import Canvas
    from bench.views import seen

    try:
        return seen(view, Canvas(width, height, loop))
    except ScrollBenchError:
        return None
