"""Prompt alignment: CLIPScore of the crops of a panorama."""

from __future__ import annotations

import numpy as np

from bench.metrics.numbers import cosine, number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value


def clip_scores(crops: np.ndarray, text: np.ndarray) -> np.ndarray:
    """100 times the cosine between image features (n, d) and one text feature (d,): (n,) float64.

    torchmetrics' convention: no factor 2.5, and a floor at zero only under the mean of a whole set, never per picture.
    """
    return 100 * cosine(np.vstack([text[None], crops]))[0, 1:]


@metric(
    "clip-score", scope="image", view="tiles", extractor="clip", unit="100 cos", range=(-100.0, 100.0), prompted=True,
    values={"clip-score": "higher", "clip-score-worst": "higher"},
    source="Hessel et al., EMNLP 2021 (CLIPScore), scaled as in torchmetrics",
)  # fmt: skip
def clip_score(sample: Sample) -> list[Value]:
    """Mean CLIPScore of the view's crops, with the score of every crop along the panorama.

    Under ``tiles`` this asks every square for the whole prompt: a square of sky is not "a castle by a lake", so the
    number is below what a square picture of the same quality gets. ``squash`` or ``centre`` ask once.
    """
    text = sample.network().embed_text([sample.prompt.text])[0]
    scores = clip_scores(sample.features(), text)
    along = [Value("clip-score", number(float(s)), i) for i, s in enumerate(scores)]
    return [
        Value("clip-score", number(float(scores.mean()))),
        Value("clip-score-worst", number(float(scores.min()))),
        *along,
    ]
