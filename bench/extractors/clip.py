"""CLIP through open_clip, and what all CLIP scorers share; importing this module imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bench.extractors.locate import Found
from bench.extractors.network import _Normalised, resized


class Clip(_Normalised):
    """An open_clip model; image and text features are scaled to unit length."""

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import open_clip

        name = found.model or f"local-dir:{found.path}"
        model = open_clip.create_model(name, pretrained=str(found.path) if found.model else None)
        self.tokenizer: Any = open_clip.get_tokenizer(name)
        cfg: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
        size = cfg["size"][-1] if isinstance(cfg["size"], tuple | list) else cfg["size"]
        self._set_input(int(size), cfg["mean"], cfg["std"], cfg.get("interpolation", "bicubic"))
        self.model: Any = model.float().eval().requires_grad_(False).to(device)
        self.context = int(self.tokenizer.context_length)
        self.dim = int(self.embed_text([""]).shape[1])

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        return self._run(crops, lambda part: self.model.encode_image(self._input(part), normalize=True), self.dim)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        def step(part: Sequence[str]) -> Tensor:
            encoded: Tensor = self.model.encode_text(self.tokenizer(list(part)).to(self.device), normalize=True)
            return encoded

        return self._run(texts, step, self.dim)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens than the network reads; the rest of such a text is not scored."""
        encode = getattr(self.tokenizer, "encode", None)
        if encode is None:  # a Hugging Face tokenizer inside: its counts include both special tokens
            return [len(self.tokenizer.tokenizer(t)["input_ids"]) > self.context for t in texts]
        return [len(encode(t)) + 2 > self.context for t in texts]


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipText:
    """CLIP's tokens from open_clip's vocabulary: 77 at most, what is longer is cut and keeps its end mark."""

    def __init__(self, context: int = 77) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self.context, self.tokenizer = context, SimpleTokenizer(context_length=context)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, context) token ids, zeros behind the end mark."""
        ids: Tensor = self.tokenizer(list(texts))
        return ids

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens than are read, both marks counted."""
        return [len(self.tokenizer.encode(t)) + 2 > self.context for t in texts]


def centre_square(rgb: np.ndarray, side: int, *, floor: bool = False) -> np.ndarray:
    """The middle square as stock CLIP scorers cut it: shorter side to ``side`` by Pillow's bicubic, then the crop.

    Args:
        rgb: uint8 (h, w, 3).
        side: pixels of the square.
        floor: how half a pixel of offset is rounded: down, as transformers does, or to even, as torchvision does.
    """
    height, width = rgb.shape[:2]
    short = min(height, width)
    long = int(side * max(height, width) / short)
    small = resized(rgb, *((long, side) if width >= height else (side, long)))
    spare = ((small.shape[0] - side) / 2, (small.shape[1] - side) / 2)
    top, left = (int(s) if floor else round(s) for s in spare)
    return small[top : top + side, left : left + side]
