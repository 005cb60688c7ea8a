"""Ranks made again from a table's printed values, and where the printed ones do not follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.claims import AVERAGE, Block, Table
from bench.errors import UsageError, near
from bench.stats.ranks import average_rank

if TYPE_CHECKING:
    import pandas as pd


def block_ranks(block: Block) -> dict[str, dict[str, int]]:
    """Metric -> method -> rank, 1 the best; equal values share the better rank, as papers print them (1, 2, 2, 4)."""
    return {metric: {m: round(r) for m, r in average_rank([gains]).items()} for metric, gains in _gains(block).items()}


def average_ranks(block: Block) -> dict[str, float]:
    """Method -> mean of its ranks over all metrics, for a block without holes; else nothing."""
    columns = list(_gains(block).values())
    return average_rank(columns) if columns and all(set(c) == set(block.methods) for c in columns) else {}


def _gains(block: Block) -> dict[str, dict[str, float]]:
    """Metric -> method -> printed value, oriented so that more is better."""
    found: dict[str, dict[str, float]] = {}
    for metric in block.ranked:
        for method, claim in block.column(metric).items():
            if claim.gain is not None:
                found.setdefault(metric, {})[method] = claim.gain
    return found


def check_ranks(table: Table) -> list[str]:
    """Printed ranks and average ranks that do not follow from the printed values, and text that does not fit them."""
    found = []
    for block in table.blocks:
        made = block_ranks(block)
        for metric, column in made.items():
            for method, claim in block.column(metric).items():
                if claim.rank is not None and claim.rank != column[method]:
                    ties = [m for m in column if m != method and column[m] == column[method]]
                    why = f" (tie with {', '.join(ties)} at {claim.value})" if ties else ""
                    found.append(f"{metric}, {method}: printed rank {claim.rank}, by the values {column[method]}{why}")
        averages = average_ranks(block)
        for method, claim in block.column(AVERAGE).items():
            places = len(claim.value.partition(".")[2])
            if method in averages and f"{averages[method]:.{places}f}" != claim.value:
                found.append(f"{AVERAGE}, {method}: printed {claim.value}, by the values {averages[method]:.{places}f}")
        for metric, rank in table.said_ranks.items():
            printed = block.column(metric).get(table.own)
            if printed is not None and (shown := printed.rank or made[metric][table.own]) != rank:
                found.append(f"{metric}, {table.own}: rank {rank} by the paper's text, {shown} by its table")
    return found


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


def rank_table(table: pd.DataFrame, directions: Mapping[str, str], decimals: int | None = None) -> pd.DataFrame:
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
    import pandas as pd

    for column in table.columns:
        if directions.get(column) not in ("higher", "lower"):
            hint = "" if column in directions else f"; {near(str(column), directions)}"
            raise UsageError(f"{column!r}: expected higher or lower, got {directions.get(column)!r}{hint}")
    rounded = table if decimals is None else table.round(decimals)
    ranks = rounded.copy()
    for column in table.columns:
        sign = -1 if directions[column] == "lower" else 1
        gains = {str(method): sign * float(value) for method, value in rounded[column].dropna().items()}
        ranks[column] = pd.Series(average_rank([gains]), dtype=np.float64)
    ranks["average"] = ranks.mean(axis=1, skipna=False)
    return ranks
