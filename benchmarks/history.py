"""Ratios of earlier runs: a line of JSON a run, and a picture of how they went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

LINES, PICTURE = "history.jsonl", "history.png"
COLUMNS = 3  # of the picture
SECONDS = "processor s"


class Point(NamedTuple):
    """A figure of a run, with the least and most of its rounds, and what machine it was."""

    run: int
    median: float
    low: float
    high: float
    machine: str


def keep(folder: Path, found: Mapping[str, Any]) -> Path:
    """Add a run's ratios, tables and facts to a folder's history, and draw it; returns the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LINES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(found, separators=(",", ":"), default=str) + "\n")
    return draw(read(folder), folder / PICTURE)


def read(folder: Path) -> list[dict[str, Any]]:
    """The runs of a history, the oldest first. A line that a stop cut short is left out."""
    runs = []
    for line in (folder / LINES).read_text(encoding="utf-8").splitlines():
        try:
            runs.append(json.loads(line))
        except ValueError:
            continue
    return runs


def series(runs: list[dict[str, Any]]) -> dict[str, list[Point]]:
    """By name, what every run measured in full: ratios, and the processor's seconds of the last row of each table."""
    found: dict[str, list[Point]] = {}
    for number, run in enumerate(runs):
        machine = f"{run['machine']['cpu']}, {run['machine']['device']}"
        for report in run["benchmarks"].values() if not run["quick"] else ():
            for r in report["ratios"]:
                found.setdefault(r["name"], []).append(Point(number, r["median"], r["low"], r["high"], machine))
            for title, rows in report["tables"].items():
                if SECONDS in rows[-1]:
                    value = rows[-1][SECONDS]
                    name = f"{title}, {next(iter(rows[-1].values()))}: {SECONDS}"
                    found.setdefault(name, []).append(Point(number, value, value, value, machine))
    return found


def draw(runs: list[dict[str, Any]], file: Path) -> Path:
    """A small picture for each ratio: its median and range along the runs, a colour for each kind of machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = series(runs)
    rows = max(1, -(-len(shown) // COLUMNS))
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(4.4 * COLUMNS, 2.4 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(shown) :]:
        ax.axis("off")
    machines = sorted({at.machine for points in shown.values() for at in points})
    for ax, (name, points) in zip(axes.flat, shown.items()):
        for n, machine in enumerate(machines):
            own = [at for at in points if at.machine == machine]
            at_run, medians = [at.run for at in own], [at.median for at in own]
            spread = [[at.median - at.low for at in own], [at.high - at.median for at in own]]
            ax.errorbar(at_run, medians, spread, fmt="o-", color=f"C{n}", markersize=4, capsize=2, label=machine)
        ax.set_title(name, fontsize=8, wrap=True)
        ax.set_xticks(range(len(runs)), [run["machine"]["date"][2:] for run in runs], fontsize=6, rotation=30)
        ax.tick_params(axis="y", labelsize=7)
        ax.set_ylim(bottom=0)
    if machines:
        figure.legend(machines, loc="outside lower center", fontsize=7)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
