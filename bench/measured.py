"""What was measured of a sampler on a suite, read from the leaderboard: its pictures, its numbers, its features.

A sampler is named by a digest of all that decides its pictures apart from the question asked: method, version, source,
knobs, backbone and its adapter, weights, precision. A label on the board moves when the code under it changes; the
digest does not, and older pictures are found by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import views
from bench.board import network_name
from bench.errors import IncompleteError, StoreError, UsageError, near
from bench.features import Features
from bench.index import query
from bench.plan import SAMPLER
from bench.plan import sampler_digest as sampler_digest
from bench.scoring import reference
from bench.suite_file import default_label
from bench.tables import MATCH

if TYPE_CHECKING:
    from bench.stats import Array
    from bench.store import Store
    from bench.suite import MetricUse, Suite

COSTS = {"nfe": "evaluations", "peak_bytes": "bytes"}  # seconds are compared by bench.speed alone
Key = tuple[str, int]  # prompt id, seed


@dataclass(frozen=True)
class Measure:
    """A number to compare: ``name`` is what the board calls it, ``value`` its name in the records."""

    name: str
    value: str
    direction: str  # lower, higher, zero, one (closest is best) or none
    unit: str
    use: MetricUse | None  # None: a cost

    @property
    def of_set(self) -> bool:
        """Whether it is one number of all pictures together."""
        return self.use is not None and self.use.metric.scope == "set"

    def loss(self, value: float) -> float:
        """The number oriented so that less is better."""
        return {"higher": -value, "zero": abs(value), "one": abs(value - 1)}.get(self.direction, value)


def known(suite: Suite) -> dict[str, Measure]:
    """Every number that can be compared: the first of each metric by its name on the board, then others, then costs."""
    firsts: dict[str, Measure] = {}
    others: dict[str, Measure] = {}
    for use in suite.metrics:
        first, *rest = use.metric.values.items()
        label = first[0] if use.label == default_label(use.ref, None) else use.label
        firsts[label] = Measure(label, *first, use.metric.unit, use)
        others |= {name: Measure(name, name, way, use.metric.unit, use) for name, way in rest if name not in others}
    costs = {name: Measure(name, name, "lower", unit, None) for name, unit in COSTS.items()}
    return {**firsts, **{n: m for n, m in {**others, **costs}.items() if n not in firsts}}


def measures(suite: Suite, names: Iterable[str] = ()) -> list[Measure]:
    """The first number of each of the suite's metrics, as on the board; or those named (:func:`known`).

    Raises:
        UsageError: a name that no metric of the suite has; the message holds near misses.
    """
    have, wanted = known(suite), list(names)
    for name in wanted:
        if name == "seconds":
            raise UsageError("seconds of different hours do not compare; `scrollbench gate --speed 1.10` times both")
        if name not in have:
            raise UsageError(f"suite {suite.ref} measures no {name!r}; {near(name, have)}")
    if wanted:
        return [have[name] for name in wanted]
    first = {next(iter(use.metric.values)) for use in suite.metrics}
    return [m for m in have.values() if m.value in first]


@dataclass(frozen=True)
class Cell:
    """One picture a suite wants of a sampler; ``image_id`` is None where it is not made."""

    part: str
    prompt_id: str
    seed: int
    recipe_id: str
    image_id: str | None
    costs: Mapping[str, float | None]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        suite_digest: what it is measured on.
        name: how it was asked for.
        sampler: the ``SAMPLER`` fields; empty where nothing was ever planned.
        cells: (part, prompt id, seed) -> cell.
        sql: selects the cells in the leaderboard.
    """

    store: Store
    suite_digest: str
    name: str
    sampler: Mapping[str, Any]
    cells: Mapping[tuple[str, str, int], Cell]
    sql: str = field(repr=False)

    @property
    def digest(self) -> str:
        """Identity of the sampler."""
        return sampler_digest(self.sampler)

    def picture(self, part: str, prompt_id: str) -> str:
        """Path of a prompt's picture at its first seed; empty where there is none."""
        image_id = self._first.get((part, prompt_id))
        return str(self.store.image_path(image_id)) if image_id else ""

    @cached_property
    def _first(self) -> dict[tuple[str, str], str]:
        made = ((c.seed, c.part, c.prompt_id, c.image_id) for c in self.cells.values() if c.image_id)
        return {(part, prompt_id): image_id for _, part, prompt_id, image_id in sorted(made, reverse=True)}


