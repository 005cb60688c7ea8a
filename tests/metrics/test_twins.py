"""Twins: clones and mirrored parts wherever they lie, and nothing else, are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.metrics.sample import Sample
from bench.metrics.twins import likeness, reduced, twins
from bench.types import Canvas, Prompt
from bench.world.defects import blur, noise

RGB = blur(np.random.default_rng(7).integers(0, 256, (32, 160, 3), dtype=np.uint8), 1.5)


def twin(rgb: np.ndarray, loop: bool = False) -> Any:
    canvas = Canvas(rgb.shape[1], rgb.shape[0], loop)
    (value,) = twins.fn(Sample(rgb, Prompt("p", "t"), canvas))
    return value.value


def pasted(at: int, mirrored: bool = False, upside_down: bool = False) -> np.ndarray:
    out = RGB.copy()
    piece = RGB[:, 5:37]
    piece = piece[:, ::-1] if mirrored else piece[::-1] if upside_down else piece
    out[:, at : at + 32] = piece
    return out


def test_a_clone_anywhere_a_mirrored_window_and_a_mirrored_half_are_twins() -> None:
    half = RGB.copy()
    half[:, 80:] = half[:, :80][:, ::-1]
    for rgb in (pasted(91), pasted(100, mirrored=True), half):
        assert twin(rgb) == 40
    r = reduced(half) - np.median(reduced(half), axis=1, keepdims=True)
    inexact = twin(noise(half, 0.02))  # what differs is the noise of both
    assert inexact == pytest.approx(10 * np.log10(1 + (r**2).mean() / 0.02**2), abs=2)
    assert twin(RGB) < 2  # the controls: no part twice, or one that no mirror makes equal
    assert twin(pasted(91, upside_down=True)) < 3


def test_the_sums_equal_windows_compared_one_by_one() -> None:
    small = reduced(RGB)
    r = small - np.median(small, axis=1, keepdims=True)
    same, mirrored = likeness(small)
    cut = [r[:, a : a + 32] for a in range(160 - 32 + 1)]
    mean = np.mean([(w * w).sum() for w in cut])
    for a, b in ((0, 32), (3, 90), (128, 1)):
        both = max((cut[a] ** 2).sum() + (cut[b] ** 2).sum(), mean)
        assert same[a, b] == pytest.approx(2 * (cut[a] * cut[b]).sum() / both, abs=1e-9)
        assert mirrored[a, b] == pytest.approx(2 * (cut[a] * cut[b][:, ::-1]).sum() / both, abs=1e-9)
    assert same[0, 31] == mirrored[0, 31] == -np.inf  # windows that overlap
    assert np.isfinite(same[0, 32])


def test_size_and_direction_change_nothing_and_a_loop_looks_across_its_edge() -> None:
    rgb = pasted(91)
    large = rgb.repeat(4, axis=0).repeat(4, axis=1)
    assert twin(large) == pytest.approx(twin(rgb), abs=1e-9)
    assert twin(np.ascontiguousarray(rgb.transpose(1, 0, 2))) == pytest.approx(twin(rgb), abs=1e-9)
    across = np.roll(rgb, 50, axis=1)  # the copy now lies over the edge: 141 to 173
    assert twin(across, loop=True) == pytest.approx(twin(rgb, loop=True), abs=1e-9)
    assert twin(across) < 10


def test_even_rows_and_a_single_window_have_no_twins_and_a_clone_of_next_to_nothing_is_none() -> None:
    assert twin(np.full((32, 160, 3), 90, dtype=np.uint8)) is None
    assert twin(np.repeat(RGB[:, :1], 160, axis=1)) is None  # a sky without anything
    assert twin(RGB[:, :60]) is None
    lonely = np.full((32, 160, 3), 90, dtype=np.uint8)
    lonely[10:20, 20:30] = 255
    lonely[10, 100] = 91  # two windows with the same single dot
    lonely[10, 140] = 91
    assert twin(lonely) < 0.5
