"""One page of :mod:`bench.world.validate`: a curve for every metric and defect, coloured by its verdict."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.world.validate import DEFECTS, Response

COLOURS = {"punishes": "#15803d", "rewards": "#b91c1c", "mixed": "#c2410c", "blind": "#6b7280", "-": "#1f2937"}
# Numbers that say the same as one on the page, or have no better and worse.
LEFT_OUT = (
    "gsd-dino-lag", "gsd-lpips-lag", "adjacent-tv-excess", "pl-lpips-adj", "pl-ssim-adj", "intra-style-sum",
    "object-excess", "object-exact", "horizon-jump",
)  # fmt: skip
SAME = {("clip-score-worst", "squash"), ("clip-score-worst", "centre")}  # one view: the worst is the mean
SHORT = {
    "copies of the unique thing": "copies",
    "windows overwritten by one of them": "windows cloned",
    "another prompt's scene, share": "other scene, share",
}


def write_responses(responses: Sequence[Response], path: Path) -> None:
    """All responses as a CSV file; lists are JSON. A file that is there keeps what was not measured anew."""
    kept = {_key(r): r for r in (read_responses(path) if path.exists() else ())} | {_key(r): r for r in responses}
    order = sorted(kept.values(), key=lambda r: list(DEFECTS).index(r.defect))
    rows = [{k: json.dumps(v) if isinstance(v, tuple) else v for k, v in r.to_dict().items()} for r in order]
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _key(response: Response) -> tuple[str, str, str]:
    return response.defect, response.metric, response.view


def read_responses(path: Path) -> list[Response]:
    """What :func:`write_responses` wrote."""
    with path.open(newline="", encoding="utf-8") as f:
        return [Response(**{k: _value(k, v) for k, v in row.items()}) for row in csv.DictReader(f)]


def _value(name: str, text: str) -> Any:
    if name in ("defect", "metric", "view", "direction", "verdict"):
        return text
    if name in ("strengths", "means", "low", "high"):
        return tuple(json.loads(text))
    if name == "n":
        return int(text)
    return float(text) if text else None


def verdict_table(responses: Sequence[Response]) -> str:
    """Markdown: every number's verdict on every defect, with its Spearman correlation and where it starts to see it."""
    across = [d for d in DEFECTS if any(r.defect == d for r in responses)]
    cell = {(r.metric, r.view, r.defect): r for r in responses}
    lines = [
        "| number | " + " | ".join(SHORT.get(d, d) for d in across) + " |",
        "|---" * (len(across) + 1) + "|",
    ]
    for metric, view in dict.fromkeys((r.metric, r.view) for r in responses if r.direction != "none"):
        said = [_said(cell.get((metric, view, d))) for d in across]
        lines.append(f"| {metric}@{view} | " + " | ".join(said) + " |")
    return "\n".join(lines) + "\n"


def _said(response: Response | None) -> str:
    if response is None or response.spearman is None:
        return "-"
    seen = f", from {response.detects:g}" if response.detects is not None else ""
    return f"{response.verdict} ({response.spearman:+.2f}{seen})"


def draw_page(responses: Sequence[Response], path: Path) -> None:
    """Draw metrics down, defects across; each cell has its own vertical scale, the truth a dotted line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [r for r in responses if not r.metric.startswith(LEFT_OUT) and (r.metric, r.view) not in SAME]
    across = [d for d in DEFECTS if any(r.defect == d for r in shown)]
    down = list(dict.fromkeys((r.metric, r.view) for r in shown))
    cell = {(r.metric, r.view, r.defect): r for r in shown}
    fig, grid = plt.subplots(
        len(down), len(across), figsize=(1.55 * len(across) + 2.2, 0.72 * len(down) + 1.6), squeeze=False
    )
    for line, (metric, view) in zip(grid, down):
        for axes, defect in zip(line, across):
            _cell(axes, cell.get((metric, view, defect)))
        direction = next(r.direction for r in shown if (r.metric, r.view) == (metric, view))
        better = {"lower": "lower is better", "higher": "higher is better", "zero": "0 is best", "one": "1 is best"}
        said = f"{metric}\n@{view}, {better.get(direction, 'no better')}"
        line[0].set_ylabel(said, rotation=0, ha="right", va="center", fontsize=6.5, labelpad=8)
    for axes, defect in zip(grid[0], across):
        axes.set_title(
            f"{SHORT.get(defect, defect)}\nn = {max(r.n for r in shown if r.defect == defect)}".replace(", ", ",\n"),
            fontsize=7.5,
        )
    key = "   ".join(f"{name}: {text}" for name, text in (
        ("green", "gets worse with the defect"), ("red", "gets better: rewards it"), ("orange", "both"),
        ("grey", "does not see it"), ("black", "no interval or no better"),
    ))  # fmt: skip
    fig.suptitle(
        f"What metrics answer to known defects of rendered panoramas (means, 95 % intervals; numbers: Spearman)\n{key}",
        fontsize=8, y=0.998,
    )  # fmt: skip
    fig.tight_layout(rect=(0, 0, 1, 0.985), h_pad=0.25, w_pad=0.4)
    fig.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(fig)


def _cell(axes: Any, response: Response | None) -> None:
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=5, length=1.5, pad=1)
    axes.yaxis.get_offset_text().set_fontsize(5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if response is None or None in response.means:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "-", ha="center", va="center", transform=axes.transAxes, fontsize=7, color="#9ca3af")
        return
    x, colour = range(len(response.strengths)), COLOURS[response.verdict]
    truth = DEFECTS[response.defect].strengths[0]
    axes.axhline(response.means[response.strengths.index(truth)], color="#d1d5db", lw=0.7, ls=":")
    if None not in response.low:
        axes.fill_between(x, response.low, response.high, color=colour, alpha=0.18, lw=0)
    axes.plot(x, response.means, color=colour, lw=1.2, marker="o", ms=1.8)
    axes.set_xticks(list(x), [f"{s:g}" for s in response.strengths], fontsize=4.8)
    axes.tick_params(axis="x", length=1.5, pad=1)
    if response.spearman is not None:
        axes.text(
            0.97, 0.95, f"{response.spearman:+.2f}", ha="right", va="top", transform=axes.transAxes, fontsize=5.5,
            color=colour,
        )  # fmt: skip
