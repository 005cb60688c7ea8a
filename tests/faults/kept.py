"""A store with pictures, scores, features and a leaderboard; and what of it must come back after any fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.pipeline.run import run
from bench.store import Store
from bench.store.index import query
from bench.suites.suite import Suite
from tests.support.small import SUITE, picture_ids, small

FEATURES = '[[metrics]]\nref = "gsd-dino"\nextractor = "dino@{}"\nview = "tiles"\n'


def suite_in(folder: Path, network: Path, **overrides: Any) -> Suite:
    """Three prompts by two methods, scored by a metric on pixels and one on a network's features."""
    return small(folder, SUITE + FEATURES.format(network), **overrides)


def answers(store: Store) -> dict[str, Any]:
    """All that a user asks a store for: pictures, read and checked, and every row of the leaderboard."""
    numbers = "select method, prompt_id, seed, metric, value from observation where metric != 'seconds' order by all"
    board = "select method, label, value, n from leaderboard where label != 'seconds' order by all"
    return {"pictures": picture_ids(store), "scores": query(store, numbers)[1], "board": query(store, board)[1]}


def done(suite: Suite, store: Store) -> dict[str, Any]:
    """The suite's run, and what the store answers after it."""
    assert run(suite, store).complete
    return answers(store)
