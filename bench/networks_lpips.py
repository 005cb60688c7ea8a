"""LPIPS as an extractor of role ``lpips``; importing this module imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import UsageError
from bench.extractors import Found, lpips_heads
from bench.networks import BATCH, Network, exact, read_weights, resized

LPIPS_MIN = 32  # px; below it the deeper layers have nothing left, so smaller crops are enlarged


class Lpips(Network):
    """LPIPS (Zhang et al., CVPR 2018) on crops of one size, v0.1, input scaled to [-1, 1].

    Each trunk layer is computed once for all crops and then compared in pairs, which equals the lpips package's
    pairwise call at a fraction of its work. A folder's config may leave the learned heads out (``"lpips": false``).
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
        self.model: Any = model.float().eval().requires_grad_(False).to(device)

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        sizes = {c.shape for c in crops}
        if len(sizes) > 1:
            raise UsageError(f"LPIPS compares crops of one size, got {sorted(sizes)}; use a view of squares")
        n = len(crops)
        total = torch.zeros(n, n, dtype=torch.float64)
        if n < 2:
            return total.float().numpy()
        height, width = crops[0].shape[:2]
        fitted = [resized(c, max(width, LPIPS_MIN), max(height, LPIPS_MIN)) for c in crops]
        with exact():
            h = self.model.scaling_layer(self._tensor(fitted) / 127.5 - 1)
            for layer in range(self.model.L):
                piece = getattr(self.model.net, f"slice{layer + 1}")
                h = torch.cat([piece(h[i : i + BATCH]) for i in range(0, n, BATCH)])
                unit = h / (h.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
                for i in range(n - 1):
                    gap = (unit[i + 1 :] - unit[i]) ** 2
                    weighed = self.model.lins[layer](gap) if self.model.lpips else gap.sum(1, keepdim=True)
                    total[i, i + 1 :] += weighed.mean((1, 2, 3)).double().cpu()
        return (total + total.T).float().numpy()


def _trunk(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ``features.J.x`` under lpips's names ``net.sliceK.J.x``; every trunk parameter must be there."""
    named = {}
    for key in model.net.state_dict():
        source = "features." + key.partition(".")[2]
        if source not in state:
            raise UsageError(f"the LPIPS trunk file lacks {source!r}; it is not torchvision's {model.pnet_type} file")
        named[f"net.{key}"] = state[source]
    return named
