"""Sharpness: the deviation of the Laplacian."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.sample import Sample
from bench.metrics.sharpness import LUMA, laplacian_deviation, sharpness
from bench.types import Canvas, Prompt
from bench.world.defects import blur, noise

RGB = np.random.default_rng(3).integers(0, 256, (32, 96, 3), dtype=np.uint8)


def test_it_equals_a_laplacian_written_out() -> None:
    y = (RGB / 255) @ np.asarray(LUMA)
    wide = np.pad(y, 1, mode="edge")
    by_hand = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * y
    assert laplacian_deviation(RGB) == pytest.approx(by_hand.std(), rel=1e-5)
    assert laplacian_deviation(RGB) != pytest.approx(by_hand.var(), rel=1e-2)


def test_one_colour_and_an_even_slope_inside_have_none_blur_takes_it_and_noise_gives_it() -> None:
    flat = np.full((32, 96, 3), 90, dtype=np.uint8)
    assert laplacian_deviation(flat) == pytest.approx(0, abs=1e-6)
    assert laplacian_deviation(np.zeros((1, 1, 3), dtype=np.uint8)) == 0
    assert laplacian_deviation(blur(RGB, 1.0)) < 0.2 * laplacian_deviation(RGB)
    assert laplacian_deviation(noise(flat, 0.1)) > 0.1


def test_the_mean_over_tiles_comes_with_a_value_for_every_tile() -> None:
    half = RGB.copy()
    half[:, :32] = 128
    values = sharpness.fn(Sample(half, Prompt("p", "t"), Canvas(96, 32), view="tiles"))
    whole, *along = (v.value for v in values)
    assert [v.index for v in values] == [None, 0, 1, 2]
    assert along[0] == pytest.approx(0, abs=1e-6)
    assert whole == pytest.approx(np.mean(along))
