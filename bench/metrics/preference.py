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

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import UsageError, near
from bench.metrics.gsd import cosine, number
from bench.registry import metric
from bench.sample import Sample
from bench.types import Value

if TYPE_CHECKING:
    import pandas as pd


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


def softmax_share(scores: pd.DataFrame) -> pd.Series:
    """PickScore's share inside a comparison group, as DRSPO's tables print it: mean softmax over the methods.

    The shares of a group add up to 1 and change when a method joins or leaves, so they are comparable inside one
    table only (DRSPO has 0.096 in one table and 0.134 in the next); keep the raw scores.

    Args:
        scores: raw scores, a row a prompt (or picture pair), a column a method. Rows with a missing score are left
            out of all methods' means.

    Returns:
        The mean share of each method; NaN where no row is complete.
    """
    rows = scores.dropna().to_numpy(dtype=np.float64)
    import pandas as pd

    powers = np.exp(rows - rows.max(axis=1, keepdims=True)) if len(rows) else rows
    shares = powers / powers.sum(axis=1, keepdims=True)
    return pd.Series(shares.mean(axis=0) if len(rows) else np.nan, index=scores.columns, name="share")


def average_rank(table: pd.DataFrame, directions: Mapping[str, str], decimals: int | None = None) -> pd.DataFrame:
    """Ranks inside each column and their mean, as papers print them: ties share the best rank and the next is skipped.

    Ranks throw distances away and change with the company, so this is a column to compare with papers, not a verdict.

    Args:
        table: a row a method, a column a number.
        directions: ``higher`` or ``lower`` for every column.
        decimals: round the numbers first, as ranks read off a printed table do.

    Returns:
        The ranks (1 is best), and ``average``; both NaN where a number is missing.

    Raises:
        UsageError: a column without a direction, or another direction.
    """
    for column in table.columns:
        if directions.get(column) not in ("higher", "lower"):
            hint = "" if column in directions else f"; {near(str(column), directions)}"
            raise UsageError(f"{column!r}: expected higher or lower, got {directions.get(column)!r}{hint}")
    rounded = table if decimals is None else table.round(decimals)
    ranks = rounded.copy()
    for column in table.columns:
        ranks[column] = rounded[column].rank(method="min", ascending=directions[column] == "lower")
    ranks["average"] = ranks.mean(axis=1, skipna=False)
    return ranks
