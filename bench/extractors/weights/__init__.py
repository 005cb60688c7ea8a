"""Weights: the manifest of what the project can use, their digests, and how they are fetched."""

from typing import TYPE_CHECKING

from bench.lazy import rooms

if TYPE_CHECKING:
    from bench.extractors.weights import digests as digests
    from bench.extractors.weights import fetch as fetch
    from bench.extractors.weights import manifest as manifest
    from bench.extractors.weights import variants as variants

__getattr__ = rooms(__name__)
