"""What the leaderboard says of each number beside its value: label, interval, letters and ranks.

They are the board's (:mod:`bench.analysis.board`), computed by the same functions from the records alone: the columns
that scoring wrote down say which numbers a suite has and what is tested together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.stats.intervals import OPEN, Span, told
from bench.stats.ranks import Family, Ranked, ranking

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
LOOKS = ("metric", "extractor", "view", "reference", "params", "name")
NOBODY = ""  # the backbone of controls and of pictures made elsewhere


def places(con: duckdb.DuckDBPyConnection) -> Iterator[Row]:
    """A row of the table ``place`` for each number of the view ``leaderboard``."""
    columns = {_look(c): c for c in _rows(con, "select * from board_column")}
    lines = _rows(con, """
        select l.suite_digest, l.part, l.method, l.control, l.optimises, p.metric, l.extractor, l.view, l.reference,
               l.params, l.metric as name, l.direction, l.missing, l.protocol
        from leaderboard l join protocol p using (protocol)""")  # fmt: skip
    runs_on = con.execute("""
        select suite_digest, part, m.method, any_value(r.backbone)
        from member m left join recipe r using (recipe_id) group by suite_digest, part, m.method""").fetchall()
    on = {(digest, part, method): backbone for digest, part, method, backbone in runs_on}
    values = _values(con)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for line in lines:
        groups.setdefault((line["suite_digest"], line["part"], line["protocol"], line["name"]), []).append(line)
    methods = _company(lines, on)
    parts: dict[str, set[str]] = {}
    for line in lines:
        parts.setdefault(line["suite_digest"], set()).add(line["part"])
    for key, mine in groups.items():
        digest, part = key[0], key[1]
        column = columns.get((digest, *_look(mine[0])[1:]))
        span: Span = (column["least"], column["most"]) if column else OPEN
        sets = {line["method"]: values.get((*key, line["method"]), {}) for line in mine}
        ends = told({method: list(of.values()) for method, of in sets.items()}, span)
        placed: dict[str, Ranked] = {}
        if column:
            for backbone, company in methods[digest].items():
                ranked = [line for line in mine if line["method"] in company and _backbone(line, on) == backbone]
                family = Family(column["numbers"], len(parts[digest]), max(2, len(company)))
                placed |= _ranked(ranked, sets, column["direction"], family)
        for line in mine:
            low, high = ends.get(line["method"], (None, None))
            place = placed.get(line["method"])
            yield {
                "suite_digest": digest, "part": part, "method": line["method"], "protocol": line["protocol"],
                "name": line["name"], "label": column["label"] if column else line["name"], "low": low, "high": high,
                "group": place and place.group, "rank_low": place and place.low, "rank_high": place and place.high,
            }  # fmt: skip


def _rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    result = con.execute(sql)
    names = [d[0] for d in result.description or []]
    return [dict(zip(names, row)) for row in result.fetchall()]


def _look(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a number the one of a column: suite, metric, how it looks, which of its values."""
    params = json.dumps(json.loads(row["params"] or "null") or {}, sort_keys=True)
    return (row["suite_digest"], *(params if name == "params" else row[name] for name in LOOKS))


def _backbone(line: Row, on: Mapping[Any, str | None]) -> str:
    return NOBODY if line["control"] else on.get((line["suite_digest"], line["part"], line["method"])) or NOBODY


def _company(lines: list[Row], on: Mapping[Any, str | None]) -> dict[str, dict[str, set[str]]]:
    """Suite -> backbone -> methods that are ranked together."""
    found: dict[str, dict[str, set[str]]] = {}
    for line in lines:
        mine = found.setdefault(line["suite_digest"], {})
        if not (line["control"] or line["optimises"]):
            mine.setdefault(_backbone(line, on), set()).add(line["method"])
    return found


def _values(con: duckdb.DuckDBPyConnection) -> dict[tuple[Any, ...], dict[str, float]]:
    """(suite, part, protocol, number, method) -> prompt -> value, seeds averaged; no costs."""
    rows = con.execute("""
        select suite_digest, part, protocol, metric, method, list(prompt_id order by prompt_id),
               list(value order by prompt_id)
        from pairs where protocol <> 'cost'
        group by suite_digest, part, protocol, metric, method""").fetchall()  # fmt: skip
    return {tuple(row[:5]): dict(zip(row[5], row[6])) for row in rows}


def _ranked(
    lines: list[Row], sets: Mapping[str, Mapping[str, float]], direction: str | None, family: Family
) -> dict[str, Ranked]:
    sign = {"lower": -1.0, "higher": 1.0}.get(direction or "")
    whole = [line["method"] for line in lines if not line["missing"] and sets[line["method"]]]
    if sign is None or len(whole) < 2 or max(len(sets[m]) for m in whole) < family.least:
        return {}
    table = {m: {prompt: sign * v for prompt, v in sets[m].items()} for m in whole}
    return {r.method: r for r in ranking(table, family)}
