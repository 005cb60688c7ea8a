"""What was measured of a sampler on a suite, read from the leaderboard: its pictures, its numbers, its features.

A sampler is named by a digest of all that decides its pictures apart from the question asked: method, version, source,
knobs, backbone and its adapter, weights, precision. A label on the board moves when the code under it changes; the
digest does not, and older pictures are found by it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.analysis.columns import COMPARED, belongs, seen_by, text
from bench.errors import IncompleteError, UsageError, near
from bench.pipeline.plan import SAMPLER, sampler_digest
from bench.store.index import query
from bench.store.tables import MATCH, mean

if TYPE_CHECKING:
    from bench.analysis.columns import Measure
    from bench.store import Store
    from bench.suites.suite import Suite

Key = tuple[str, int]  # prompt id, seed


@dataclass(frozen=True)
class Shot:
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
    cells: Mapping[tuple[str, str, int], Shot]
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
    sql = f"""select part, prompt_id, seed, recipe_id, image_id, {", ".join(COMPARED)}, asked, turn
        from picture where {where}"""
    found = _samplers(store, f"where recipe_id in (select recipe_id from member where {where})")
    if not found:
        known = query(store, f"select distinct method from member where suite_digest = {text(suite.digest)}")[1]
        raise UsageError(
            f"no pictures of {label!r} on suite {suite.ref} ({suite.digest[:8]}) in {store.root}; "
            f"{near(label, [row[0] for row in known])}; "
            f"`scrollbench run {suite.command} --method {label}` makes them"
        )
    if len(found) > 1:
        raise IncompleteError(
            f"the pictures of {label!r} are of {len(found)} versions of it; `scrollbench generate {suite.command} "
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
    sql = f"""select p.part, r.prompt_id, r.seed, r.recipe_id, i.image_id, {", ".join(f"i.{c}" for c in COMPARED)},
               m.asked, m.turn
        from recipe r join part p on p.width = r.width and p.height = r.height and p.loop = r.loop
        left join image i using (recipe_id)
        left join (select distinct suite_digest, part, prompt_id, seed, asked, turn from member) m
            on m.suite_digest = p.suite_digest and m.part = p.part and m.prompt_id = r.prompt_id and m.seed = r.seed
        where p.suite_digest = {text(suite.digest)} and {same}"""
    asked = {(p.name, q.id) for p in suite.parts for q in p.prompts.prompts}
    cells = {key: c for key, c in _cells(store, sql).items() if key[:2] in asked and c.seed in suite.seeds}
    return Side(store, suite.digest, name, matching[0], cells, sql)


def of_seed(side: Side, seed: int) -> Side:
    """The pictures of one seed."""
    sql = f"select * from ({side.sql}) where seed = {seed}"
    return replace(side, cells=_cells(side.store, sql), sql=sql)


def reseeded(side: Side, offset: int) -> Side:
    """The same pictures under seeds ``offset`` lower, to be paired with those of other seeds."""
    sql = f"select part, prompt_id, seed - {offset} as seed, * exclude (part, prompt_id, seed) from ({side.sql})"
    return replace(side, cells=_cells(side.store, sql), sql=sql)


def _samplers(store: Store, where: str) -> list[dict[str, Any]]:
    rows = query(store, f"select distinct {', '.join(SAMPLER)} from recipe {where}")[1]
    return [{**(row := dict(zip(SAMPLER, r))), "params": json.loads(row["params"] or "{}"), "said": row["params"]}
            for r in rows]  # fmt: skip


def _cells(store: Store, sql: str) -> dict[tuple[str, str, int], Shot]:
    rows = query(store, sql)[1]
    return {(r[0], r[1], r[2]): Shot(r[0], r[1], r[2], r[3], r[4], dict(zip(COMPARED, r[5:]))) for r in rows}


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
                    when count(s.value) = count(*) then {mean("s.value", 's."index"')} end
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
    same = {"metric": use.metric.name, **seen_by(use)}
    where = " and ".join(f"{k} is not distinct from {text(v)}" for k, v in same.items())
    columns, rows = query(
        side.store,
        f"""
        select p.*, s.pictures from protocol p join standing s using (protocol)
        where s.shown and s.suite_digest = {text(side.suite_digest)} and {where} order by s.pictures desc, protocol""",
    )
    found = [dict(zip(columns, row)) for row in rows]
    return next((p for p in found if belongs(p, use)), None)


# -- pictures that show nothing

NOTHING = ("nan", "black", "flat")  # flags of pictures
TWICE = "equal to another prompt's"

Cell = tuple[str, str, int]  # part, prompt id, seed


@dataclass(frozen=True)
class Degenerate:
    """How many pictures of each side show nothing; a candidate fails where its share is above the baseline's.

    ``worst`` are the candidate's that the baseline has not: part, prompt, why, picture.
    """

    baseline: int
    candidate: int
    pictures: tuple[int, int]  # made, of each side
    worst: tuple[tuple[str, str, str, str], ...]

    @property
    def verdict(self) -> str:
        """``regressed`` or ``pass``."""
        old, new = self.pictures
        return "regressed" if self.candidate * max(1, old) > self.baseline * max(1, new) else "pass"

    @property
    def message(self) -> str:
        """One sentence."""
        old, new = self.pictures
        said = (
            f"{self.candidate} of {new} pictures show nothing (not finite, black, flat, or equal to another prompt's)"
        )
        return f"{said}; of the baseline's {self.baseline} of {old}"


def degenerate(baseline: Side, candidate: Side, worst: int = 3) -> Degenerate:
    """Count both sides' pictures that show nothing. Reads the leaderboard."""
    old, new = (_found(side) for side in (baseline, candidate))
    fresh = [cell for cell in new if cell not in old][:worst]
    places = tuple(
        (part, prompt, new[part, prompt, seed], _path(candidate, (part, prompt, seed))) for part, prompt, seed in fresh
    )
    made = [sum(c.image_id is not None for c in side.cells.values()) for side in (baseline, candidate)]
    return Degenerate(len(old), len(new), (made[0], made[1]), places)


def _path(side: Side, cell: Cell) -> str:
    image_id = side.cells[cell].image_id
    return str(side.store.image_path(image_id)) if image_id else ""


def _found(side: Side) -> Mapping[Cell, str]:
    """Cell -> why its picture shows nothing."""
    if not side.cells:
        return {}
    flagged = query(side.store, f"""
        with cell as ({side.sql})
        select distinct c.part, c.prompt_id, c.seed, i.flags
        from cell c join image i using (recipe_id)""")[1]  # fmt: skip
    flags = {(part, prompt, seed): of or [] for part, prompt, seed, of in flagged}
    prompts: dict[tuple[str, str], set[str]] = {}
    for (part, prompt, _), shot in side.cells.items():
        if shot.image_id is not None:
            prompts.setdefault((part, shot.image_id), set()).add(prompt)
    found = {}
    for cell, shot in sorted(side.cells.items()):
        nothing = [flag for flag in flags.get(cell, ()) if flag in NOTHING]
        if shot.image_id is not None and (nothing or len(prompts[cell[0], shot.image_id]) > 1):
            found[cell] = ", ".join(nothing) or TWICE
    return found
