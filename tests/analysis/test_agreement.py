"""Board, leaderboard, ``compare``, ``reproduce`` and gates give one answer on the same store, whatever is in it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest

from bench.analysis.board import sections
from bench.analysis.claims import COLUMNS, find_table
from bench.analysis.compare import compare
from bench.analysis.gate import gate
from bench.analysis.reproduce import OPEN, REPRODUCED, reproduce
from bench.stats.means import swap_test
from bench.store import Store
from bench.store.index import NAME, build_file, query
from bench.types import Canvas, Prompt
from tests.support.handmade import DIGEST, Hand

NUMBERS = {"gsd-dino": "lower", "sharpness": "higher"}
INDEX = """
[papers]
tiny = { title = "Tiny", own = "m0" }
["tiny:table1"]
title = "Table 1"
suite = "tiny"
columns = { GSD = ["gsd-dino"] }
"""


def random_store(folder: Path, seed: int, prompts: int) -> tuple[Any, Store, list[str]]:
    """Two to four methods from equal to far apart, on prompts that differ; two numbers."""
    rng = np.random.default_rng(seed)
    methods = [f"m{i}" for i in range(int(rng.integers(2, 5)))]
    hard, hand = rng.normal(0, 1, prompts), Hand()
    made = Namespace(
        ref="tiny@1", name="tiny", title="Tiny", tier="miniature", shrunk=False, digest=DIGEST, backbone="world-sd",
        seeds=(0,), unavailable=(), spec=Namespace(protocol=None),
        parts=(Namespace(name="4to1", canvas=Canvas(128, 32), prompts=Namespace(
            prompts=tuple(Prompt(f"p{i:02}", "x") for i in range(prompts)))),),
        methods=[Namespace(label=m, backbone="world-sd") for m in methods],
        metrics=[Namespace(
            ref=name, label=name, view="tiles", extractor="world-vit", reference=None, params={},
            metric=Namespace(name=name, values={name: way}, unit="", range=(None, None), scope="image"))
            for name, way in NUMBERS.items()],
    )  # fmt: skip
    made.whole = made
    for label in methods:
        shift, noise = rng.choice([0.0, 0.3, 1.0], 2), rng.normal(0, 0.3, (2, prompts))
        for i in range(prompts):
            image = hand.image(hand.member(label, f"p{i:02}"))
            for k, name in enumerate(NUMBERS):
                hand.score(image, [[name, None, float(hard[i] + shift[k] + noise[k, i])]], metric=name)
    for name, way in NUMBERS.items():
        hand.add("column", suite_digest=DIGEST, label=name, name=name, metric=name, extractor="world-vit", view="tiles",
                 reference=None, params={}, direction=way, numbers=2, least=None, most=None)  # fmt: skip
    build_file(hand.records, folder / NAME)
    return made, Store(folder), methods


def claimed(folder: Path, methods: list[str]) -> Any:
    """A table that prints the methods in their order."""
    (folder / "published").mkdir()
    lines = [f"tiny,table1,{m},GSD,0.{i + 1},,lower,,32x128,,,paper,here" for i, m in enumerate(methods)]
    (folder / "published" / "tiny.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
    (folder / "published" / "tables.toml").write_text(INDEX, encoding="utf-8")
    return find_table("tiny:table1", folder / "published")


@pytest.mark.parametrize(("seed", "prompts"), [(1, 9), (5, 24)])
def test_five_ways_to_ask_give_one_answer(tmp_path: Path, seed: int, prompts: int) -> None:
    suite, store, methods = random_store(tmp_path, seed, prompts)
    (section,) = sections(store, suite)
    spots = {(row.line.method, name): row.spots[name] for row in section.rows for name in NUMBERS}
    board = query(store, 'select method, label, low, high, "group", rank_low, rank_high from leaderboard')[1]
    for method, label, low, high, group, first, last in board:
        if label in NUMBERS:
            spot = spots[method, label]
            assert (low, high) == (pytest.approx(spot.low), pytest.approx(spot.high))
            assert (group or "", (first, last)) == (spot.group, spot.ranks or (None, None))
    orders = {(r.order.better, r.order.worse): r for r in reproduce(claimed(tmp_path, methods), suite, store).orders}
    assert set(orders) == set(combinations(methods, 2))
    for (a, b), order in orders.items():
        result = gate(store, suite, a, b, dict.fromkeys(NUMBERS, 0.0))
        for c, check in zip(compare(store, suite, a, b).comparisons, result.checks, strict=True):
            one, other = spots[a, c.measure.name], spots[b, c.measure.name]
            told = bool(one.group) and not set(one.group) & set(other.group)
            assert (c.said != "not shown") == told
            assert bool(one.group) == (prompts >= section.family.least)
            assert c.gain is not None
            assert check.comparison.adjusted == c.adjusted
            if told:
                best, worst = (one, other) if c.said == "worse" else (other, one)
                assert best.ranks is not None
                assert worst.ranks is not None
                assert best.ranks[1] < worst.ranks[1]
                assert best.ranks[0] < worst.ranks[0]
                assert not worst.best
                assert check.verdict != ("pass" if c.said == "worse" else "regressed")
            if c.measure.name == "gsd-dino":
                assert order.corrected == pytest.approx(c.adjusted)
                assert (order.verdict.verdict != OPEN) == told
                assert (order.verdict.verdict == REPRODUCED) == (c.said == "worse")
    assert section.family.tests == len(NUMBERS) * len(orders)
    d = np.random.default_rng(0).normal(0.1, 1, 25)
    unordered = swap_test(d, 999), swap_test(d[::-1], 999)
    assert unordered[0] != unordered[1]  # negative control: in another order of prompts the swaps are others
