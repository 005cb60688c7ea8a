"""The Inception network of FID as an extractor; importing this module imports torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.extractors.locate import Found
from bench.extractors.network import Network, read_weights
from bench.extractors.resize import clean_resize


class Inception(Network):
    """The Inception network of the FID literature.

    ``inception`` resizes as torch-fidelity does, inside the network (bilinear, no antialiasing); ``inception-clean`` as
    clean-fid does (:func:`bench.extractors.resize.clean_resize`). Both read torch-fidelity's copy of the weights;
    clean-fid itself loads another copy of the same network, with which this one was not compared.
    """

    dim, size = 2048, 299

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        clean = io.BytesIO()  # torch-fidelity unpickles freely: hand it only what the restricted loader has read
        torch.save(read_weights(found.path), clean)
        clean.seek(0)
        self.model: Any = FeatureExtractorInceptionV3("scrollbench", ["2048"], feature_extractor_weights_path=clean)
        self.model.to(device)
        self.clean = found.variant == "clean"

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        def step(part: Sequence[np.ndarray]) -> Tensor:
            if self.clean:
                return self._unsized(part)
            # crops of different sizes cannot share a batch, and this network does its own resizing
            single = (torch.from_numpy(np.array(c)).to(self.device).permute(2, 0, 1)[None] for c in part)
            return torch.cat([self.model(c)[0] for c in single])

        return self._run(crops, step, self.dim)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Without the classifier's bias, as FID's literature has it."""
        weight = self.model.fc.weight
        return self._run(list(features), lambda part: self._rows(part) @ weight.T, len(weight))

    def _unsized(self, crops: Sequence[np.ndarray]) -> Tensor:
        """The network's features without its own resize, which takes bytes only."""
        small = np.stack([clean_resize(c, self.size, self.size) for c in crops])
        h = (torch.from_numpy(small).to(self.device).permute(0, 3, 1, 2) - 128) / 128
        *layers, _classifier = self.model.children()
        for layer in layers:
            h = layer(h)
        return h.flatten(1)
