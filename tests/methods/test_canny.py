"""Canny's edges against OpenCV's, pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from methods.control.canny import canny
from tests.support.golden_cases import load_arrays


def subcases() -> list[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    entry, arrays = load_arrays("canny")
    found = []
    for i, told in enumerate(entry["settings"]["subcases"]):
        picture = arrays[f"{'image' if told['input'] == 'rgb' else 'gray'}_{i}"].numpy()
        given = {"low": told["low"], "high": told["high"], "l2": told["L2gradient"]}
        found.append((picture, arrays[f"edges_{i}"].numpy() > 0, given))
    return found


@pytest.mark.parametrize("i", range(3))
def test_edges_are_those_of_opencv(i: int) -> None:
    picture, edges, given = subcases()[i]
    assert np.array_equal(canny(picture, **given), edges)
    for change in {"low": 0}, {"l2": not given["l2"]}:  # the controls
        assert not np.array_equal(canny(picture, **{**given, **change}), edges)


def test_a_colour_picture_is_not_looked_at_in_grey() -> None:
    picture, edges, _ = subcases()[0]
    assert not np.array_equal(canny(picture.mean(-1).astype(np.uint8)), edges)


def test_weak_pixels_count_only_where_they_join_a_strong_one() -> None:
    step = np.zeros((8, 12), np.uint8)
    step[:, 4:] = 40  # gradient 160
    assert not canny(step).any()
    step[0, 4:] = 90
    assert canny(step)[:, 3:5].any(axis=1).all()


def test_a_flat_picture_has_no_edges() -> None:
    assert not canny(np.full((5, 7, 3), 200, np.uint8)).any()


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(UsageError, match="0 <= low <= high"):
        canny(np.zeros((4, 4), np.uint8), 200, 100)
