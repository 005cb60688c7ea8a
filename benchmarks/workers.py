"""What a second worker brings: the same pictures of the miniature by one child process and by two, a thread each."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from unittest.mock import patch

from bench.pipeline.executors.children import Children, Lost
from bench.pipeline.maker import Maker
from bench.pipeline.plan import Plan, make_plan
from bench.store import Store
from bench.suites.load import load_suite
from benchmarks.timing import Report, Settings, ratio, rounds

ROUNDS, PICTURES = 3, 16
TARGET = 1.7  # on two cores that nobody else uses


def drawn(plan: Plan, store: Store, workers: int, device: str) -> tuple[float, float, dict[str, str]]:
    """Seconds of a plan's pictures by so many workers, this process's own seconds of it, and the pictures' ids.

    Left out: the first picture of each worker, for which it starts and loads the network.
    """
    first, rest = plan.jobs[:workers], plan.jobs[2:]
    with (
        patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
        Children([Maker(store, {"device": device})] * workers) as crew,
    ):
        for _ in crew.work([(job,) for job in first], lambda _: 3600):
            pass
        start, own, ids = time.perf_counter(), time.process_time(), {}
        for (job,), answer in crew.work([(job,) for job in rest], lambda _: 3600):
            if isinstance(answer, Lost):
                raise RuntimeError(answer.message)
            ids[job.recipe_id] = store.append(answer[0])["image_id"]
        return time.perf_counter() - start, time.process_time() - own, ids


def faults(by: Mapping[int, Mapping[str, str]]) -> list[str]:
    """What is wrong with the pictures, by number of workers."""
    one, two = by[1], by[2]
    return [] if one and one == two else ["two workers draw other pictures than one"]


def workers(told: Settings) -> Report:
    """Seconds of one worker over those of two."""
    pictures = told.pictures or (4 if told.quick else PICTURES)
    suite, report = load_suite("miniature", {"methods": ["direct"], "limit": pictures + 2}), Report()
    ids: dict[int, dict[str, str]] = {}
    shares: list[float] = []

    def side(count: int) -> float:
        store = Store(told.work / f"store-{count}")
        seconds, own, ids[count] = drawn(make_plan(suite, Store(told.work / "none")), store, count, told.device)
        shares.append(own / seconds)
        return seconds

    times = rounds({"one": lambda: side(1), "two": lambda: side(2)}, told.repeats or (1 if told.quick else ROUNDS))
    report.faults += faults(ids)
    report.ratios.append(ratio(f"one worker / two, {len(ids[1])} pictures", times["one"], times["two"]))
    report.facts["target where nobody else uses the cores"] = TARGET
    report.facts["share of a core that the driver takes, at most"] = max(shares)
    return report
