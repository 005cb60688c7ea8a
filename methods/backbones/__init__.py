"""Backbones: the networks that methods draw with. Importing this package does not import torch."""

from methods.backbones.factory import OPTIONS, Factory
from methods.backbones.protocols import (
    BackboneInfo,
    Conditioning,
    LatentBackbone,
    Scheduler,
    Tensor,
    TokensBackbone,
    TokenWalk,
    VideoBackbone,
)

__all__ = [
    "OPTIONS",
    "BackboneInfo",
    "Conditioning",
    "Factory",
    "LatentBackbone",
    "Scheduler",
    "Tensor",
    "TokenWalk",
    "TokensBackbone",
    "VideoBackbone",
]
