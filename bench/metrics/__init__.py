"""Metrics: each a pure function, a plug-in of the harness, and a thin ``torchmetrics.Metric`` for anybody's code.

    from bench.metrics import GSD
    m = GSD()                      # through dinov2-vitb14; GSD("world-vit") needs no download
    m.update(images, prompts)      # (n, 3, h, w), uint8 or float in [0, 1]; one prompt a picture, here optional
    m.compute()

The classes are loaded on first use, so importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.metrics.modules import (
        GSD,
        GSDLPIPS,
        AdjacentLPIPS,
        AdjacentSSIM,
        AdjacentTV,
        CLIPScore,
        IntraLPIPS,
        PanoramaTV,
        SeamTV,
        StyleL,
        StyleLSum,
    )
    from bench.metrics.modules_preference import CLIPIQA, HPS, Aesthetic, ImageReward, PickScore
    from bench.metrics.modules_sets import FID, IS, KID, FDDino, KDDino, RelativeFID

__all__ = [
    "CLIPIQA", "FID", "GSD", "GSDLPIPS", "HPS", "IS", "KID", "AdjacentLPIPS", "AdjacentSSIM", "AdjacentTV", "Aesthetic",
    "CLIPScore", "FDDino", "ImageReward", "IntraLPIPS", "KDDino", "PanoramaTV", "PickScore", "RelativeFID", "SeamTV",
    "StyleL", "StyleLSum",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.metrics import modules, modules_preference, modules_sets

    return next(getattr(m, name) for m in (modules, modules_sets, modules_preference) if hasattr(m, name))
