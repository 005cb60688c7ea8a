"""Preferences from a store: groups, ranks, pairs with their gap, what is kept of them, and stores that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.analysis.preferences import Shot, build, paired, ranked
from bench.cli.app import main
from bench.errors import UsageError
from bench.report.pairs import pair_sheet, spread
from bench.store import Store
from bench.suites.suite import Suite
from methods.training.preferences import CARD, IMAGES, PAIRS, PICTURES, Preferences
from tests.support.gating import made, suite_in


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Store]:
    return made(tmp_path_factory.mktemp("scored"), "plain", "dark", "noisy")


def test_each_prompts_best_and_worst_picture_are_a_pair(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    card = build(store, suite, tmp_path / "p", "brightness")
    assert (card["groups"], card["pairs"], card["pictures"]) == (12, 12, 12 * 3 * 2)
    found = Preferences(tmp_path / "p")
    assert {p.loser_method for p in found.pairs} == {"plugins.py@dark"}
    assert card["lost"] == {"plugins.py@dark": 12}
    for pair in found.pairs:
        means = [float(store.read_image(i).mean()) for i in (pair.winner, pair.loser)]
        assert means == pytest.approx([pair.winner_score, pair.loser_score])
        assert pair.gap == pytest.approx(means[0] - means[1])
        assert (pair.prompt, pair.width, pair.height) == (f"a photo of thing {int(pair.prompt_id[1:])}", 16, 8)
        assert np.array_equal(found.picture(pair.winner), store.read_image(pair.winner))
    assert json.loads((tmp_path / "p" / CARD).read_text()) == card


def test_where_less_is_better_the_lower_score_wins_and_equal_pictures_are_no_pair(tmp_path: Path) -> None:
    suite, store = made(tmp_path, "plain", "refactored", "striped")
    build(store, suite, tmp_path / "p", "seam")
    pairs = Preferences(tmp_path / "p").pairs
    assert {p.loser_method for p in pairs} == {"plugins.py@striped"}
    assert all(p.winner_score < p.loser_score for p in pairs)
    same, store = made(tmp_path / "same", "plain", "refactored", seeds=[0])
    with pytest.raises(UsageError, match="pictures of every prompt are equal in brightness"):
        build(store, same, tmp_path / "q", "brightness", gap=0.0)


def shots(*scores: float) -> list[Shot]:
    return [Shot("8to1", "p", "sea", "", 4, 4, f"m{i}", 0, f"image{i}", score) for i, score in enumerate(scores)]


@pytest.mark.parametrize(("direction", "ranks"), [("higher", [1, 1, 3, 4]), ("lower", [1, 2, 3, 3])])
def test_equal_scores_share_the_better_rank(direction: str, ranks: list[int]) -> None:
    assert [s.rank for s in ranked(shots(5, 2, 5, 3), direction)] == ranks


def test_all_two_of_a_group_are_pairs_where_asked_for_but_ties_are_none() -> None:
    group = ranked(shots(5, 2, 5, 3), "higher")
    assert [(p.winner_score, p.loser_score) for p in paired(group, "extremes")] == [(5, 2)]
    all_two = [(p.winner_score, p.loser_score) for p in paired(group, "all")]
    assert sorted(all_two) == [(3, 2), (5, 2), (5, 2), (5, 3), (5, 3)]


def test_a_method_can_be_paired_with_itself_alone(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    card = build(store, suite, tmp_path / "p", "brightness", gap=0.0, pairing="seeds")
    pairs = Preferences(tmp_path / "p").pairs
    assert card["pairs"] == len(pairs) == 12 * 3  # two seeds of three methods
    assert all(p.winner_method == p.loser_method and p.winner_seed != p.loser_seed for p in pairs)
    one = suite_in(tmp_path / "one", methods=["plain"])
    alone = suite_in(Path(suite.file or "").parent, methods=["plain"])
    assert build(store, alone, tmp_path / "q", "brightness", gap=0.0, pairing="seeds")["pairs"] == 12
    with pytest.raises(UsageError, match=r"pairing seeds takes two seeds or more .*--seed 0 --seed 1"):
        build(store, suite_in(tmp_path / "one", seeds=[0]), tmp_path / "r", "brightness", pairing="seeds")
    with pytest.raises(UsageError, match="nothing is scored"):
        build(Store(tmp_path / "none"), one, tmp_path / "s", "brightness", pairing="seeds")


def test_pairs_below_the_gap_are_dropped_and_counted(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    every = build(store, suite, tmp_path / "a", "brightness", gap=0.0, pairing="all")
    wide = build(store, suite, tmp_path / "b", "brightness", gap=30.0, pairing="all")
    assert wide["pairs"] < every["pairs"]
    assert wide["dropped_below_gap"] == every["pairs"] - wide["pairs"]
    assert min(p.gap for p in Preferences(tmp_path / "b").pairs) >= 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gap": 900.0}, r"all 12 pairs differ by less than 900 .*\(the largest by \d+.*give a smaller --gap, or more"),
        ({"score": "seconds"}, "seconds of different hours do not compare"),
        ({"score": "mean-level"}, "mean-level ranks no pictures: .*brightness"),
        ({"score": "brigthness"}, "measures no 'brigthness'; .*brightness"),
        ({"pairing": "best"}, "unknown pairing 'best'"),
    ],
)
def test_scores_and_gaps_that_make_no_pairs_are_told(
    scored: tuple[Suite, Store], tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    suite, store = scored
    with pytest.raises(UsageError, match=message):
        build(store, suite, tmp_path / "p", **{"score": "brightness", **given})
    assert not (tmp_path / "p").exists()


def test_stores_with_too_little_say_what_to_run(tmp_path: Path) -> None:
    one, store = made(tmp_path, "plain")
    with pytest.raises(UsageError, match="preferences compare methods, and plain is the only one chosen"):
        build(store, one, tmp_path / "p", "brightness")
    two = suite_in(tmp_path, methods=["plain", f"{tmp_path / 'plugins.py'}@dark"])
    with pytest.raises(
        UsageError, match=r"no prompt has pictures of two methods .*plain 24, plugins.py@dark 0\): `scrollbench run"
    ):
        build(store, two, tmp_path / "p", "brightness")
    with pytest.raises(UsageError, match=r"nothing is scored in .*: `scrollbench run --suite \S*gated\S*` comes first"):
        build(Store(tmp_path / "empty"), two, tmp_path / "p", "brightness")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/a").touch()
    with pytest.raises(UsageError, match="is not empty"):
        build(store, two, tmp_path / "used", "brightness")


def test_the_command_builds_shows_and_draws(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    folder, methods = tmp_path / "p", [f"--method={m.ref}" for m in suite.methods]
    words = ["preferences", "build", "--suite", suite.file, *methods, "--score", "brightness", "--out", folder]
    done = CliRunner().invoke(main, list(map(str, [*words, "--gap", 30, "--store", store.root, "--json"])))
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["gap"] == 30
    shown = CliRunner().invoke(
        main, list(map(str, ["preferences", "show", folder, "--sheet", tmp_path / "s.png", "--limit", 3, "--json"]))
    )
    assert shown.exit_code == 0, shown.stderr
    told = json.loads(shown.stdout)
    assert told["card"] == said
    gaps = [row["gap"] for row in told["pairs"]]
    assert len(gaps) == 3
    assert gaps == sorted(gaps, reverse=True)


def test_a_sheet_shows_the_winner_left_and_the_loser_right(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    build(store, suite, tmp_path / "p", "brightness")
    found = Preferences(tmp_path / "p")
    page = np.array(Image.open(pair_sheet(found, tmp_path / "sheet.png", 1)).convert("RGB"))
    (pair,) = spread(found.pairs, 1)
    assert pair.gap == max(p.gap for p in found.pairs)
    for x, image in ((440, pair.winner), (1220, pair.loser)):  # 47.5 px of the page are one of the picture
        assert np.array_equal(page[320, x], store.read_image(image)[4, 8])


def test_damaged_preferences_are_refused(scored: tuple[Suite, Store], tmp_path: Path) -> None:
    suite, store = scored
    folder = tmp_path / "p"
    build(store, suite, folder, "brightness")
    found = Preferences(folder)
    with pytest.raises(UsageError, match="holds preferences, for drspo"):
        found.kinds(32, 4)
    winner = found.pairs[0].winner
    file = folder / IMAGES / f"{winner}.png"
    file.unlink()  # a link to the store's
    with pytest.raises(UsageError, match="no picture"):
        found.picture(winner)
    Image.new("RGB", (16, 8)).save(file)
    with pytest.raises(UsageError, match="is not the picture that was compared"):
        found.picture(winner)
    (folder / PAIRS).write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"cannot be read: .*build them again"):
        Preferences(folder)
    (folder / PAIRS).unlink()
    assert (folder / PICTURES).is_file()
    with pytest.raises(UsageError, match=r"no pairs\.parquet in .*scrollbench preferences build --out"):
        Preferences(folder)