def labelled(store: Store, suite: Suite, label: str) -> Side:
    """What the records hold of a label of the suite's board.

    Raises:
        UsageError: nothing was ever planned under that label; the message holds near misses.
        IncompleteError: its pictures are of two versions of a sampler.
    """
    where = f"suite_digest = {text(suite.digest)} and method = {text(label)}"
    sql = f"""select part, prompt_id, seed, recipe_id, image_id, {", ".join(COSTS)}, asked, turn
        from picture where {where}"""
    found = _samplers(store, f"where recipe_id in (select recipe_id from member where {where})")
    if not found:
        known = query(store, f"select distinct method from member where suite_digest = {text(suite.digest)}")[1]
        raise UsageError(
            f"no pictures of {label!r} on suite {suite.ref} ({suite.digest[:8]}) in {store.root}; "
            f"{near(label, [row[0] for row in known])} "
            f"`scrollbench run --suite {suite.name} --method {label}` makes them"
        )
    if len(found) > 1:
        raise IncompleteError(
            f"the pictures of {label!r} are of {len(found)} versions of it; `scrollbench generate --suite {suite.name} "
            f"--method {label}` makes them of one"
        )
    return Side(store, suite.digest, label, found[0], _cells(store, sql), sql)


def pinned(store: Store, suite: Suite, name: str, wanted: str) -> Side:
    """What the records hold of a sampler by its digest, whatever label it had. No cells where they hold nothing."""
    matching = [s for s in _samplers(store, "") if sampler_digest(s) == wanted]
    if not matching:
        return Side(store, suite.digest, name, {}, {}, "")
    fields = {**matching[0], "params": matching[0]["said"]}
    same = " and ".join(f"r.{f} is not distinct from {text(fields[f])}" for f in SAMPLER)
    sql = f"""select p.part, r.prompt_id, r.seed, r.recipe_id, i.image_id, {", ".join(f"i.{c}" for c in COSTS)},
               m.asked, m.turn
        from recipe r join part p on p.width = r.width and p.height = r.height and p.loop = r.loop
        left join image i using (recipe_id)
        left join (select distinct suite_digest, part, prompt_id, seed, asked, turn from member) m
            on m.suite_digest = p.suite_digest and m.part = p.part and m.prompt_id = r.prompt_id and m.seed = r.seed
        where p.suite_digest = {text(suite.digest)} and {same}"""
    asked = {(p.name, q.id) for p in suite.parts for q in p.prompts.prompts}
    cells = {key: c for key, c in _cells(store, sql).items() if key[:2] in asked and c.seed in suite.seeds}
    return Side(store, suite.digest, name, matching[0], cells, sql)


def reseeded(side: Side, offset: int) -> Side:
    """The same pictures under seeds ``offset`` lower, to be paired with those of other seeds."""
    sql = f"select part, prompt_id, seed - {offset} as seed, * exclude (part, prompt_id, seed) from ({side.sql})"
    return replace(side, cells=_cells(side.store, sql), sql=sql)


def text(value: Any) -> str:
    """A value as SQL text."""
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def _samplers(store: Store, where: str) -> list[dict[str, Any]]:
    rows = query(store, f"select distinct {', '.join(SAMPLER)} from recipe {where}")[1]
    return [{**(row := dict(zip(SAMPLER, r))), "params": json.loads(row["params"] or "{}"), "said": row["params"]}
            for r in rows]  # fmt: skip


def _cells(store: Store, sql: str) -> dict[tuple[str, str, int], Cell]:
    rows = query(store, sql)[1]
    return {(r[0], r[1], r[2]): Cell(r[0], r[1], r[2], r[3], r[4], dict(zip(COSTS, r[5:]))) for r in rows}


# -- numbers

Values = dict[str, dict[tuple[str, str, int], float | None]]  # measure -> cell -> number, None where undefined


def values(side: Side, wanted: Sequence[Measure]) -> Values:
    """One number a picture for each image measure and cost; a curve along the panorama counts by its mean.

    Cells without a score under the protocol that stands are absent: missing is not undefined.
    """
    found: Values = {m.name: {} for m in wanted if not m.of_set}
    chosen = {}
    for m in wanted:
        if m.use is None:
            found[m.name] = {k: c.costs[m.value] for k, c in side.cells.items() if c.image_id is not None}
        elif not m.of_set and (protocol := standing_protocol(side, m)):
            chosen[protocol["protocol"], m.value] = m.name
    if not chosen or not side.cells:
        return found
    pairs = ", ".join(f"({text(p)}, {text(n)})" for p, n in chosen)
    rows = query(side.store, f"""
        with cell as ({side.sql})
        select p.part, p.prompt_id, p.seed, s.protocol, s.name,
               case when count(*) filter (s."index" is null) > 0 then max(s.value) filter (s."index" is null)
                    when count(s.value) = count(*) then avg(s.value) end
        from score s join cell p on {MATCH}
        where (s.protocol, s.name) in ({pairs}) group by all""")[1]  # fmt: skip
    for part, prompt_id, seed, protocol, name, value in rows:
        if (part, prompt_id, seed) in side.cells:
            found[chosen[protocol, name]][part, prompt_id, seed] = value
    return found


