"""The simulation of the statistics: it finds that ours hold, and that ones that are too short do not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are not part of the package

from benchmarks import statistics as simulated


def test_simulated_intervals_hold_and_ones_that_are_too_short_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, truth, span = simulated.DRAWN["normal"]
    held = simulated.coverage(draw, truth, span, 20, 300)
    assert held["missed %"] <= 9  # 5 % and three standard errors of 300 samples
    assert held["passed at the margin %"] <= 9
    rare = simulated.coverage(*simulated.DRAWN["5 % x exponential"], 20, 100)
    assert (rare["not told %"], rare["passed at the margin %"]) == (100.0, 0.0)
    whole = simulated.bounds

    def half(x: np.ndarray, *rest: float, **more: object) -> tuple[np.ndarray, np.ndarray]:
        low, high = whole(x, *rest, **more)  # type: ignore[arg-type]
        return low + (high - low) / 4, high - (high - low) / 4

    monkeypatch.setattr(simulated, "bounds", half)
    assert simulated.coverage(draw, truth, span, 20, 300)["missed %"] > 20  # negative control
