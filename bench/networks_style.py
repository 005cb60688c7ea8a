"""Style distance by Gram matrices, as an extractor of role ``style``; importing this module imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.extractors import Found
from bench.networks import Network, exact, read_weights, resized
from bench.networks_lpips import LPIPS_MIN

LAYERS = 5
SIZE = 512  # px; the released script resizes panoramas to this height
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, on values in [0, 1]


def style_distances(stages: Sequence[nn.Module], crops: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Style loss of Gatys et al. between all pairs of crops.

    A layer's Gram matrix is F F^T / (c h w) for features F of shape (c, h w); a pair's distance is the mean squared
    difference of their Gram matrices, summed over layers.

    Args:
        stages: networks applied one after the other; what each returns is a layer to compare.
        crops: uint8 (h, w, 3) of one size.
        dtype: of the network. Whatever it is, pixels are scaled to [0, 1] in float32, Gram matrices and sums are
            float64.

    Returns:
        (n, n) float64, symmetric, zero diagonal.
    """
    device = next(p for s in stages for p in s.parameters()).device
    mean, std = (torch.tensor(v, dtype=dtype, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    grams: list[list[Tensor]] = []
    for crop in crops:  # one at a time: features are large, Gram matrices small
        pixels = torch.from_numpy(np.array(crop)).to(device)
        scaled = pixels.permute(2, 0, 1)[None].float() / 255  # float32 whatever follows, as the released script has it
        h = (scaled.to(dtype) - mean) / std
        grams.append([])
        for stage in stages:
            h = stage(h)
            flat = h[0].flatten(1).double()
            grams[-1].append(flat @ flat.T / flat.numel())
    total = torch.zeros(len(crops), len(crops), dtype=torch.float64)
    for layer in zip(*grams):
        stacked = torch.stack(layer)
        for i in range(len(crops) - 1):
            total[i, i + 1 :] += ((stacked[i + 1 :] - stacked[i]) ** 2).mean((1, 2)).cpu()
    return total + total.T


def vgg19_stages(features: nn.Sequential) -> list[nn.Sequential]:
    """torchvision's VGG-19 features cut behind each of the first five convolutions (before their ReLU)."""
    stages: list[nn.Sequential] = [nn.Sequential()]
    for layer in features:
        stages[-1].append(layer)
        if isinstance(layer, nn.Conv2d):
            if len(stages) == LAYERS:
                return stages
            stages.append(nn.Sequential())
    raise UsageError(f"expected {LAYERS} convolutions, got {len(stages) - 1}; is this VGG-19?")


class Style(Network):
    """Style distance on VGG-19's first five convolutions; of a folder, on the first five stages of its LPIPS trunk.

    Crops are resized to 512 px squares for VGG-19 (bilinear, antialiased). The released script resizes the whole
    panorama to a height of 512 and then crops, which is the same where panoramas are 512 px high, and nearly
    elsewhere. A folder's trunk sees crops as they are, small ones enlarged as for LPIPS.
    """

    def __init__(self, found: Found, device: str) -> None:
        super().__init__(found, device)
        self.size: int | None
        if found.model:
            import torchvision

            with torch.device("meta"):  # no point in drawing weights that are read right after
                features = torchvision.models.vgg19(weights=None).features
            self.stages, self.size = vgg19_stages(features), SIZE
            state = {k.partition(".")[2]: v for k, v in read_weights(found.path).items() if k.startswith("features.")}
            wrong = features.state_dict().keys() - state.keys()
            if wrong:
                raise UsageError(f"{found.path} is not torchvision's VGG-19: it lacks features.{min(wrong)}")
            features.load_state_dict(state, assign=True)
        else:
            import lpips

            net = json.loads((found.path / "config.json").read_text(encoding="utf-8"))["net"]
            model = lpips.LPIPS(net=net, lpips=False, pretrained=False, pnet_rand=True, verbose=False)
            model.load_state_dict(read_weights(found.path / "model.safetensors"))
            self.stages, self.size = [getattr(model.net, f"slice{i + 1}") for i in range(LAYERS)], None
        for stage in self.stages:
            stage.float().eval().requires_grad_(False).to(device)

    def distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        sizes = {c.shape for c in crops}
        if self.size is None and len(sizes) > 1:
            raise UsageError(f"style compares crops of one size, got {sorted(sizes)}; use a view of squares")
        if len(crops) < 2:
            return np.zeros((len(crops), len(crops)), np.float32)
        height, width = (max(side, LPIPS_MIN) for side in crops[0].shape[:2])
        fitted = [resized(c, self.size or width, self.size or height, "bilinear") for c in crops]
        with exact():
            return style_distances(self.stages, fitted, torch.float32).float().numpy()
