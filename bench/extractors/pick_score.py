"""PickScore as an extractor of role ``pick``; importing this module imports torch.

The official program resizes the shorter side to 224 px and reads the middle square: 17 % of a 6:1 panorama.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.extractors.clip import CLIP_MEAN, CLIP_STD, ClipText, centre_square
from bench.extractors.image_reward import UNUSED, _ready
from bench.extractors.locate import Found
from bench.extractors.network import Network, fill, read_weights, resized


class PickScore(Network):
    """PickScore v1 (Kirstain et al., NeurIPS 2023, arXiv:2305.01569): transformers' CLIPModel, ViT-H-14 sized.

    Features have unit length; the score is ``scale`` (the learned logit scale, about 100) times their cosine: about 20
    for a fitting picture. Text goes through open_clip's tokenizer, which, unlike the official one, undoes HTML
    entities and broken encodings first; other texts get the same tokens.
    """

    stock = "centre"

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        from transformers import CLIPConfig, CLIPModel

        path = found.file("model.safetensors")
        config = CLIPConfig.from_json_file(str(found.file("config.json")))
        model = CLIPModel(config)
        fill(model, {k: v for k, v in read_weights(path).items() if not UNUSED.match(k)}, path)
        self.model: Any = _ready(model, device)
        self.scale = float(self.model.logit_scale.exp())
        self.text = ClipText(config.text_config.max_position_embeddings)
        self.side, self.dim = config.vision_config.image_size, config.projection_dim
        self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        return self._encode([resized(c, self.side, self.side) for c in crops])

    def embed_stock(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Whole pictures exactly as the official code sees them: :func:`centre_square`."""
        return self._encode([centre_square(p, self.side, floor=True) for p in pictures])

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        def step(part: Sequence[str]) -> Tensor:
            pooled = self.model.text_model(input_ids=self.text(part).to(self.device)).pooler_output
            return _unit(self.model.text_projection(pooled))

        return self._run(texts, step, self.dim)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are longer than the network reads."""
        return self.text.truncated(texts)

    def _encode(self, squares: list[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:
            pixels = (self._tensor(part) / 255 - self.mean) / self.std
            return _unit(self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output))

        return self._run(squares, step, self.dim)


def _unit(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=-1)
