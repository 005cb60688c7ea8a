"""Scoring by children gives the numbers of this process, and a metric that ends them is a failure on record."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from bench.pipeline.executors.children import Lost
from bench.pipeline.executors.choose import WORKERS
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import LOSSES, score
from bench.pipeline.score_plan import ScoreResult
from bench.pipeline.scorer import Scorer, Scorers, Texts
from bench.store import Store
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.extractors.test_declared import NETS
from tests.support.small import PLUGINS, SUITE, write_suite

METRICS = '''
import os

@metric("brink", scope="image", values={"brink": "none"}, prompted=True)
def brink(sample):
    """Ends the process on one prompt."""
    if sample.prompt.id == "reef":
        os._exit(0)
    return [Value("brink", 1.0)]

@metric("pit", scope="image", values={"pit": "none"})
def pit(sample):
    """Ends the process."""
    os._exit(0)

@metric("spread", scope="set", values={"spread": "lower"}, extractor="dino")
def spread(features, reference):
    """Distance of means."""
    return {"spread": float(abs(features.mean(0) - reference.mean(0)).sum())}

@metric("abyss", scope="set", values={"abyss": "lower"}, extractor="dino")
def abyss(features, reference):
    """Ends the process."""
    os._exit(0)
'''
NAMES = ("brightness", "brink", "pit", "spread", "abyss")


def suite_in(folder: Path, *metrics: str) -> Suite:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for level in (20, 90):
        Image.fromarray(np.full((8, 16, 3), level, np.uint8)).save(folder / "pictures" / f"{level}.png")
    (folder / "nets.py").write_text(NETS)
    (folder / "scale.txt").write_text("2.0")
    looks = f'extractor = "{folder / "nets.py"}@mean-colour"\nreference = "own"\n'
    text = SUITE.partition("[[metrics]]")[0] + "".join(
        f'[[metrics]]\nref = "plugins.py@{name}"\nlabel = "{name}"\n{looks if name in ("spread", "abyss") else ""}'
        for name in metrics
    )
    text += f'[references.own]\nkind = "folder"\npath = "{folder / "pictures"}"\n'
    return load_suite(write_suite(folder, text, PLUGINS + METRICS), {"methods": ["plugins.py@grain"]})


def scored(folder: Path, *metrics: str, crew: Crew) -> tuple[ScoreResult, list[dict[str, Any]]]:
    store = Store(folder / f"store-{crew.executor}")
    suite = suite_in(folder, *metrics)
    generate(make_plan(suite, store), store)
    result = score(suite, store, crew=crew)
    return result, [r for r in store.records() if r["kind"] in ("score", "set_score", "score_failure")]


def said(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {r["key"]: r["values"] for r in records if r["kind"] != "score_failure"}


def test_children_give_the_numbers_of_this_process(tmp_path: Path) -> None:
    here = said(scored(tmp_path, "brightness", "spread", crew=LOCAL)[1])
    there = said(scored(tmp_path, "brightness", "spread", crew=Crew("processes", workers=2))[1])
    assert len(here) == 4  # three pictures and their set
    assert there == here
    assert list((tmp_path / "store-processes" / "features").rglob("*.parquet"))  # what a worker saw is kept


class Mortal:
    """Children in this process: what their metrics would end is lost."""

    teams: ClassVar[list[list[str | None]]] = []

    def __init__(self, do: Any, crew: Crew) -> None:
        self.do = do.on("cpu")
        self.teams.append([scorer.ref for scorer in self.do.scorers])

    def __enter__(self) -> Mortal:
        return self

    def __exit__(self, *_: object) -> None:
        self.do.close()

    def all(self, item: Any, limit: float) -> None:
        self.do(item)

    def work(self, items: Iterable[Any], limit: Any, most: int | None = None) -> Iterator[Any]:
        def ends(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        for item in items:
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(os, "_exit", ends)
                    answer = self.do(item)
            except KeyboardInterrupt:
                answer = Lost("crash", "ended its process", True)
            yield item, answer


def test_a_metric_that_ends_its_process_fails_where_it_does_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WORKERS, "processes", Mortal)
    result, records = scored(tmp_path, *NAMES, crew=Crew("processes"))
    failed = Counter(r["metric"] for r in records if r["kind"] == "score_failure")
    assert failed == {"brink": 1, "pit": LOSSES, "abyss": 1}
    assert {r["message"] for r in records if r["kind"] == "score_failure"} == {"ended its process"}
    made = Counter(r["metric"] for r in records if r["kind"] != "score_failure")
    assert made == {"brightness": 3, "brink": 2, "spread": 1}
    assert (result.scored, result.failed, result.sets, result.sets_failed) == (5, 4, 1, 1)
    assert result.blocked == {"pit": "left alone after 3 workers: it ended its process"}


def test_networks_that_ship_share_their_workers_and_a_plug_in_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WORKERS, "processes", Mortal)
    monkeypatch.setattr(Mortal, "teams", [])
    scored(tmp_path, "brightness", "spread", crew=Crew("processes"))
    assert Mortal.teams == [[None], [str(tmp_path / "nets.py@mean-colour")]]
    Mortal.teams.clear()
    store = Store(tmp_path / "shipped")
    suite = load_suite(
        "miniature", {"methods": ["world-truth"], "metrics": ["gsd-dino", "clip-score", "sharpness"], "limit": 1}
    )
    generate(make_plan(suite, store), store)
    result = score(suite, store, crew=Crew("processes"))
    assert [len(team) for team in Mortal.teams] == [len({m.extractor for m in suite.metrics})]
    assert result.scored
    assert not result.blocked


def test_one_network_at_a_time_is_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    both = Scorers(tuple(Scorer(ref, store, "cpu", ()) for ref in ("world-vit", "world-cnn")))
    for turn in (0, 1, 0):
        both((turn, Texts(())))
        assert [s.ref for s in both.scorers if "network" in vars(s)] == [both.scorers[turn].ref]
    both.close()
    assert not any("network" in vars(s) for s in both.scorers)
