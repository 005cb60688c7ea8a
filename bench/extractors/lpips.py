"""LPIPS as an extractor of role ``lpips``; importing this module imports torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UsageError
from bench.extractors.locate import Found, lpips_heads
from bench.extractors.network import BATCH, LPIPS_MIN, Network, exact, read_weights, resized

PIXELS = 2**21  # crops of so many pixels go through the network together: 8 squares of 512, under 4 GiB with VGG


class Lpips(Network):
    """LPIPS (Zhang et al., CVPR 2018) on crops of one size, v0.1, input scaled to [-1, 1].

    Each trunk layer is computed once for a block of crops and then compared in pairs, which equals the lpips package's
    pairwise call at a fraction of its work. Crops that do not fit into one block of ``PIXELS`` are compared block by
    block, for which features are computed again: time for memory. The variant ``512`` resizes all crops to 512 px
    squares first. A folder's config may leave the learned heads out (``"lpips": false``).
    """

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        import lpips

        if found.model:
            net, heads = found.model, True
        else:
            config = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
            net, heads = config["net"], bool(config.get("lpips", True))
        model = lpips.LPIPS(net=net, lpips=heads, pretrained=False, pnet_rand=True, verbose=False)
        if found.model:
            state = {**_trunk(model, read_weights(found.path)), **read_weights(lpips_heads(net))}
        else:
            state = read_weights(found.path / "model.safetensors")
        missing, unexpected = model.load_state_dict(state, strict=False)
        missing = [k for k in missing if not k.startswith(("lins.", "scaling_layer."))]  # aliases and constants
        if missing or unexpected:
            raise UsageError(f"{found.path} is not LPIPS-{net}: missing {missing[:3]}, unexpected {unexpected[:3]}")
        self.fixed = (int(found.variant), int(found.variant)) if found.variant else None
        self.model: Any = model.float().eval().requires_grad_(False).to(device)

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        sizes = {c.shape for c in crops}
        if len(sizes) > 1:
            raise UsageError(f"LPIPS compares crops of one size, got {sorted(sizes)}; use a view of squares")
        n = len(crops)
        total = torch.zeros(n, n, dtype=torch.float64)
        if n < 2:
            return total.float().numpy()
        width, height = self.fixed or (max(crops[0].shape[1], LPIPS_MIN), max(crops[0].shape[0], LPIPS_MIN))
        fitted = [resized(c, width, height) for c in crops]
        block = max(1, PIXELS // (width * height))
        blocks = [range(i, min(i + block, n)) for i in range(0, n, block)]
        with exact():
            for a, rows in enumerate(blocks):
                for columns in blocks[a:]:
                    self._compare(fitted, rows, columns, total)
        return (total + total.T).float().numpy()

    def _compare(self, crops: Sequence[np.ndarray], rows: range, columns: range, total: Tensor) -> None:
        """Add the distances of all pairs of two blocks to the upper triangle of ``total``, one layer at a time."""
        same = rows == columns
        if same and len(rows) < 2:
            return
        left = self._layers(crops[rows.start : rows.stop])
        right = left if same else self._layers(crops[columns.start : columns.stop])
        for layer, x in enumerate(left):
            y = x if same else next(right)
            for k, i in enumerate(rows):
                first = i + 1 if same else columns.start
                gap = (y[first - columns.start :] - x[k]) ** 2
                weighed = self.model.lins[layer](gap) if self.model.lpips else gap.sum(1, keepdim=True)
                total[i, first : columns.stop] += weighed.mean((1, 2, 3)).double().cpu()

    def _layers(self, crops: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """The trunk's layers one after the other, features scaled to unit length."""
        h = self.model.scaling_layer(self._tensor(crops) / 127.5 - 1)
        for layer in range(self.model.L):
            piece = getattr(self.model.net, f"slice{layer + 1}")
            h = torch.cat([piece(h[i : i + BATCH]) for i in range(0, len(h), BATCH)])
            yield h / (h.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)


def _trunk(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ``features.J.x`` under lpips's names ``net.sliceK.J.x``; every trunk parameter must be there."""
    named = {}
    for key in model.net.state_dict():
        source = "features." + key.partition(".")[2]
        if source not in state:
            raise UsageError(f"the LPIPS trunk file lacks {source!r}; it is not torchvision's {model.pnet_type} file")
        named[f"net.{key}"] = state[source]
    return named
