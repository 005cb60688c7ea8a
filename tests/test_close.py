"""The tolerances of the other tests: wide enough for the arithmetic, and no wider."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from close import UNIT, near, products, relative, rounding


@pytest.mark.parametrize("terms", [1, 16, 1000, 30_000])
def test_sums_in_single_precision_stay_within_the_tolerance_and_use_it(terms: int) -> None:
    rng = np.random.default_rng(terms)
    used = []
    for _ in range(60):
        x = rng.random(terms).astype(np.float32)
        forward, backward = np.cumsum(x)[-1], np.cumsum(x[::-1])[-1]  # one addition after the other
        used.append(abs(float(forward) - float(backward)) / rounding(float(x.sum(dtype=np.float64)), terms))
    assert max(used) < 1
    assert terms < 16 or max(used) > 0.02  # neither is it so wide that nothing could leave it


def test_the_size_is_that_of_what_is_summed() -> None:
    near_zero = np.float32(1000.1) - np.float32(1000)
    assert float(near_zero) == near(0.1, 2, size=1000)
    assert float(near_zero) != near(0.1, 2)


def test_products_are_counted_along_the_layers() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(20, 4))
    assert products(net) == 27 + 20
    assert products(torch.nn.ReLU()) == 1


def test_small_numbers_are_compared_relatively() -> None:
    small, large = 2e-12, 2.0
    assert small == pytest.approx(2.9e-12, rel=1e-9)  # what the helper is there for
    assert small != relative(2.9e-12, 1e-9)
    assert large == relative(large + 1e-10, 1e-9)


def test_units_are_those_of_the_types() -> None:
    for name, unit in UNIT.items():
        assert unit == torch.finfo(getattr(torch, name)).eps / 2
