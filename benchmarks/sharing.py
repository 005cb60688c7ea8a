"""What sharing features saves: metrics scored one by one, each in a fresh store, over all of them together."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.plan import make_plan
from bench.run import generate
from bench.score import score
from bench.store import Store
from bench.suite import load_suite
from benchmarks import scoring
from benchmarks.timing import Report, Settings, clocked, ratio, rounds

ROUNDS = 3
PICTURES, SQUARES = 8, 12  # of the miniature; for the Inception
METRICS = ("gsd-lpips", "intra-lpips", "adjacent")  # for --quick
Numbers = dict[str, object]
Score = Callable[[Sequence[str]], tuple[float, Numbers]]  # these metrics (none: all), in a fresh store


def miniature(root: Path, pictures: int, metrics: Sequence[str], device: str) -> tuple[list[str], Score]:
    """The suite ``miniature`` on drawn truths: its metrics, and how to score some of them."""
    truth = {"methods": ["world-truth"], "limit": pictures}
    chosen = load_suite("miniature", {**truth, "metrics": list(metrics)})
    made = Store(root / "store")
    generate(make_plan(chosen, made), made)

    def fresh(names: Sequence[str]) -> tuple[float, Numbers]:
        shutil.rmtree(root / "fresh", ignore_errors=True)
        shutil.copytree(root / "store", root / "fresh")
        store = Store(root / "fresh")
        suite = load_suite("miniature", {**truth, "metrics": list(names or metrics)})
        took = clocked(lambda: score(suite, store, device=device), device)
        ledger = store.ledger()
        return took, {key: r["values"] for key, r in ledger.scored.items()}

    return [use.label for use in chosen.metrics], fresh


def apart(metrics: Sequence[str], fresh: Score) -> tuple[float, Numbers]:
    """Seconds of scoring metric by metric, and all numbers."""
    took: float = 0
    numbers: Numbers = {}
    for name in metrics:
        seconds, found = fresh([name])
        took += seconds
        numbers |= found
    return took, numbers


def compare(name: str, metrics: Sequence[str], fresh: Score, repeats: int, report: Report) -> None:
    """Time both ways in turn and add the ratio to a report; their numbers must be the same."""
    together, separate = fresh(())[1], Numbers()

    def one_by_one() -> float:
        nonlocal separate
        took, separate = apart(metrics, fresh)
        return took

    times = rounds({"apart": one_by_one, "together": lambda: fresh(())[0]}, repeats)
    if not together or together != separate:
        report.faults.append(f"{name}: metrics scored apart give other numbers than together")
    report.ratios.append(ratio(f"apart / together, {name}", times["apart"], times["together"]))
    report.facts[f"{name}: metrics"] = ", ".join(metrics)
    report.facts[f"{name}: numbers compared"] = len(together)


def sharing(told: Settings) -> Report:
    """Seconds of scoring metrics one by one over those of scoring them together."""
    repeats, report = told.repeats or ROUNDS, Report()
    pictures = told.pictures or (2 if told.quick else PICTURES)
    names, fresh = miniature(told.work / "miniature", pictures, METRICS if told.quick else (), told.device)
    compare(f"miniature, {pictures} pictures", names, fresh, repeats, report)
    n = told.pictures or (8 if told.quick else SQUARES)
    material = scoring.prepare(told.work / "inception", n, 64 if told.quick else scoring.SIDE)

    def inception(chosen: Sequence[str]) -> tuple[float, Numbers]:
        scored = scoring.ours(material, told.device, chosen)
        return scored.seconds, dict(scored.numbers)

    one_network = [use.label for use in material.suite().metrics]
    compare(f"fid, kid and is, {n} pictures", one_network, inception, repeats, report)
    return report
