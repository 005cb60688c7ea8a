"""Random numbers keyed by (seed, prompt id, stream name).

Every method starts from the same canvas on every device, whatever the order, batch or shard. Numbers are drawn
on the CPU by numpy's counter-based Philox, so they do not depend on the torch version or the instruction set.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Noise:
    """The random streams of one picture.

    >>> Noise(0, "harbour").normal("canvas", (1, 4, 8, 64)).shape
    torch.Size([1, 4, 8, 64])
    """

    def __init__(self, seed: int, prompt_id: str) -> None:
        self.seed, self.prompt_id = seed, prompt_id

    def generator(self, stream: str) -> np.random.Generator:
        """A fresh numpy generator at the start of a stream; the same name always gives the same numbers."""
        key = hashlib.sha256(f"noise:1:{self.seed}:{len(self.prompt_id)}:{self.prompt_id}:{stream}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype=np.uint64)))

    def normal(self, stream: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal float32 CPU tensor."""
        import torch

        return torch.from_numpy(self.generator(stream).standard_normal(shape, dtype=np.float64).astype(np.float32))
