"""Networks of timm as extractors of roles ``dino`` and ``inception``; importing this module imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bench.extractors.locate import Found
from bench.extractors.network import _Normalised


class Timm(_Normalised):
    """A timm model: the pooled features before its classifier (for a DINOv2 ViT the normalised CLS token).

    DINOv2 runs at 224 px with interpolated position embeddings, or as its variant says (``mean-518``: the mean of the
    normalised patch tokens at 518 px); a folder's model at the input size it states.
    """

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import timm

        if found.model:
            overlay = {"file": str(found.path), "hf_hub_id": None, "url": ""}
            model = timm.create_model(
                found.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, dynamic_img_size=True
            )
            size = int(found.variant.rpartition("-")[2] or 224)
        else:
            model = timm.create_model(f"local-dir:{found.path}", pretrained=True)
            size = int(model.pretrained_cfg["input_size"][-1])
        cfg = model.pretrained_cfg
        self._set_input(size, cfg["mean"], cfg["std"], cfg.get("interpolation", "bicubic"))
        self.model: Any = model.float().eval().requires_grad_(False).to(device)
        self.dim = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self.mean_pooled = found.variant.startswith("mean")

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:
            tokens: Tensor = self.model.forward_features(self._input(part))
            if self.mean_pooled:
                return tokens[:, self.model.num_prefix_tokens :].mean(1)
            pooled: Tensor = self.model.forward_head(tokens, pre_logits=True)
            return pooled

        return self._run(crops, step, self.dim)

    def patches(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        if self.role != "dino":
            raise self._cannot("give patch tokens", "dino")

        def step(part: Sequence[np.ndarray]) -> Tensor:
            last = self.model.forward_intermediates(
                self._input(part), indices=1, norm=False, intermediates_only=True, output_fmt="NCHW"
            )[0]
            shape.append(tuple(last.shape[1:]))
            flattened: Tensor = last.flatten(1)
            return flattened

        shape: list[tuple[int, ...]] = []
        flat = self._run(crops, step, self.dim)
        d, high, wide = shape[0] if shape else (self.dim, 1, 1)
        return flat.reshape(-1, d, high, wide).transpose(0, 2, 3, 1)

    def logits(self, features: np.ndarray) -> np.ndarray:
        if self.role != "inception" or not self.model.num_classes:
            raise self._cannot("classify", "inception")
        return self._run(
            list(features), lambda part: self.model.get_classifier()(self._rows(part)), self.model.num_classes
        )
