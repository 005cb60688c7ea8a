"""Quality without a prompt: LAION's aesthetic heads on CLIP, and CLIP-IQA.

Both favour what their training squares had in common, and aesthetic heads favour repetition (DRSPO, figure 7: the
more repetitive panorama scores higher), so neither is read alone on panoramas.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.metrics.numbers import cosine
from bench.metrics.preference import along, looked_at
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value

IQA_PROMPTS = ("Good photo.", "Bad photo.")
IQA_SCALE = 100.0  # CLIP's own logit scale, fixed as in torchmetrics


def iqa_probability(crops: np.ndarray, good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """CLIP-IQA: how much nearer to the good text than to the bad, softmax of 100 cosines: (n,) float64 in [0, 1].

    Args:
        crops: picture features (n, d).
        good, bad: features of the two texts (d,).
    """
    likeness = cosine(np.vstack([good[None], bad[None], crops]))[:2, 2:]
    probability: np.ndarray = 1 / (1 + np.exp(IQA_SCALE * (likeness[1] - likeness[0])))
    return probability


@metric(
    "clip-aesthetic", scope="image", view="tiles", extractor="aesthetic", unit="rating", range=(None, None),
    values={"clip-aesthetic": "higher", "clip-aesthetic-worst": "higher"},
    source="Schuhmann et al., NeurIPS 2022 (LAION-5B): predictor v1 (linear) or v2 (sac+logos+ava1), by extractor",
)  # fmt: skip
def clip_aesthetic(sample: Sample) -> list[Value]:
    """LAION aesthetic rating, 1 to 10 in training, mean over the view's crops; stock view ``centre``.

    The heads' numbers differ (papers that say "CLIP-aesthetic" seldom say which), so the extractor is part of the name.
    """
    network: Any = sample.network()
    return along("clip-aesthetic", network.rate(looked_at(sample)).astype(np.float64))


@metric(
    "clip-iqa", scope="image", view="tiles", extractor="iqa", unit="", range=(0.0, 1.0),
    values={"clip-iqa": "higher", "clip-iqa-worst": "higher"},
    source="Wang et al., AAAI 2023, arXiv:2207.12396, in torchmetrics' formulation",
)  # fmt: skip
def clip_iqa(sample: Sample) -> list[Value]:
    """CLIP-IQA: probability of "Good photo." against "Bad photo.", mean over the crops; its program sees ``whole``."""
    good, bad = sample.network().embed_text(IQA_PROMPTS)
    return along("clip-iqa", iqa_probability(sample.features(), good, bad))
