"""Votes are read with care, voters who do not look are told apart, and numbers are held against the others."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Namespace

import numpy as np
import pytest

from bench.analysis.votes import COLUMNS, Vote, judge_voters, read_votes, weigh
from bench.errors import UsageError
from bench.types import Prompt
from tests.support.gating import made

STRENGTH = {"best": 1.4, "good": 0.5, "poor": -0.5, "worst": -1.4}
DIGEST = "d" * 24


def voter(name: str, rng: np.random.Generator, honest: bool = True, votes: int = 60, checks: bool = True) -> list[Vote]:
    """A cheater answers by chance."""
    mine = []
    for trial in range(1, votes + 1):
        left, right = map(str, rng.choice(list(STRENGTH), 2, replace=False))
        kind = "check" if checks and trial % 10 == 0 else "pair"
        if kind == "check":
            left = "spoiled"
        chance = 1 / (1 + np.exp(STRENGTH[right] - STRENGTH.get(left, -9.0)))
        answer = "left" if rng.random() < (chance if honest else 0.5) else "right"
        mine.append(Vote(name, trial, kind, "p", f"q{rng.integers(30)}", 0, left, right, answer, DIGEST))
    return mine


@pytest.mark.parametrize("checks", [True, False])
def test_of_ten_voters_the_one_who_votes_by_chance_is_told_apart(checks: bool) -> None:
    rng = np.random.default_rng(1)
    honest = [v for i in range(9) for v in voter(f"v{i}", rng, checks=checks)]
    judged = judge_voters([*honest, *voter("cheater", rng, honest=False, checks=checks)])
    assert [v.name for v in judged if v.doubts] == ["cheater"]
    told = next(v for v in judged if v.name == "cheater")
    assert told.surprise is not None
    assert told.surprise < -3
    assert not any(v.doubts for v in judge_voters([*honest, *voter("tenth", rng, checks=checks)]))  # the control


def test_left_out_voters_move_no_strength() -> None:
    rng = np.random.default_rng(2)
    honest = [v for i in range(9) for v in voter(f"v{i}", rng)]
    alone, beside = weigh(honest), weigh([*honest, *voter("cheater", rng, honest=False)])
    assert beside.strengths == alone.strengths
    assert beside.votes == alone.votes
    assert [s.name for s in sorted(alone.strengths.each, key=lambda s: -s.value)] == list(STRENGTH)  # type: ignore[union-attr]


def test_who_always_answers_the_same_is_left_out() -> None:
    rng = np.random.default_rng(3)
    lazy = [replace(v, vote="left", voter="lazy") for v in voter("lazy", rng)]
    (told,) = [v for v in judge_voters([*lazy, *voter("v0", rng), *voter("v1", rng)]) if v.name == "lazy"]
    assert "always left" in told.doubts


def written(path: Path, votes: list[Vote], **changed: object) -> Path:
    with path.open("w", newline="", encoding="utf-8") as f:
        rows = csv.DictWriter(f, COLUMNS, quoting=csv.QUOTE_ALL)
        rows.writeheader()
        rows.writerows({**dict.fromkeys(COLUMNS, "1"), **vars(v), **changed} for v in votes)
    return path


def suite() -> Namespace:
    prompts = Namespace(prompts=[Prompt(f"q{i}", "text") for i in range(30)])
    return Namespace(ref="tiny@1", digest=DIGEST, parts=[Namespace(name="p", prompts=prompts)])


def test_files_merge_and_the_same_vote_counts_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    one, two = voter('a "quoted", name\n<b>', rng, votes=5), voter("مرحبا 🙂", rng, votes=5)
    files = [written(tmp_path / "1.csv", one), written(tmp_path / "2.csv", [*two, *one])]
    assert read_votes(files, suite()) == [*one, *two]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vote": "lft"}, "vote 'lft'.*left"),
        ({"kind": "pear"}, "kind 'pear'.*pair"),
        ({"seed": "0x"}, "seed takes a whole number"),
        ({"left": "x", "right": "x"}, "two different sides"),
        ({"left": "spoiled"}, "one side of a check"),
        ({"suite_digest": "e" * 24}, r"expected votes on tiny@1 \(dddddddd\)"),
        ({"prompt_id": "q99"}, "no prompt 'q99'"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, changed: dict, said: str) -> None:
    votes = voter("v", np.random.default_rng(5), votes=1)
    assert read_votes([written(tmp_path / "good.csv", votes)], suite())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"(?s)votes.csv, line 2.*{said}"):
        read_votes([written(tmp_path / "votes.csv", votes, **changed)], suite())  # type: ignore[arg-type]


def test_two_answers_to_one_trial_and_missing_columns_are_refused(tmp_path: Path) -> None:
    votes = voter("v", np.random.default_rng(5), votes=1)
    other = [replace(votes[0], vote={"left": "right", "right": "left"}[votes[0].vote])]
    with pytest.raises(UsageError, match="answered trial 1 otherwise"):
        read_votes([written(tmp_path / "1.csv", votes), written(tmp_path / "2.csv", other)])
    (tmp_path / "3.csv").write_text("voter,vote\nv,left\n")
    with pytest.raises(UsageError, match="expected the columns suite, "):
        read_votes([tmp_path / "3.csv"])


def test_a_number_agrees_with_people_who_see_what_it_sees(tmp_path: Path) -> None:
    chosen, store = made(tmp_path, "plain", "dark")
    dark = "plugins.py@dark"

    def answer(sides: tuple[str, str], bright: object) -> str:
        return ("left", "right")[sides.index("plain" if bright else dark)]

    votes = [
        Vote(v, i, "pair", "2to1", f"p{i:02}", 0, *sides, answer(sides, i or v == "v0"), chosen.digest)
        for v in ("v0", "v1") for i in range(12) for sides in [("plain", dark) if i % 2 else (dark, "plain")]
    ]  # fmt: skip
    (brightness,) = [a for a in weigh(votes, chosen, store).agreement if a.metric == "brightness"]
    assert brightness.share == pytest.approx(23 / 24)  # higher is better, and one of 24 votes prefers the dark one
    assert (brightness.prompts, brightness.votes) == (12, 24)
    (seam,) = [a for a in weigh(votes, chosen, store).agreement if a.metric == "seam"]
    assert seam.share == 0.5  # both have none: a number that ties says nothing