def standing_protocol(side: Side, measure: Measure) -> dict[str, Any] | None:
    """The protocol by which a measure stands on the suite's board: a row of the table ``protocol``, or None."""
    use = measure.use
    assert use is not None
    same = {"metric": use.metric.name, "extractor": network_name(use.extractor), "view": use.view,
            "reference": use.reference}  # fmt: skip
    where = " and ".join(f"{k} is not distinct from {text(v)}" for k, v in same.items())
    columns, rows = query(
        side.store,
        f"""
        select p.*, s.pictures from protocol p join standing s using (protocol)
        where s.shown and s.suite_digest = {text(side.suite_digest)} and {where} order by s.pictures desc, protocol""",
    )
    found = [dict(zip(columns, row)) for row in rows]
    return next((p for p in found if json.loads(p["params"] or "{}") == dict(use.params)), None)


# -- features


class SetReader:
    """Stored features for one set measure: rows by prompt, and the reference sets beside them. Loads no network.

    ``caches`` holds what was opened, by folder, for the next reader.
    """

    def __init__(self, suite: Suite, side: Side, measure: Measure, caches: dict[Path, Features]) -> None:
        store = side.store
        self.suite, self.side, self.measure = suite, side, measure
        self.protocol = standing_protocol(side, measure)
        if self.protocol is None:
            raise StoreError(f"{measure.name} is not scored yet; `scrollbench score --suite {suite.name}` does it")
        fresh = (self.protocol["extractor"], self.protocol["extractor_digest"])
        folder = store.root / "features" / "-".join(fresh)
        self.cache = caches.setdefault(folder, caches.get(folder) or Features(folder.parent, *fresh))

    @property
    def use(self) -> MetricUse:
        """How the suite measures it."""
        assert self.measure.use is not None
        return self.measure.use

    def prompts(self, part: str) -> dict[str, Array]:
        """(crops of all seeds, d) of each prompt of a part whose pictures are all made. Raises ``StoreError``."""
        found: dict[str, Array] = {}
        (place,) = [p for p in self.suite.parts if p.name == part]
        asked = place.prompts.prompts
        for i, prompt in enumerate(asked):
            cells = [self.side.cells.get((part, prompt.id, seed)) for seed in self.suite.seeds]
            if any(c is None or c.image_id is None for c in cells):
                continue
            rows = []
            for s, cell in enumerate(cells):
                assert cell is not None
                drawn_by = views.drawn_by(self.use.view, prompt.id, s * len(asked) + i)
                kind = "logits:" if "logits" in self.use.metric.inputs else ""
                rows.append(self._stored((str(cell.image_id), kind + views.key(self.use.view, place.canvas, drawn_by))))
            found[prompt.id] = np.concatenate(rows).astype(np.float64)
        return found

    def beside(self) -> tuple[Array, ...]:
        """What the metric is handed beside the pictures: its reference, the base network's pictures."""
        named = {"reference": str(self.use.reference), "base": f"base-{self.side.sampler.get('backbone')}"}
        sets = []
        for name in (named[i] for i in self.use.metric.inputs if i in named):
            if name not in self.suite.references:
                raise StoreError(f"{self.measure.name}: there is no reference {name!r} in suite {self.suite.ref}")
            found = reference(name, self.suite, self.side.store)
            sets.append(found.features(_NoNetwork(self), self.use.view, self.cache).astype(np.float64))  # type: ignore[arg-type]
        return tuple(sets)

    def absent(self) -> Array:
        """Raises: comparing reads what scoring has kept, and computes no features."""
        raise StoreError(
            f"features for {self.measure.name} are not in {self.cache.folder}; "
            f"`scrollbench score --suite {self.suite.name}` computes them"
        )

    def _stored(self, key: tuple[str, str]) -> Array:
        return self.cache.get(key, self.absent)


class _NoNetwork:
    """Stands where a reference expects an extractor."""

    def __init__(self, reader: SetReader) -> None:
        self.embed = lambda crops: reader.absent()
