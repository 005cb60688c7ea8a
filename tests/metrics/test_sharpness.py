"""Sharpness and grain: the deviation of the Laplacian, and the level of fine noise."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.sample import Sample
from bench.metrics.sharpness import LUMA, grain, grain_level, laplacian_deviation, sharpness
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
    whole, worst, *along = (v.value for v in values)
    assert [v.index for v in values] == [None, None, 0, 1, 2]
    assert along[0] == worst == pytest.approx(0, abs=1e-6)
    assert whole == pytest.approx(np.mean(along))


def test_grain_measures_white_noise_and_not_slopes_edges_or_things() -> None:
    slope = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (96, 96, 3)).copy()
    slope[40:] += 100  # an edge along the axis
    assert grain_level(slope) == pytest.approx(20 * np.log10(0.5 / 255))
    dithered = slope + np.random.default_rng(1).integers(0, 2, slope.shape, dtype=np.uint8)
    assert grain_level(dithered) == pytest.approx(20 * np.log10(0.5 / 255), abs=0.5)  # half a level is as good as none
    grey = np.full((96, 96, 1), 128)
    for sigma in (4.0, 12.0):
        white = np.repeat(grey + np.random.default_rng(0).normal(0, sigma, grey.shape), 3, axis=2)
        level = 10 * np.log10((sigma / 2 / 255) ** 2 + (0.5 / 255) ** 2)  # half resolution halves it
        assert grain_level(white) == pytest.approx(level, abs=0.5)
        white[20:40, 30:50] = 255  # a thing in front: 5 % of the values are 0, the quartile is a fifth of the others
        assert grain_level(white) == pytest.approx(level, abs=2.5)
    assert grain_level(blur(RGB, 1.0)) < grain_level(RGB) - 10  # type: ignore[operator]
    assert grain_level(slope[:5]) is None  # too few rows to tell


def test_one_square_that_is_noisy_is_the_worst_view_and_a_third_of_the_mean() -> None:
    calm = blur(RGB, 2.0)
    half = calm.copy()
    half[:, 32:64] = noise(calm[:, 32:64], 0.1)
    before, after = (
        {(v.name, v.index): v.value for v in grain.fn(Sample(x, Prompt("p", "t"), Canvas(96, 32), view="tiles"))}
        for x in (calm, half)
    )
    assert after["grain-worst", None] == after["grain", 1]
    risen = {key: after[key] - before[key] for key in after}  # type: ignore[operator]
    assert risen["grain", 1] == pytest.approx(3 * risen["grain", None])
    assert risen["grain-worst", None] > 10
    assert risen["grain", 0] == risen["grain", 2] == 0  # the control: the other squares
