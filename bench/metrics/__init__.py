"""Metrics: each a pure function, a plug-in of the harness, and a thin ``torchmetrics.Metric`` for anybody's code.

    from bench.metrics import GSD
    gsd = GSD("dinov2-vitb14")
    gsd.update(images)          # (n, 3, h, w), uint8 or float in [0, 1]
    gsd.compute()

The classes are loaded on first use, so importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.metrics.modules import (
        FID,
        GSD,
        GSDLPIPS,
        KID,
        AdjacentLPIPS,
        AdjacentSSIM,
        AdjacentTV,
        CLIPScore,
        IntraLPIPS,
    )

__all__ = ["FID", "GSD", "GSDLPIPS", "KID", "AdjacentLPIPS", "AdjacentSSIM", "AdjacentTV", "CLIPScore", "IntraLPIPS"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.metrics import modules

    return getattr(modules, name)
