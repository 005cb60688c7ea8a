"""A number against a knob or the width of the canvas, with the interval of every mean (``scrollbench curves``).

Drawn from the leaderboard of a suite that varies one thing. Its parts, where it has several: x is how many squares
wide a canvas is. Else a number at the end of its labels, as in ``PanoLlama u=3/4`` or ``weight 8``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import measures, run_command
from bench.analysis.samplers import labelled, values
from bench.errors import IncompleteError, UsageError
from bench.stats.intervals import bounds, finite

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

LABEL = re.compile(r"(?P<curve>.*?) ?(?P<knob>\w+)[= ](?P<x>\d+(\.\d+)?(/\d+)?)")
SQUARES = "width in squares"


def places(suite: Suite) -> Iterator[tuple[str, str, str, str, float]]:
    """(label, part, curve, what x is, x) of every point that the suite has."""
    for use in suite.methods:
        found = LABEL.fullmatch(use.label)
        for part in suite.parts:
            if len(suite.parts) > 1:
                yield use.label, part.name, use.label, SQUARES, part.canvas.width / part.canvas.height
            elif found:
                curve = found["curve"] or use.method.name
                yield use.label, part.name, curve, found["knob"], float(Fraction(found["x"]))


def points(store: Store, suite: Suite, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Means over prompts with their 95 % intervals (BCa), seeds averaged inside a prompt.

    Rows: ``{"metric", "curve", "knob", "x", "mean", "low", "high", "prompts"}``, in the suite's order.

    Raises:
        UsageError: a suite that varies nothing, or names that it does not measure.
        IncompleteError: the leaderboard holds none of its numbers.
    """
    wanted = [m for m in measures(suite, names) if not m.of_set]
    along = list(places(suite))
    if not along:
        raise UsageError(
            f"suite {suite.ref} varies nothing that could be an axis: it has one part, and no label that ends in a "
            f"number, as in `PanoLlama u=3/4`; the ablations are listed in docs/suites.md"
        )
    found = {label: values(labelled(store, suite, label), wanted) for label in dict.fromkeys(p[0] for p in along)}
    rows = []
    for measure in wanted:
        for label, part, curve, knob, x in along:
            each: dict[str, list[float]] = defaultdict(list)
            for (where, prompt, _), value in found[label][measure.name].items():
                if where == part and value is not None:
                    each[prompt].append(value)
            if each:
                means = np.array([np.mean(v) for v in each.values()])
                low, high = finite(*bounds(means, span=measure.range))
                rows.append({
                    "metric": measure.name, "curve": curve, "knob": knob, "x": x, "mean": float(means.mean()),
                    "low": low, "high": high, "prompts": len(means),
                })  # fmt: skip
    if not rows:
        raise IncompleteError(f"no numbers of suite {suite.ref} in {store.root}; make them with {run_command(suite)}")
    return rows


def draw(store: Store, suite: Suite, out: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Draw a panel for each number to a PNG, a row of them for each knob, and return :func:`points`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = points(store, suite, names)
    metrics, knobs = (list(dict.fromkeys(r[column] for r in rows)) for column in ("metric", "knob"))
    size = (3.6 * len(metrics), 3.2 * len(knobs))
    figure, axes = plt.subplots(len(knobs), len(metrics), figsize=size, dpi=160, layout="constrained", squeeze=False)
    for (knob, metric), ax in zip(product(knobs, metrics), axes.flat):
        mine = [r for r in rows if (r["knob"], r["metric"]) == (knob, metric)]
        for curve in dict.fromkeys(r["curve"] for r in mine):
            line = sorted((r for r in mine if r["curve"] == curve), key=lambda r: r["x"])
            x, mean, low, high = ([r[k] for r in line] for k in ("x", "mean", "low", "high"))
            (drawn,) = ax.plot(x, mean, marker="o", ms=4, lw=1.6, label=curve)
            ends = np.array([low, high], dtype=float)  # not a number where nothing can be told: a gap in the band
            ax.fill_between(x, *ends, color=drawn.get_color(), alpha=0.18, lw=0)
        ax.set(xlabel=knob, title=metric)
        ax.set_xticks(ticks := sorted({r["x"] for r in mine}), [f"{t:g}" for t in ticks])
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
    return rows
