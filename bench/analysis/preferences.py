"""Preferences: pictures of one prompt ranked by a score, and pairs of them, from what a store holds.

Nothing is made or scored here: pictures and scores are those of a run. A **group** is all pictures of one prompt of one
part: of every chosen method and seed. Its pictures are ranked; the best and the worst are a **pair** (PROPOSAL: DRSPO's
text does not say which of its six pictures it pairs), or every two are, or every two of one method, so that a network
learns from its own pictures alone; pairs closer than ``gap`` are dropped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import belongs, measures, run_command, text
from bench.errors import UsageError, near
from bench.store.commit import write_file
from bench.store.engine import cursor
from bench.store.index import NAME, query
from methods.training.preferences import CARD, IMAGES, PAIRS, PICTURES, Pair

if TYPE_CHECKING:
    from bench.analysis.columns import Measure
    from bench.store import Store
    from bench.suites.suite import Suite

GAP = 0.2  # PROPOSAL, on LAION's scale of 1 to 10
PAIRINGS = ("extremes", "all", "seeds")


@dataclass(frozen=True)
class Shot:
    """A picture with its score; ``rank`` 1 is the best of its group, equal scores share the better rank."""

    part: str
    prompt_id: str
    prompt: str
    negative: str
    width: int
    height: int
    method: str
    seed: int
    image_id: str
    score: float
    rank: int = 0


def build(
    store: Store, suite: Suite, out: Path, score: str, *, gap: float = GAP, pairing: str = "extremes"
) -> dict[str, Any]:
    """Write the preferences of a suite's pictures: groups with ranks, pairs, their pictures, and a card.

    Args:
        suite: with the methods, prompts and seeds to take.
        score: a number of one of the suite's metrics, by its name on the board.
        gap: least difference of a pair's scores.
        pairing: the ``extremes`` of each group, ``all`` two of it, or all two of one method (``seeds``).

    Returns:
        the card, as written.

    Raises:
        UsageError: a score of whole sets or without a direction, one method only, too few scored pictures, gaps that
            are all too small, a folder in use; each with what to do.
        StoreError: no index yet, or pictures that are damaged.
    """
    measure = _measure(suite, score)
    _check(suite, out, gap, pairing)
    shots = ranked(_shots(store, suite, measure), measure.direction)
    groups = grouped(shots)
    full = {key: group for key, group in groups.items() if _comparable(group, pairing)}
    if not full:
        raise UsageError(_too_few(suite, measure, shots, pairing))
    made = [pair for group in full.values() for pair in paired(group, pairing)]
    pairs = [pair for pair in made if pair.gap >= gap]
    if not made:
        raise UsageError(f"the pictures of every prompt are equal in {score}: give other methods, or another --score")
    if not pairs:
        raise UsageError(
            f"all {len(made)} pairs differ by less than {gap:g} in {score} (the largest by "
            f"{max(p.gap for p in made):.3g}): give a smaller --gap, or more seeds or methods"
        )
    wanted = len(suite.methods) * len(suite.seeds)
    card = _card(suite, measure, shots, full, made, pairs, gap, pairing) | {
        "groups": len(full), "incomplete_groups": sum(len(g) < wanted for g in full.values()),
        "left_out_groups": len(groups) - len(full),
    }  # fmt: skip
    write(store, out, shots, pairs, card)
    return card


def _measure(suite: Suite, score: str) -> Measure:
    (found,) = measures(suite, [score])
    if found.of_set or found.use is None or found.direction not in ("higher", "lower"):
        fit = [m.name for m in measures(suite) if m.use and not m.of_set and m.direction in ("higher", "lower")]
        raise UsageError(
            f"{score} ranks no pictures: it is of whole sets, a cost, or neither better higher nor lower; "
            f"{near(score, fit)}"
        )
    return found


def _check(suite: Suite, out: Path, gap: float, pairing: str) -> None:
    if pairing not in PAIRINGS:
        raise UsageError(f"unknown pairing {pairing!r}; {near(pairing, PAIRINGS)}")
    if not gap >= 0:
        raise UsageError(f"gap must be 0 or more, got {gap:g}")
    if pairing == "seeds":
        if len(suite.seeds) < 2:
            raise UsageError(f"pairing seeds takes two seeds or more of suite {suite.ref}: give --seed 0 --seed 1")
    elif len(suite.methods) < 2:
        raise UsageError(
            f"preferences compare methods, and {suite.methods[0].label if suite.methods else 'none'} is the only one "
            f"chosen of suite {suite.ref}: name two or more with --method, or leave --method out; "
            "--pairing seeds takes a method's own pictures"
        )
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; preferences want a folder of their own: choose another --out")


def _shots(store: Store, suite: Suite, measure: Measure) -> list[Shot]:
    """Every scored picture of the suite's methods and seeds."""
    if not (store.root / NAME).exists():
        raise UsageError(f"nothing is scored in {store.root}: {run_command(suite)} comes first")
    assert measure.use is not None
    labels = ", ".join(text(m.label) for m in suite.methods)
    names, rows = query(
        store,
        f"""
        select o.part, o.prompt_id, r.prompt, r.negative, r.width, r.height, o.method, o.seed, o.image_id, o.value,
               p.extractor, p.view, p.reference, p.params
        from observation o join recipe r using (recipe_id) join protocol p using (protocol)
        where o.suite_digest = {text(suite.digest)} and o.tier = {text(suite.tier)} and o.metric = {text(measure.value)}
              and p.metric = {text(measure.use.metric.name)} and o.method in ({labels}) and o.value is not null
        order by o.part, o.prompt_id, o.method, o.seed""",
    )
    found = []
    for row in rows:
        told = dict(zip(names, row))
        if belongs(told, measure.use):
            own = {name: told[name] for name in names[:9]}
            found.append(Shot(**{**own, "negative": told["negative"] or "", "score": float(told["value"])}))
    return found


