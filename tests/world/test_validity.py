"""The validity page: what counts as punishing, rewarding and not seeing a defect, and that real responses come out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UsageError
from bench.world.validate import DEFECTS, Response, respond, respond_set, total, validate
from bench.world.validity_page import draw_page, read_responses, verdict_table, write_responses

RNG = np.random.default_rng(5)
NOISE = RNG.normal(0, 1, (3, 60))


def of(means: tuple[float, float, float], direction: str = "lower") -> Response:
    """Sixty panoramas whose number moves by ``means`` at strengths 0, 1, 2, noise of one."""
    return respond("d", "m", "v", direction, {float(i): list(m + NOISE[i]) for i, m in enumerate(means)})


@pytest.mark.parametrize(
    ("means", "direction", "verdict"),
    [
        ((0, 2, 4), "lower", "punishes"),
        ((0, 2, 4), "higher", "rewards"),
        ((4, 2, 0), "lower", "rewards"),
        ((0, 3, -3), "lower", "mixed"),
        ((0, 0, 0), "lower", "blind"),
        ((0, 2, 4), "none", "-"),
        ((5, 3, 1), "one", "rewards"),  # comes nearer to 1
        ((1, 3, 5), "one", "punishes"),
    ],
)
def test_a_response_is_named_by_what_the_number_does_to_its_direction(
    means: tuple[float, float, float], direction: str, verdict: str
) -> None:
    assert of(means, direction).verdict == verdict


def test_the_smallest_detected_strength_is_the_first_from_which_all_changes_are_sure() -> None:
    assert of((0, 2, 4)).detects == 1
    assert of((0, 0, 4)).detects == 2
    assert of((0, 3, 0)).detects is None


def test_intervals_are_paired_so_what_all_panoramas_share_does_not_hide_a_change() -> None:
    own = RNG.normal(0, 100, 60)
    found = respond("d", "m", "v", "lower", {0.0: list(own), 1.0: list(own + 1 + 0.1 * NOISE[0])})
    assert found.detects == 1
    unpaired = respond("d", "m", "v", "lower", {0.0: list(own), 1.0: list(RNG.permutation(own) + 1)})
    assert unpaired.detects is None


def test_panoramas_without_a_number_at_any_strength_are_left_out() -> None:
    found = respond("d", "m", "v", "lower", {0.0: [1.0, 2.0, np.nan], 1.0: [2.0, 3.0, 4.0]})
    assert (found.n, found.means) == (2, (1.5, 2.5))
    nothing = respond("d", "m", "v", "lower", {0.0: [np.nan, 2.0], 1.0: [1.0, np.nan]})
    assert (nothing.n, nothing.verdict, nothing.means) == (0, "-", (None, None))


def test_the_truth_may_stand_inside_the_row_of_strengths() -> None:
    """No copy at all is not a defect of growing strength: only what lies beyond the truth decides."""
    found = respond("d", "m", "v", "lower", {1.0: list(NOISE[0]), 0.0: list(NOISE[0] + 9), 2.0: list(NOISE[0] + 2)})
    assert found.strengths == (0, 1, 2)
    assert (found.verdict, found.detects) == ("punishes", 2)
    assert found.spearman is not None
    assert found.spearman > 0.8  # from the truth on: with the value at 0 it would be negative


def test_numbers_of_whole_sets_have_jackknife_intervals_and_paired_changes() -> None:
    blocks = NOISE[:, :21] * 0.01
    found = respond_set("d", "m", "v", "lower", 60, {0.0: 1 + blocks[0], 1.0: 3 + blocks[0], 2.0: 5 + blocks[0]})
    assert (found.verdict, found.detects, found.spearman) == ("punishes", 1, 1)
    assert found.low[0] is not None
    assert found.means[0] is not None
    assert found.low[0] < found.means[0]
    loose = respond_set("d", "m", "v", "lower", 60, {0.0: 1 + blocks[0], 1.0: 1.001 + blocks[1]})
    assert loose.verdict == "blind"


@pytest.fixture(scope="module")
def blurred() -> list[Response]:
    return validate(6, names=["blur, sigma in px"], metrics=["adjacent", "kid", "is"])


def test_real_metrics_answer_blur_and_the_page_is_drawn_and_kept(tmp_path: Path, blurred: list[Response]) -> None:
    rows = blurred
    found = {r.metric: r for r in rows if r.view == "tiles"}
    assert found["adjacent-tv"].verdict == "rewards"  # a blurred picture has smaller steps: TV takes it for better
    assert found["adjacent-tv"].n == 6
    assert {"kid-panoramas", "kid-squares", "is"} <= set(found)
    assert found["kid-squares"].n == 6

    write_responses(rows, tmp_path / "v.csv")
    assert read_responses(tmp_path / "v.csv") == rows
    write_responses([replace(rows[0], n=99)], tmp_path / "v.csv")  # measured anew: replaced, the rest is kept
    again = read_responses(tmp_path / "v.csv")
    assert sorted(r.n for r in again)[-2:] == [6, 99]
    assert len(again) == len(rows)
    draw_page(again, tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 5000


def test_kid_of_true_panoramas_is_lower_against_panoramas_than_when_all_are_blurred_hard(
    blurred: list[Response],
) -> None:
    kid = next(r for r in blurred if r.metric == "kid-panoramas")
    first, *_, last = kid.means
    assert first is not None
    assert last is not None
    assert first < last


def test_unknown_names_and_too_few_panoramas_are_errors_that_say_what_is_known() -> None:
    with pytest.raises(UsageError, match="unknown defect 'blurr'"):
        validate(4, names=["blurr"])
    with pytest.raises(UsageError, match="metric 'fidd' is not part of the validity page"):
        validate(4, metrics=["fidd"])
    with pytest.raises(UsageError, match="at least 2 panoramas"):
        validate(1)
    assert total() == sum(len(d.strengths) for d in DEFECTS.values())


def test_the_page_that_ships_belongs_to_its_data_and_has_every_defect_on_200_panoramas() -> None:
    folder = Path(__file__).parents[2] / "results" / "validity"
    rows = read_responses(folder / "validity.csv")
    assert (folder / "validity.md").read_text(encoding="utf-8") == verdict_table(rows)
    assert verdict_table(rows[:-1]) != verdict_table(rows)
    assert {r.defect for r in rows} == set(DEFECTS)
    assert max(r.n for r in rows) == 200
    held = next(r for r in rows if (r.metric, r.defect) == ("repeat-count", "copies of the unique thing"))
    assert held.spearman_low is not None
    assert held.spearman_low > 0.8
