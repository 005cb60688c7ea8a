"""What a training measured step by step, as a table and a figure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

SMOOTH = 50  # steps of the figure's running mean

Row = Mapping[str, float]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """One row a step, from 1, as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["step", *rows[0]])
        out.writerows([i, *(f"{value:.6g}" for value in row.values())] for i, row in enumerate(rows, 1))


def draw(path: Path, rows: Sequence[Row]) -> None:
    """A panel for each number: every step, and the running mean."""
    import matplotlib.figure
    import numpy as np

    figure = matplotlib.figure.Figure(figsize=(7, 2 * len(rows[0])), layout="constrained")
    steps = np.arange(1, len(rows) + 1)
    width = min(SMOOTH, len(rows))
    for name, axes in zip(rows[0], figure.subplots(len(rows[0]), 1, squeeze=False)[:, 0]):
        values = np.array([row[name] for row in rows])
        axes.plot(steps, values, color="0.8", linewidth=0.8)
        axes.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), color="0.1", linewidth=1.2)
        axes.set_ylabel(name)
    axes.set_xlabel("step")
    figure.savefig(path, dpi=120)