def _too_few(suite: Suite, measure: Measure, shots: Sequence[Shot], pairing: str) -> str:
    have = Counter(s.method for s in shots)
    told = ", ".join(f"{m.label} {have[m.label]}" for m in suite.methods)
    lacks = "two pictures of a method" if pairing == "seeds" else "pictures of two methods"
    return (
        f"no prompt has {lacks} with {measure.name} (scored pictures: {told}): {run_command(suite)} "
        f"with the same --method, --seed and --limit makes and scores what is missing"
    )


def _comparable(group: Sequence[Shot], pairing: str) -> bool:
    """Whether a group holds two pictures that the pairing may put together."""
    methods = {s.method for s in group}
    return len(group) > len(methods) if pairing == "seeds" else len(methods) > 1


def grouped(shots: Iterable[Shot]) -> dict[tuple[str, str], list[Shot]]:
    """Pictures by part and prompt."""
    found: dict[tuple[str, str], list[Shot]] = {}
    for shot in shots:
        found.setdefault((shot.part, shot.prompt_id), []).append(shot)
    return found


def ranked(shots: Iterable[Shot], direction: str) -> list[Shot]:
    """The same pictures with their ranks, each group's best first."""
    sign = -1 if direction == "higher" else 1
    done = []
    for group in grouped(shots).values():
        for shot in sorted(group, key=lambda s: (sign * s.score, s.method, s.seed)):
            rank = 1 + sum(sign * other.score < sign * shot.score for other in group)
            done.append(Shot(**{**asdict(shot), "rank": rank}))
    return done


def paired(group: Sequence[Shot], pairing: str) -> list[Pair]:
    """The pairs of one ranked group; a picture is no pair with an equal one."""
    chosen = [(group[0], group[-1])] if pairing == "extremes" else combinations(group, 2)
    wanted = ((a, b) for a, b in chosen if pairing != "seeds" or a.method == b.method)
    return [_pair(a, b) for a, b in wanted if a.rank < b.rank and a.image_id != b.image_id]


def _pair(best: Shot, worst: Shot) -> Pair:
    return Pair(
        best.part, best.prompt_id, best.prompt, best.negative, best.width, best.height, best.image_id, worst.image_id,
        best.method, worst.method, best.seed, worst.seed, best.score, worst.score,
    )  # fmt: skip


def _card(
    suite: Suite,
    measure: Measure,
    shots: Sequence[Shot],
    full: dict[tuple[str, str], list[Shot]],
    made: Sequence[Pair],
    pairs: Sequence[Pair],
    gap: float,
    pairing: str,
) -> dict[str, Any]:
    assert measure.use is not None
    gaps = np.quantile([p.gap for p in pairs], (0.1, 0.5, 0.9))
    return {
        "suite": suite.ref, "suite_digest": suite.digest, "tier": suite.tier, "score": measure.name,
        "metric": measure.use.metric.name, "extractor": measure.use.extractor, "view": measure.use.view,
        "direction": measure.direction, "methods": [m.label for m in suite.methods], "seeds": list(suite.seeds),
        "pairing": pairing, "gap": gap, "pictures": len(shots), "pairs": len(pairs),
        "dropped_below_gap": len(made) - len(pairs), "gaps_10_50_90": [round(float(q), 4) for q in gaps],
        "won": dict(sorted(Counter(p.winner_method for p in pairs).items())),
        "lost": dict(sorted(Counter(p.loser_method for p in pairs).items())),
    }  # fmt: skip


def write(store: Store, out: Path, shots: Sequence[Shot], pairs: Sequence[Pair], card: dict[str, Any]) -> None:
    """Pictures first, the card last: a folder with a card is whole."""
    for image in sorted({i for p in pairs for i in (p.winner, p.loser)}):
        store.read_image(image)  # checked
        there = out / IMAGES / f"{image}.png"
        there.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(store.image_path(image), there)
        except OSError:  # another disk
            shutil.copyfile(store.image_path(image), there)
    _parquet(out / PICTURES, [asdict(s) for s in shots])
    _parquet(out / PAIRS, [{**asdict(p), "gap": p.gap} for p in pairs])
    write_file(out / CARD, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())


def _parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    kinds = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}
    columns = ", ".join(f'"{name}" {kinds[type(value)]}' for name, value in rows[0].items())
    with cursor() as con:
        con.execute(f"create temp table rows ({columns})")
        con.executemany(f"insert into rows values ({', '.join('?' * len(rows[0]))})", [list(r.values()) for r in rows])
        con.table("rows").write_parquet(str(path))
