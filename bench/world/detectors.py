"""The two detectors of ScrollWorld by name: colour rules, and the learned oracle."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError, near
from bench.world.colour_detector import KINDS, _known, detect_colour
from bench.world.oracle_net import load_oracle as load
from bench.world.scene import Scene

if TYPE_CHECKING:
    from bench.world.colour_detector import Detection
    from bench.world.oracle_net import OracleNet

DETECTORS = ("colour", "net")


def detect(
    rgb: NDArray[np.uint8],
    scene: Scene | None = None,
    kinds: Iterable[str] | None = None,
    loop: bool = False,
    *,
    detector: str = "colour",
) -> list[Detection]:
    """Find things with the ``colour`` rules (:func:`detect_colour`) or the learned oracle (``net``).

    Raises:
        UsageError: an unknown detector or kind. PrerequisiteError: the oracle's weights are not there.
    """
    if detector == "colour":
        return detect_colour(rgb, scene, kinds, loop)
    if detector != "net":
        raise UsageError(f"unknown detector {detector!r}; {near(detector, DETECTORS)}")
    wanted = KINDS if kinds is None else _known(kinds)
    return [d for d in load_oracle().read(rgb, loop=loop).detections if d.kind in wanted]


@cache
def load_oracle() -> OracleNet:
    """The learned oracle; imports torch on first use. Raises ``PrerequisiteError`` without its weights."""
    return load()
