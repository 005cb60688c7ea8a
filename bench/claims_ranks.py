"""Ranks made again from a table's printed values, and where the printed ones do not follow from them."""

from __future__ import annotations

from bench.claims import AVERAGE, Block, Table
from bench.stats import average_rank


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
