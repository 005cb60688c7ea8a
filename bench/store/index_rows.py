"""Records as the rows of the leaderboard's tables: the same rows whatever the order of the records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bench.errors import ScrollBenchError
from bench.ids import digest
from bench.registry import find
from bench.store.ledger import SLOTS, Ledger, choose, group_id, told
from bench.store.record_check import BIGGEST
from bench.store.records import Record
from bench.store.tables import PROTOCOL, TABLES
from bench.types import Canvas
from bench.views import seen

Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]

COST = {"seconds": "s", "nfe": "evaluations", "peak_bytes": "bytes"}


def tabulate(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Sort records into the rows of the tables; what counts of those that speak of one thing, the ledger says.

    A row of ``score`` or ``set_score`` holds all numbers of a record, as lists ``name``, ``index`` and ``value``.
    """
    ledger = Ledger(records)
    tables: Tables = {name: {} for name in TABLES}
    for run_id, run in sorted(ledger.runs.items()):
        tables["run"][run_id] = _run(tables, run)
    for slot, r in sorted(ledger.members.items(), key=lambda item: repr(item[0])):
        contested = ledger.contested("member", slot)
        tables["member"][slot] = {**r, "method": r["label"], "contested": contested}  # label: its name on the board
        tables["suite"].setdefault(r["suite_digest"], dict(r))
    for slot in sorted(ledger.slots("column")):
        tables["board_column"][slot] = choose(ledger.heads("column", slot))
    for recipe_id, r in sorted(ledger.images.items()):
        tables["image"][recipe_id] = {**_image(r), "contested": ledger.contested("image", SLOTS["image"](r))}
        _recipe(tables, r)
    for recipe_id in sorted(ledger.failures):
        for r in sorted(ledger.failures[recipe_id], key=told):
            tables["failure"][len(tables["failure"])] = dict(r)
            _recipe(tables, r)
    for r in sorted(ledger.score_failures, key=told):
        tables["score_failure"].setdefault(r["key"], dict(r))
    _scores(tables, ledger)
    _derive(tables)
    return {name: list(rows.values()) for name, rows in tables.items()}


def _scores(tables: Tables, ledger: Ledger) -> None:
    """One row for each slot and protocol: heads of several protocols stay apart, and ``standing`` takes one of them."""
    groups = _groups(tables)
    protocols: dict[tuple[Any, ...], Row] = {}
    for kind in ("score", "set_score"):
        kept = []
        for slot in ledger.slots(kind):
            heads = ledger.heads(kind, slot)
            if kind == "set_score" and groups.get(slot[:3]) != slot[3]:
                continue  # of other pictures than those that are there now
            by: dict[str, list[Record]] = {}
            for r in heads:
                protocol = _protocol(protocols, r)
                by.setdefault(protocol["protocol"], []).append({**r, **protocol, "method": r.get("label")})
            kept += [choose(same) for same in by.values()]
        for r in sorted(kept, key=lambda r: (r["key"], r["protocol"], r.get("id", ""))):
            values = r["values"] if kind == "score" else [[n, None, v] for n, v in sorted(r["values"].items())]
            r["name"], r["index"], r["value"] = map(list, zip(*values)) if values else ([], [], [])
            tables[kind][len(tables[kind])] = r
    for row in sorted(protocols.values(), key=lambda p: str(p["protocol"])):
        tables["protocol"][row["protocol"]] = row


def _protocol(known: dict[tuple[Any, ...], Row], r: Mapping[str, Any]) -> Row:
    """How a record's numbers were made, with the digest that names it."""
    fields = {c: r.get(c) for c in PROTOCOL if c != "protocol"}
    params = json.dumps(fields["params"], sort_keys=True) if fields["params"] else repr(fields["params"])
    key = (*[v for c, v in fields.items() if c != "params"], params)
    if key not in known:
        ordered = json.loads(params) if fields["params"] else fields["params"]
        known[key] = {**fields, "params": ordered, "protocol": digest(fields)}
    return known[key]


