"""Metrics: each a pure function, a plug-in of the harness, and a thin ``torchmetrics.Metric`` for anybody's code.

    from bench.metrics import GSD
    m = GSD()                      # through dinov2-vitb14; GSD("world-vit") needs no download
    m.update(images, prompts)      # (n, 3, h, w), uint8 or float in [0, 1]; one prompt a picture, here optional
    m.compute()

The classes are loaded on first use, so importing this package does not import torch.
"""

from typing import TYPE_CHECKING

from bench.lazy import names

if TYPE_CHECKING:
    from bench.metrics.modules.images import GSD as GSD
    from bench.metrics.modules.images import GSDLPIPS as GSDLPIPS
    from bench.metrics.modules.images import AdjacentLPIPS as AdjacentLPIPS
    from bench.metrics.modules.images import AdjacentSSIM as AdjacentSSIM
    from bench.metrics.modules.images import AdjacentTV as AdjacentTV
    from bench.metrics.modules.images import CLIPScore as CLIPScore
    from bench.metrics.modules.images import IntraLPIPS as IntraLPIPS
    from bench.metrics.modules.images import PanoramaTV as PanoramaTV
    from bench.metrics.modules.images import SeamTV as SeamTV
    from bench.metrics.modules.images import StyleL as StyleL
    from bench.metrics.modules.images import StyleLSum as StyleLSum
    from bench.metrics.modules.preference import CLIPIQA as CLIPIQA
    from bench.metrics.modules.preference import HPS as HPS
    from bench.metrics.modules.preference import Aesthetic as Aesthetic
    from bench.metrics.modules.preference import ImageReward as ImageReward
    from bench.metrics.modules.preference import PickScore as PickScore
    from bench.metrics.modules.sets import FID as FID
    from bench.metrics.modules.sets import IS as IS
    from bench.metrics.modules.sets import KID as KID
    from bench.metrics.modules.sets import FDDino as FDDino
    from bench.metrics.modules.sets import KDDino as KDDino
    from bench.metrics.modules.sets import RelativeFID as RelativeFID

__all__ = [
    "CLIPIQA", "FID", "GSD", "GSDLPIPS", "HPS", "IS", "KID", "AdjacentLPIPS", "AdjacentSSIM", "AdjacentTV", "Aesthetic",
    "CLIPScore", "FDDino", "ImageReward", "IntraLPIPS", "KDDino", "PanoramaTV", "PickScore", "RelativeFID", "SeamTV",
    "StyleL", "StyleLSum",
]  # fmt: skip

CLASSES = {
    "bench.metrics.modules.images": (
        "GSD GSDLPIPS IntraLPIPS AdjacentLPIPS AdjacentSSIM AdjacentTV PanoramaTV SeamTV StyleL StyleLSum CLIPScore"
    ),
    "bench.metrics.modules.preference": "HPS ImageReward PickScore Aesthetic CLIPIQA",
    "bench.metrics.modules.sets": "FID KID FDDino KDDino IS RelativeFID",
}
__getattr__ = names(__name__, {name: module for module, text in CLASSES.items() for name in text.split()})
