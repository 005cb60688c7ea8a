"""Planted defects: a small table on renders, with what must be seen, what must not be blamed, and margins too wide."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are not part of the package

from bench.analysis.columns import measures
from bench.suites.load import load_suite
from benchmarks import planted
from benchmarks.defects import GIVEN, NULLS, OTHERS, Drawn
from benchmarks.planted import Bench, Numbers, Shelf, draw, floors, tables

PLAIN = ("colour-yellow", "colour-red", "colour-light", "twin")  # numbers that need no network
PROMPTS = 24


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    suite = load_suite("miniature-gate")
    shelf = Shelf(tmp_path_factory.mktemp("planted"), suite, "world-truth")
    draw(shelf, PROMPTS)
    numbers, prompts = Numbers(shelf, measures(suite, PLAIN)), shelf.prompts[:PROMPTS]
    base, *others = (
        [numbers.of(rgb, p) for rgb, p in zip(shelf.read(f"seed-{seed}", prompts), prompts, strict=True)]
        for seed in (planted.BASE, *planted.SEEDS[2:])
    )
    return Bench(shelf, numbers, floors(numbers.wanted, base, others))


def caught(bench: Bench, name: str) -> set[str]:
    verdicts, by = bench.defect((GIVEN | OTHERS)[name], PROMPTS, PROMPTS)  # type: ignore[operator]
    return set(by) if verdicts["caught"] else set()


def test_defects_are_caught_by_the_numbers_made_for_them_and_by_none_with_wide_margins(bench: Bench) -> None:
    assert caught(bench, "right half mirrors the left") == {"twin"}
    assert "empty pictures" in caught(bench, "two flat pictures")
    assert caught(bench, "10 % bluer towards the right edge") == {"colour-yellow"}
    wide = replace(bench, margins=dict.fromkeys(PLAIN, 100.0))
    assert caught(wide, "right half mirrors the left") == set()
    assert caught(wide, "two flat pictures") == {"empty pictures"}


def test_what_has_no_defect_is_not_blamed_and_the_same_pictures_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "REPEATS", 2)
    seeds = [f"seed-{s}" for s in planted.SEEDS]
    for name in ("another seed", "the same noise, a level more or less in places"):
        assert not bench.null(NULLS[name], PROMPTS, seeds)[0]["caught"]
    red = lambda d: [np.minimum(rgb + np.array([40, 0, 0]), 255).astype(np.uint8) for rgb in d.sets["plain"]]  # noqa: E731
    assert bench.null(red, PROMPTS, seeds)[0] == {"caught": 2}  # the control


def test_candidates_change_what_they_say_and_nothing_else(bench: Bench) -> None:
    prompts = bench.shelf.prompts[:PROMPTS]
    plain = bench.shelf.read(f"seed-{planted.OTHER}", prompts)
    d = Drawn([p.id for p in prompts], {"plain": plain, "same": plain, "early": [255 - rgb for rgb in plain]})
    changed = {
        name: sum((a != b).any() for a, b in zip(candidate(d), plain, strict=True))
        for name, candidate in (GIVEN | OTHERS | NULLS).items()  # type: ignore[operator]
        if name not in ("guidance 1", "half the steps")
    }
    assert changed.pop("another seed") == 0
    assert changed.pop("two flat pictures") == 2
    assert changed.pop("one prompt in ten has another's picture") == 4
    assert min(changed.values()) >= PROMPTS - 3
    (half,) = [c(d) for n, c in GIVEN.items() if n.startswith("a square lacks")]
    assert {int((a != b).any((0, 2)).sum()) for a, b in zip(half, plain, strict=True)} == {32}


def test_what_was_not_drawn_is_said_to_be_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted, "REPEATS", 1)
    monkeypatch.setattr(planted, "OTHERS", {})
    monkeypatch.setattr(planted, "NULLS", {})
    (_, rows), *_ = tables(bench, PROMPTS, [PROMPTS])
    told = {row["tried first"]: row[f"{PROMPTS} prompts"] for row in rows}
    assert told["guidance 1"] == told["half the steps"] == "not drawn"
    assert told["right half mirrors the left"] == "caught 1/1"
