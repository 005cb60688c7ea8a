"""The learned oracle as an extractor of role ``oracle``; importing this module imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.extractors.locate import Found
from bench.extractors.network import Network, exact
from bench.world.oracle_net import load_oracle


class Oracle(Network):
    """ScrollWorld's learned oracle: it reads what a picture shows; ``read`` and what it returns are the network's."""

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        self.net = load_oracle(found.path)  # small: stays on the CPU, where its readings are the same everywhere

    def read(self, rgb: np.ndarray, loop: bool = False) -> Any:
        """What one uint8 picture (32, w, 3) shows (:class:`bench.world.oracle_net.Reading`)."""
        with exact():
            return self.net.read(rgb, loop)
