"""Colour: each number answers to its own change of colour, and to no other."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics.colour import colour, colourfulness, moments
from bench.metrics.sample import Sample
from bench.types import Canvas, Prompt
from bench.world.defects import blur

RGB = blur(np.random.default_rng(5).integers(40, 200, (32, 96, 3), dtype=np.uint8), 1.0)


def numbers(rgb: np.ndarray) -> dict[str, float]:
    sample = Sample(rgb.astype(np.uint8), Prompt("p", "t"), Canvas(96, 32), view="tiles")
    return {v.name: v.value for v in colour.fn(sample) if v.index is None and v.value is not None}


def test_colourfulness_equals_hasler_and_suesstrunk_written_out() -> None:
    r, g, b = (RGB[..., i] / 255 for i in range(3))
    red, yellow = r - g, (r + g) / 2 - b
    by_hand = np.hypot(red.std(), yellow.std()) + 0.3 * np.hypot(red.mean(), yellow.mean())
    assert colourfulness(*moments(RGB)) == pytest.approx(by_hand, rel=1e-9)
    assert colourfulness(*moments(RGB)) != pytest.approx(np.hypot(red.std(), yellow.std()), rel=1e-2)
    grey = np.repeat(RGB[..., :1], 3, axis=2)
    assert colourfulness(*moments(grey)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("change", "moved", "by"),
    [
        (lambda x: x, (), 0.0),
        (lambda x: x + 10, ("colour-light",), 10 / 255),
        (lambda x: x + np.array([10, -5.094, 0]), ("colour-red",), 15.094 / 255),  # luminance stays
        (lambda x: x.mean((0, 1)) + 0.5 * (x - x.mean((0, 1))), ("colour-contrast", "colourfulness"), None),
    ],
)
def test_each_number_answers_to_its_own_change(change: object, moved: tuple[str, ...], by: float | None) -> None:
    before, after = numbers(RGB), numbers(np.rint(change(RGB.astype(float))))  # type: ignore[operator]
    for name in moved:
        assert abs(after[name] - before[name]) > 0.01
        assert by is None or after[name] - before[name] == pytest.approx(by, abs=0.003)
    for name in {"colour-light", "colour-red", "colour-contrast"} - {*moved}:
        assert after[name] == pytest.approx(before[name], abs=0.003)


def test_drift_is_the_worst_view_and_a_cast_over_all_is_none() -> None:
    tinted, cast = RGB.astype(float), RGB + np.array([12, 0, 0])
    tinted[:, 64:] += [0, 0, 40]
    values = colour.fn(Sample(tinted.astype(np.uint8), Prompt("p", "t"), Canvas(96, 32), view="tiles"))
    along = [v.value for v in values if v.index is not None]
    assert along.index(max(along)) == 2  # type: ignore[type-var]
    assert numbers(tinted)["colour-drift"] == max(along) > 0.08  # type: ignore[type-var]
    assert numbers(cast)["colour-drift"] == pytest.approx(numbers(RGB)["colour-drift"], abs=1e-6)
    assert numbers(cast)["colour-red"] - numbers(RGB)["colour-red"] == pytest.approx(12 / 255, abs=1e-6)
