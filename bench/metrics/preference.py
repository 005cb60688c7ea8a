"""Learned human preference: HPS v2, ImageReward, PickScore; and two numbers that papers derive from such columns.

These scorers were trained on squares and, used as published, see little of a panorama: ImageReward and PickScore
the middle square, HPS a letterbox. Each metric here can look in two ways, and its rows say which:

    its stock view   (``letterbox`` for HPS, ``centre`` for the others) the whole picture goes through the official
                     preprocessing, so the number is what the official program prints
    ``tiles``        every square is asked for the whole prompt, mean and worst; no published number was made so

Under the other views each crop is judged alike. What a scorer cannot read of a long prompt (past 77 CLIP tokens, 35
of ImageReward's) is not scored: ``*-cut`` is 1 for such prompts, and scoring prints how many there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.metrics.numbers import cosine, number
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value


def similarity(crops: np.ndarray, text: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """``scale`` times the cosine between picture features (n, d) and one text feature (d,): (n,) float64."""
    return scale * cosine(np.vstack([text[None], crops]))[0, 1:]


def looked_at(sample: Sample) -> np.ndarray:
    """(n, d) features of the view's crops; under the network's stock view, of the whole picture by its own rules."""
    network: Any = sample.network()
    return network.embed_stock([sample.rgb]) if sample.view == network.stock else sample.features()  # type: ignore[no-any-return]


def along(name: str, scores: np.ndarray) -> list[Value]:
    """The mean and the worst of the crops, and every crop with its index; what is not finite is undefined."""
    each = [Value(name, number(float(s)), i) for i, s in enumerate(scores)]
    return [Value(name, number(float(scores.mean()))), Value(f"{name}-worst", number(float(scores.min()))), *each]


def _cut(name: str, sample: Sample) -> Value:
    network: Any = sample.network()
    return Value(f"{name}-cut", float(network.truncated([sample.prompt.text])[0]))


def _fitting(name: str, sample: Sample) -> list[Value]:
    network: Any = sample.network()
    text = network.embed_text([sample.prompt.text])[0]
    return [*along(name, similarity(looked_at(sample), text, network.scale)), _cut(name, sample)]


@metric(
    "hps", scope="image", view="tiles", extractor="hps", unit="cos", range=(-1.0, 1.0), prompted=True,
    values={"hps": "higher", "hps-worst": "higher", "hps-cut": "none"},
    source="Wu et al., 2023, arXiv:2306.09341 (HPS v2); v2.0 and v2.1 are two extractors",
)  # fmt: skip
def hps(sample: Sample) -> list[Value]:
    """HPS v2: cosine of picture and prompt in a CLIP tuned on human choices; stock view ``letterbox``."""
    return _fitting("hps", sample)


@metric(
    "pick-score", scope="image", view="tiles", extractor="pick", unit="", range=(None, None), prompted=True,
    values={"pick-score": "higher", "pick-score-worst": "higher", "pick-score-cut": "none"},
    source="Kirstain et al., NeurIPS 2023, arXiv:2305.01569",
)  # fmt: skip
def pick_score(sample: Sample) -> list[Value]:
    """PickScore, raw: logit scale times cosine, about 20; stock view ``centre``.

    Tables that print shares near 0.1 softmax the raw scores inside a group of methods: :func:`softmax_share`.
    """
    return _fitting("pick-score", sample)


@metric(
    "image-reward", scope="image", view="tiles", extractor="reward", unit="deviations", range=(None, None),
    prompted=True, source="Xu et al., NeurIPS 2023, arXiv:2304.05977",
    values={"image-reward": "higher", "image-reward-worst": "higher", "image-reward-cut": "none"},
)  # fmt: skip
def image_reward(sample: Sample) -> list[Value]:
    """ImageReward: BLIP reads picture and prompt together; standardised, so 0 is average; stock view ``centre``."""
    network: Any = sample.network()
    text = sample.prompt.text
    if sample.view == network.stock:
        scores = network.score_stock([sample.rgb], text)
    else:
        scores = network.score(sample.crops(), text)
    return [*along("image-reward", scores.astype(np.float64)), _cut("image-reward", sample)]