def _groups(tables: Tables) -> dict[tuple[Any, ...], str]:
    """The identity of the pictures there are now, by suite, part and label."""
    made: dict[tuple[Any, ...], list[tuple[str, int, str]]] = {}
    for m in tables["member"].values():
        if image := tables["image"].get(m["recipe_id"]):
            picture = (m["prompt_id"], m["seed"], image["image_id"])
            made.setdefault((m["suite_digest"], m["part"], m["label"]), []).append(picture)
    return {cell: group_id(pictures) for cell, pictures in made.items()}


def _recipe(tables: Tables, r: Mapping[str, Any]) -> None:
    recipe = {**r["recipe"], **(r["recipe"].get("canvas") or {}), "recipe_id": r["recipe_id"]}
    tables["recipe"].setdefault(r["recipe_id"], recipe)


def _run(tables: Tables, r: Mapping[str, Any]) -> Row:
    environment = r.get("environment")
    if not environment:
        return dict(r)
    name = digest(environment)
    tables["environment"][name] = {**environment, "environment_id": name, "details": environment}
    return {**r, "environment_id": name}


def _image(r: Mapping[str, Any]) -> Row:
    cost = r.get("cost") or {}
    stages = cost.get("seconds")
    seconds = sum(stages.values()) if stages and None not in stages.values() else None
    counts = {name: _count(cost.get(name)) for name in ("nfe", "peak_bytes")}
    return {**r, **counts, "seconds": seconds, "stages": stages}


def _count(value: float | None) -> int | None:
    """A whole number of what a backbone says that it counted."""
    return None if value is None or abs(value) >= BIGGEST else round(value)


def _derive(tables: Tables) -> None:
    """Tables that follow from the others: prompts, parts, how to read each number, how much each view saw."""
    for member in tables["member"].values():
        if recipe := tables["recipe"].get(member["recipe_id"]):
            joined = {**member, **recipe}
            tables["part"].setdefault((member["suite_digest"], member["part"]), joined)
            tables["prompt"].setdefault((member.get("prompt_set"), member["prompt_id"]), joined)
    for prompt_set, count in Counter(p.get("prompt_set") for p in tables["prompt"].values()).items():
        tables["prompt_set"][prompt_set] = {"prompt_set": prompt_set, "prompts": count}
    tables["protocol"]["cost"] = {"protocol": "cost", "metric": "cost"}
    for name, unit in COST.items():
        tables["reading"]["cost", name] = {"metric": "cost", "name": name, "direction": "lower", "unit": unit}
    for metric in sorted({p["metric"] for p in tables["protocol"].values()} - {"cost"}):
        for name, direction, unit in _readings(metric):
            tables["reading"][metric, name] = {"metric": metric, "name": name, "direction": direction, "unit": unit}
    for view in sorted({p["view"] for p in tables["protocol"].values() if p.get("view")}):
        for canvas in {(p.get("width"), p.get("height"), p.get("loop")) for p in tables["part"].values()}:
            row = dict(zip(("width", "height", "loop"), canvas), view=view, seen=_seen(view, *canvas))
            tables["sight"][view, canvas] = row


def _readings(metric: str) -> list[tuple[str, str, str]]:
    """Direction and unit of a metric's values. Nothing for a plug-in that is not installed here: its numbers stay."""
    if "@" in metric:  # records name metrics, never files to be run
        return []
    try:
        found = find("metrics", metric)
    except ScrollBenchError:
        return []
    return [(name, direction, found.unit) for name, direction in found.values.items()]


def _seen(view: str, width: int | None, height: int | None, loop: bool | None) -> float | None:
    """Share of the canvas's pixels that a view looks at; None for a view that is not known here."""
    if not width or not height:
        return None
    try:
        return seen(view, Canvas(width, height, bool(loop)))
    except (ScrollBenchError, ValueError):
        return None
