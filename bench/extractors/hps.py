"""HPS v2 (Wu et al., 2023, arXiv:2306.09341) as an extractor of role ``hps``; importing this module imports torch.

The official checkpoints are CLIP ViT-H-14 networks in open_clip's own key names, so open_clip loads them without
conversion. The score is the plain cosine of picture and text: no logit scale, no factor 100. The official code runs
under fp16 autocast on CUDA; here it is fp32 everywhere, so there the two differ from about the third digit [INFERENCE].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.extractors.clip import CLIP_MEAN, CLIP_STD, ClipText
from bench.extractors.locate import Found
from bench.extractors.network import Network, fill, read_weights


def letterboxed(rgb: np.ndarray, side: int) -> Tensor:
    """The official preprocessing before normalisation: (3, side, side) float32 from a uint8 picture (h, w, 3).

    The tensor is resized so that its longer side is ``side`` (bicubic, antialiased, not clamped: values leave [0, 1]
    a little) and black bars are added, centred; on 3072x512 the picture fills 37 of 224 rows.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    small = F.resize(F.to_tensor(Image.fromarray(rgb)), [h, w], InterpolationMode.BICUBIC, antialias=True)
    left, top = (side - w) // 2, (side - h) // 2
    boxed: Tensor = F.pad(small, [left, top, side - w - left, side - h - top], fill=0)
    return boxed


class Hps(Network):
    """HPS v2.0 or v2.1; picture and text features have unit length and ``scale`` times their cosine is the score."""

    stock = "letterbox"  # the view the official code looks through
    scale = 1.0

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import open_clip

        config = open_clip.get_model_config(found.model) if found.model else None
        if config is None:
            config = json.loads(found.file("open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        weights = found.file("HPS*.pt")
        model = open_clip.CLIP(**config)
        fill(model, read_weights(weights), weights)
        self.text = ClipText(int(config["text_cfg"]["context_length"]))
        self.side, self.dim = int(config["vision_cfg"]["image_size"]), int(config["embed_dim"])
        self.mean = torch.tensor(CLIP_MEAN).view(3, 1, 1)
        self.std = torch.tensor(CLIP_STD).view(3, 1, 1)
        self.model: Any = model.float().eval().requires_grad_(False).to(device)

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Crops as the official code prepares square pictures; other crops are squashed to a square first."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        def square(crop: np.ndarray) -> Tensor:
            size = [self.side, self.side]
            whole = F.to_tensor(Image.fromarray(crop))
            resized: Tensor = F.resize(whole, size, InterpolationMode.BICUBIC, antialias=True)
            return resized

        return self._encode([square(c) for c in crops])

    def embed_stock(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Whole pictures exactly as the official code sees them: :func:`letterboxed`."""
        return self._encode([letterboxed(p, self.side) for p in pictures])

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        return self._run(
            texts, lambda part: self.model.encode_text(self.text(part).to(self.device), normalize=True), self.dim
        )

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the network reads."""
        return self.text.truncated(texts)

    def _encode(self, pixels: list[Tensor]) -> np.ndarray:
        def step(part: Sequence[Tensor]) -> Tensor:
            batch = torch.stack([(p - self.mean) / self.std for p in part]).to(self.device)
            encoded: Tensor = self.model.encode_image(batch, normalize=True)
            return encoded

        return self._run(pixels, step, self.dim)
