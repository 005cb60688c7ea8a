"""The figure of this field: how many suns a method paints as the canvas grows (``scrollbench world figure``).

Drawn from the leaderboard of the suite ``miniature-width``: nothing in it is computed here but means and intervals.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.analysis.columns import text
from bench.errors import IncompleteError, UsageError, near
from bench.store.index import query
from bench.world.render import HEIGHT

if TYPE_CHECKING:
    from bench.store import Store

SUITE = "miniature-width"
DETECTORS = {"object-count-net": "learned oracle", "object-count": "colour detector"}
STYLE = {  # method: colour, name in the legend
    "multidiffusion": ("#c2410c", "MultiDiffusion"),
    "world-truth": ("#1d4ed8", "rendered truth"),
}


def interval(values: np.ndarray, draws: int = 4000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over prompts."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (draws, len(values))).mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def counts(store: Store, suite: str = SUITE) -> list[dict[str, Any]]:
    """Mean count a method, width and detector with its interval; the unit is the prompt, seeds averaged inside it.

    Rows: ``{"method", "detector", "width", "windows", "mean", "low", "high", "prompts", "pictures"}``.

    Raises:
        IncompleteError: the leaderboard holds no such suite.
    """
    wanted = ", ".join(f"'{d}'" for d in DETECTORS)
    _, rows = query(
        store,
        f"""select p.method, p.metric, t.width, p.value, p.seeds from pairs p join part t using (suite_digest, part)
            where p.suite like {text(f"{suite}@%")} and p.metric in ({wanted}) order by p.prompt_id""",
    )
    if not rows:
        raise IncompleteError(
            f"no counts of suite {suite} in {store.root}; make them with `scrollbench run --suite {suite}`"
        )
    cells: dict[tuple[str, str, int], list[tuple[float, int]]] = defaultdict(list)
    for method, metric, width, value, seeds in rows:
        cells[method, metric, width].append((value, seeds))
    out = []
    for (method, metric, width), found in sorted(cells.items()):
        values = np.array([v for v, _ in found])
        low, high = interval(values)
        out.append(
            {
                "method": method,
                "detector": DETECTORS[metric],
                "width": width,
                "windows": width // HEIGHT,
                "mean": float(values.mean()),
                "low": low,
                "high": high,
                "prompts": len(values),
                "pictures": int(sum(s for _, s in found)),
            }
        )
    return out


def draw_repetition(store: Store, out: Path, suite: str = SUITE, prompt_id: str | None = None) -> list[dict[str, Any]]:
    """Draw the figure to a PNG and return its numbers (:func:`counts`).

    Left the counts against the width, right one prompt (the suite's first, unless named) at every width.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = counts(store, suite)
    figure = plt.figure(figsize=(11, 3.9), dpi=160, layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.55))
    left, right = halves
    axes = left.subplots()
    for (method, detector), marker, line in zip(
        [(m, d) for m in STYLE for d in DETECTORS.values()], "osos", ("-", "--", "-", "--")
    ):
        mine = [r for r in rows if (r["method"], r["detector"]) == (method, detector)]
        if not mine:
            continue
        x, y = [r["windows"] for r in mine], np.array([r["mean"] for r in mine])
        error = np.abs(np.array([[r["low"], r["high"]] for r in mine]).T - y)
        colour, name = STYLE[method]
        axes.errorbar(
            x, y, error, color=colour, marker=marker, ls=line, ms=5, lw=1.6, capsize=3, label=f"{name}, {detector}"
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="canvas width, in native squares",
        ylabel="suns found (the prompt asks for one)",
    )
    ticks = sorted({r["windows"] for r in rows})
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)

    pictures = _pictures(store, suite, prompt_id)
    asked = pictures[0]["prompt"]
    panels = right.subplots(len(pictures), 1)
    widest = max(p["width"] for p in pictures)
    for panel, picture in zip(panels, pictures):
        panel.imshow(picture["rgb"], interpolation="nearest")
        panel.set(xlim=(-0.5, widest - 0.5), xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_title(
            f"{STYLE[picture['method']][1]}, {picture['width'] // HEIGHT} squares wide", loc="left", fontsize=8, pad=2
        )
    right.suptitle(f"“{asked}”", fontsize=9, x=0.01, ha="left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)
    return rows


def _pictures(store: Store, suite: str, prompt_id: str | None) -> list[dict[str, Any]]:
    """One prompt's pictures: MultiDiffusion at every width, then the truth at the largest."""
    named = text(f"{suite}@%")
    _, rows = query(
        store,
        f"""select picture.method, width, image_id, prompt_id, r.prompt
            from picture join recipe r using (recipe_id, prompt_id, width)
            where suite like {named} and picture.seed = (select min(seed) from picture where suite like {named})
            and image_id is not null order by width""",
    )
    shown = {r[3] for r in rows}
    chosen = prompt_id or min(shown)
    if chosen not in shown:
        raise UsageError(f"{suite} has no picture of a prompt {chosen!r}; {near(chosen, shown)}")
    mine = [dict(zip(("method", "width", "image_id", "prompt_id", "prompt"), r)) for r in rows if r[3] == chosen]
    wide = max(r["width"] for r in mine)
    kept = [r for r in mine if r["method"] == "multidiffusion"]
    kept += [r for r in mine if r["method"] == "world-truth" and r["width"] == wide]
    return [{**r, "rgb": store.read_image(r["image_id"])} for r in kept]
