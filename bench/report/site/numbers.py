"""The numbers of a report, as plain values, each as the leaderboard and the analysis give it; nothing is rounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bench.analysis.board import Section
from bench.analysis.claims import tables
from bench.analysis.columns import measures, text
from bench.analysis.compare import compare
from bench.analysis.reproduce import reproduce
from bench.analysis.samplers import Side, labelled
from bench.analysis.samplers import values as read
from bench.errors import ScrollBenchError
from bench.report.curves import points
from bench.report.wording import columns, looks, notes, subtitle, title
from bench.store.index import query
from bench.store.tables import mean

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

Step = Callable[[], None]


def suite_facts(suite: Suite, found: Sequence[Section]) -> dict[str, Any]:
    """What every page needs: names, parts, methods with their marks, and the prompts by part."""
    methods: dict[str, dict[str, Any]] = {}
    for s in found:
        for row in s.rows:
            methods.setdefault(row.line.method, {"name": row.line.method, "control": row.line.control})
    return {
        "ref": suite.ref, "title": title(suite), "subtitle": subtitle(suite), "digest": suite.digest,
        "tier": suite.tier, "seeds": list(suite.seeds), "methods": list(methods.values()),
        "parts": [
            {"name": p.name, "width": p.canvas.width, "height": p.canvas.height, "loop": p.canvas.loop,
             "prompts": [{"id": q.id, "text": q.text, "theme": theme(q)} for q in p.prompts.prompts]}
            for p in suite.parts
        ],
    }  # fmt: skip


def theme(prompt: Any) -> str:
    """The theme of a prompt, as its set says; empty where it says none."""
    return str(prompt.attributes.get("theme") or "")


def board(suite: Suite, found: Sequence[Section]) -> dict[str, Any]:
    """The board as its sections give it: for each method its pictures, marks and numbers by column."""
    return {
        "columns": [asdict(c) | {"looks": looks(c)} for c in columns(found)],
        "sections": [
            {"part": s.part, "backbone": s.backbone, "columns": [c.label for c in s.columns], "rows": [
                asdict(row.line) | {"marks": row.marks, "spots": {k: asdict(v) for k, v in row.spots.items()}}
                for row in s.rows
            ]}
            for s in found
        ],
        "notes": notes(suite, found),
    }  # fmt: skip


def themes(store: Store, suite: Suite) -> list[dict[str, Any]]:
    """Means over the prompts of each theme: part, metric as in the records, method, theme, value, prompts."""
    known = {(p.name, q.id): theme(q) for p in suite.parts for q in p.prompts.prompts}
    if not any(known.values()):
        return []
    listed = ", ".join(f"({text(part)}, {text(prompt)}, {text(of)})" for (part, prompt), of in known.items() if of)
    names = ("part", "metric", "protocol", "method", "theme", "value", "prompts")
    rows = query(store, f"""
        with themed(part, prompt_id, theme) as (values {listed})
        select part, metric, protocol, method, theme, {mean("value", "prompt_id")}, count(*)
        from pairs join themed using (part, prompt_id)
        where suite_digest = {text(suite.digest)} and protocol <> 'cost' group by all order by all""")[1]  # fmt: skip
    shown = {name for use in suite.metrics for name in list(use.metric.values)[:1]}
    return [dict(zip(names, row)) for row in rows if row[1] in shown]


def comparisons(store: Store, suite: Suite, methods: Sequence[str], step: Step = lambda: None) -> dict[str, Any]:
    """Every two methods, B against A, number by number, as :func:`bench.analysis.compare.compare` finds them.

    Distances between sets are left to ``scrollbench compare``: their intervals take minutes each.

    Returns:
        ``pairs``, a row for each comparison; ``values``, part -> metric -> method -> prompt -> number, of which a page
        makes the gain of a prompt: b - a where higher is better or nothing is, a - b where lower is. Where closest to
        0 or 1 is best that cannot be, and the row has ``gains``, prompt -> gain.
    """
    wanted = [m for m in measures(suite) if not m.of_set]
    sides: dict[str, Side] = {}
    for label in methods:
        try:
            sides[label] = labelled(store, suite, label)
        except ScrollBenchError:  # two versions of a method: the notes of the board say so
            continue
    numbers = {label: read(side, wanted) for label, side in sides.items()}
    rows: list[dict[str, Any]] = []
    values: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for a, b in combinations(sides, 2) if wanted else ():
        pair = compare(store, suite, sides[a], sides[b], [m.name for m in wanted], lambda side, _: numbers[side.name])
        for c in pair.comparisons:
            row = {
                "a": a, "b": b, "part": c.part, "metric": c.measure.name, "direction": c.measure.direction,
                "unit": c.measure.unit, "mean_a": c.a, "mean_b": c.b, "gain": c.gain and asdict(c.gain),
                "adjusted": c.adjusted, "detectable": c.detectable, "said": c.said, "note": c.note,
            }  # fmt: skip
            if c.measure.direction in ("zero", "one"):
                row["gains"] = {p.prompt_id: p.gain for p in c.losses}
            rows.append(row)
            by = values.setdefault(c.part, {}).setdefault(c.measure.name, {})
            for p in c.losses:
                by.setdefault(a, {})[p.prompt_id] = p.a
                by.setdefault(b, {})[p.prompt_id] = p.b
        step()
    return {"pairs": rows, "values": values}


def claims(store: Store, suite: Suite) -> list[dict[str, Any]]:
    """Papers' tables beside this suite: those it follows, and those of whose orders it has measured one or more."""
    found = []
    labels = {m.label.lower() for m in suite.methods}
    for table in tables().values():
        if len(table.blocks) != 1:
            continue
        if table.suite != suite.name and len(labels & {m.lower() for m in table.blocks[0].methods}) < 2:
            continue  # no order of theirs can have been measured here
        try:
            held = reproduce(table, suite, store)
        except ScrollBenchError:
            continue
        if table.suite != suite.name and not any(row.gain is not None for row in held.orders):
            continue
        found.append({
            "table": held.table, "title": table.title, "paper": table.paper_title, "part": held.part,
            "follows": table.suite == suite.name, "differs": list(held.differs),
            "values": [
                {"method": r.claim.method, "metric": r.claim.metric, "direction": r.claim.direction,
                 "printed": r.claim.printed, "claimed": r.claim.number, "column": r.column,
                 "measured": r.measured and r.measured.value, "interval": r.measured and r.measured.interval,
                 "verdict": r.verdict.verdict, "why": r.verdict.why} for r in held.values
            ],
            "orders": [
                {"metric": r.order.metric, "better": r.order.better, "worse": r.order.worse, "column": r.column,
                 "gain": r.gain, "interval": r.interval, "prompts": r.prompts, "verdict": r.verdict.verdict,
                 "why": r.verdict.why} for r in held.orders
            ],
            "agreement": [asdict(a) for a in held.agreement],
        })  # fmt: skip
    return found


