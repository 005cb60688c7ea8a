"""Pictures become bytes by one rounding, whatever type of numbers they come in and through whichever door."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from bench.metrics import modules
from bench.pictures import levels
from bench.run import to_rgb
from bench.types import Canvas


def every(dtype: torch.dtype) -> torch.Tensor:
    """Every number of a half precision type in [0, 1], as a picture (3, 8, n / 24), the last one repeated."""
    bits = torch.arange(2**15, dtype=torch.int16).view(dtype)
    found = bits[(bits >= 0) & (bits <= 1)]
    return torch.cat([found, found[-1:].expand(-len(found) % 24)]).view(3, 8, -1)


def beside_ties(dtype: torch.dtype) -> torch.Tensor:
    """Numbers beside the halves between levels, (3, 8, 32): of float32 the next ones, of float64 such that differ
    from a half by less than float32 can tell."""
    half = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    middle = half.to(dtype)
    if dtype == torch.float64:
        around = [middle - 1e-12, middle + 1e-12, middle - 2e-12]
    else:
        around = [middle, torch.nextafter(middle, torch.zeros_like(middle)), torch.nextafter(middle, 2 * middle)]
    return torch.cat([*around, torch.zeros(3, dtype=dtype)]).view(3, 8, 32)


def by_fractions(picture: torch.Tensor) -> np.ndarray:
    """The nearest level of every number, calculated exactly."""
    flat = [round(255 * Fraction(float(x))) for x in picture.flatten()]  # Python rounds ties to even
    return np.array(flat, np.uint8).reshape(picture.shape).transpose(1, 2, 0)


def of_a_method(picture: torch.Tensor) -> np.ndarray:
    return to_rgb(picture, Canvas(picture.shape[2], picture.shape[1]))[0]


def of_a_metric(picture: torch.Tensor) -> np.ndarray:
    return modules.to_rgb(picture[None])[0]


@pytest.mark.parametrize("door", [of_a_method, of_a_metric])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_number_gets_the_level_nearest_to_it(
    door: Callable[[torch.Tensor], np.ndarray], dtype: torch.dtype
) -> None:
    picture = every(dtype) if dtype.itemsize == 2 else beside_ties(dtype)
    exact = by_fractions(picture)
    assert (door(picture) == exact).all()
    if dtype == torch.float64:  # control: narrowed first, as multiplied in a narrow type, it is rounded twice
        twice = levels(picture.float()).transpose(1, 2, 0)
    else:
        twice = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert (twice != exact).sum() > 10


def test_values_beyond_the_range_are_clipped_and_ties_go_to_the_even_level() -> None:
    assert levels(np.array([-0.2, 0.0, 0.5, 1.0, 1.2])).tolist() == [0, 0, 128, 255, 255]
    assert levels(np.array([0.5])).dtype == np.uint8
