"""LAION's aesthetic heads on CLIP, and the CLIP of CLIP-IQA; importing this module imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.extractors.clip import Clip, centre_square
from bench.extractors.locate import Found
from bench.extractors.network import exact, linear_stack, read_weights, resized


class Aesthetic(Clip):
    """CLIP ViT-L/14's unit-length picture feature through a linear head trained on ratings from 1 to 10.

    Two heads are in use and their numbers differ: v1 (LAION-AI/aesthetic-predictor), one linear layer, and v2
    (improved-aesthetic-predictor, "sac+logos+ava1"), five linear layers with nothing between them. The file decides.
    """

    stock = "centre"  # the official programs resize the shorter side and crop the middle

    def __init__(self, found: Found, device: str) -> None:
        trunk = replace(found, path=found.file("*.safetensors"), also=()) if found.also else found
        super().__init__(trunk, device)
        path = found.file("*.pth")
        state = {k.removeprefix("layers."): v for k, v in read_weights(path).items()}
        if set(state) == {"weight", "bias"}:
            state = {f"0.{k}": v for k, v in state.items()}
        head = linear_stack(state, self.dim, path)
        self.head: nn.Module = head.float().eval().requires_grad_(False).to(device)

    def embed_stock(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Whole pictures exactly as the official programs see them: shorter side to the input size, middle square."""
        return self.embed([centre_square(p, self.size) for p in pictures])

    def rate(self, features: np.ndarray) -> np.ndarray:
        """(n,) float32 ratings of (n, dim) features."""
        with exact():
            rated: np.ndarray = self.head(torch.from_numpy(features).to(self.device))[:, 0].cpu().numpy()
        return rated


class ClipIqa(Clip):
    """CLIP-IQA's network (Wang et al., AAAI 2023, arXiv:2207.12396): CLIP RN50 without its position embedding.

    Without it the network takes pictures of any size, and stock CLIP-IQA resizes nothing: crops are read as they are,
    only sides below ``least`` are enlarged.
    """

    least = 32  # px: the stride of its deepest features

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        pool = getattr(self.model.visual, "attnpool", None)
        if pool is None:
            raise UsageError(
                f"{found.path} is not CLIP-IQA's network: expected a CLIP with a ResNet and attention pooling; "
                "a vision transformer cannot do without its position embedding"
            )
        # one row of zeros fits every size: it is added to each position
        pool.positional_embedding = nn.Parameter(torch.zeros_like(pool.positional_embedding[:1]), requires_grad=False)

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:  # crops of different sizes cannot share a batch
            rows = [self.model.encode_image(self._pixels(crop), normalize=True) for crop in part]
            return torch.cat(rows)

        return self._run(crops, step, self.dim)

    def _pixels(self, crop: np.ndarray) -> Tensor:
        height, width = (max(side, self.least) for side in crop.shape[:2])
        return (self._tensor([resized(crop, width, height)]) / 255 - self.mean) / self.std