def validity(store: Store, suite: Suite) -> dict[str, Any]:
    """How the numbers respond: to what the suite varies (``knobs``), and along the panorama (``along``)."""
    try:
        knobs = points(store, suite)
    except ScrollBenchError:  # the suite varies nothing, or nothing of it is scored
        knobs = []
    names = ("part", "metric", "extractor", "view", "method", "index", "value", "pictures")
    rows = query(store, f"""
        select part, metric, extractor, view, method, "index", {mean("value", "prompt_id, seed")}, count(value)
        from curve where suite_digest = {text(suite.digest)} and value is not null
        group by part, metric, extractor, view, method, "index" order by all""")[1]  # fmt: skip
    return {"knobs": knobs, "along": [dict(zip(names, row)) for row in rows]}


def costs(store: Store, suite: Suite) -> list[dict[str, Any]]:
    """Mean costs of a picture by part and method, the stages too; None where a picture does not say it."""
    names = ("part", "method", "pictures", "seconds", "nfe", "peak_bytes")
    where = f"where suite_digest = {text(suite.digest)} and image_id is not null"
    averages = ", ".join(mean(column, "prompt_id, seed") for column in names[3:])
    rows = query(store, f"select part, method, count(*), {averages} from picture {where} group by 1, 2 order by 1, 2")[
        1
    ]
    stages = query(store, f"""
        select p.part, p.method, i.stages from picture p join image i using (recipe_id)
        where p.suite_digest = {text(suite.digest)} and i.stages is not null
        order by p.prompt_id, p.seed""")[1]  # fmt: skip
    spent: dict[tuple[str, str], list[dict[str, float]]] = {}
    for part, method, found in stages:
        spent.setdefault((part, method), []).append(json.loads(found) or {})
    made = []
    for row in rows:
        fields, own = dict(zip(names, row)), spent.get((row[0], row[1]), [])
        keys = list(dict.fromkeys(key for stage in own for key in stage))
        made.append(fields | {"stages": {k: sum(stage.get(k, 0.0) for stage in own) / len(own) for k in keys}})
    return made


def along(store: Store, suite: Suite) -> dict[str, dict[str, list[list[Any]]]]:
    """Scores along every picture: ``image -> "metric@view" -> [[index, value], ...]``, for those with a place."""
    rows = query(store, f"""
        select distinct p.image_id, c.metric, c.view, c."index", c.value
        from curve c join picture p using (suite_digest, part, method, prompt_id, seed)
        where c.suite_digest = {text(suite.digest)} and p.image_id is not null
            and c.metric not in (select name from reading where direction = 'none')
        order by all""")[1]  # fmt: skip
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for image, metric, view, index, value in rows:
        found.setdefault(image, {}).setdefault(f"{metric}@{view}", []).append([index, value])
    return found
