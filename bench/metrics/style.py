"""Intra-Style-L: how much the style of one panorama changes along it (SyncDiffusion).

A pair of crops has the style loss of Gatys et al.: Gram matrices of the first five convolutions of VGG-19
(:func:`bench.extractors.style.style_distances`). SyncDiffusion's released script adds up the pairs and never divides by
their number, so its values grow with the panorama: 15 times a pair's at 512x3072. Both are here:

    intra-style       mean over all pairs, comparable between widths
    intra-style-sum   sum over all pairs, what the script prints
"""

from __future__ import annotations

from bench.metrics.coherence import mean_of_pairs
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value


@metric(
    "intra-style", scope="image", view="tiles", extractor="style", unit="style loss", range=(0.0, None),
    values={"intra-style": "lower", "intra-style-sum": "lower"},
    source="SyncDiffusion, NeurIPS 2023 (Intra-Style-L), and its evaluation code",
)  # fmt: skip
def intra_style(sample: Sample) -> list[Value]:
    """Style loss between all pairs of crops of one panorama: their mean, and their sum as the released script has it.

    The script leaves out what remains beyond the last full 512 px; the view ``tiles`` adds a crop flush with the edge.
    """
    distances = sample.distances()
    mean, pairs = mean_of_pairs(distances), len(distances) * (len(distances) - 1) // 2
    return [
        Value("intra-style", mean),
        Value("intra-style-sum", mean * pairs if mean is not None else None),
    ]
