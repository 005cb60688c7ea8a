"""What each metric answers to a known defect of growing strength in rendered panoramas, printed as it is.

Nothing here is tuned to a wished-for answer. ``scrollbench world validate`` prints the table; the docs hold one run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench import extractors, views
from bench.metrics.distribution import kernel_distance
from bench.prompts import load_prompts
from bench.registry import find
from bench.sample import Sample
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene

CANVAS = Canvas(8 * HEIGHT, HEIGHT)
SEAMS = range(HEIGHT, CANVAS.width, HEIGHT)
STRENGTHS: dict[str, tuple[float, ...]] = {
    "copies of the unique thing": (0, 1, 2, 4, 6, 8),
    "one square tiled (1) or the truth (0)": (0, 1),
    "seam, brightness step": (0, 0.05, 0.1, 0.2, 0.4),
    "horizon break, px": (0, 1, 2, 4),
    "blur, sigma in px": (0, 0.5, 1, 2),
}
METRICS = {
    "gsd-dino": "world-vit", "gsd-lpips": "world-lpips", "intra-lpips": "world-lpips", "adjacent": "world-lpips",
    "clip-score": "world-clip", "object-repetition": "world-oracle", "horizon-break": "world-oracle",
    "caption-match": "world-oracle",
}  # fmt: skip


def damaged(defect: str, strength: float, scene: Scene, seed: int) -> np.ndarray:
    """A panorama (32, 256, 3) of the scene with the defect at the strength; at the truth's strength it is the truth."""
    kind = defect.partition(" ")[0].rstrip(",")
    if kind == "copies":
        return defects.copies(scene, CANVAS.width, seed, int(strength)).rgb
    if kind == "one":
        return (
            defects.tile(render(scene, HEIGHT, seed).rgb, CANVAS.width)
            if strength
            else render(scene, CANVAS.width, seed).rgb
        )
    rgb = render(scene, CANVAS.width, seed).rgb
    if kind == "seam":
        return defects.seam(rgb, strength, SEAMS)
    if kind == "horizon":
        return defects.horizon_break(rgb, int(strength), SEAMS)
    return defects.blur(rgb, strength)


def validate(
    n: int = 40, seed: int = 0, defect: str | None = None, advance: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Measure the response of every metric of the miniature to every defect on n panoramas.

    Args:
        n: panoramas a strength; prompts that name a unique thing, spread over the set.
        seed: renders are 2**31 + 10000 seed + i, none of them training pictures.
        defect: only this one.
        advance: called after every strength.

    Returns:
        rows ``{"defect", "metric", "spearman", "responses": {strength: mean}}``; ``spearman`` is the mean over
        panoramas of the rank correlation with the strength, None where values are undefined or never change. KID has
        one value a strength, and no correlation.
    """
    pool = [p for p in load_prompts("scrollworld@1").prompts if p.attributes["unique"]]
    prompts = [pool[i * len(pool) // n] for i in range(n)]
    networks = {name: extractors.load(name) for name in {*METRICS.values(), "world-cnn"}}
    references = _references(networks["world-cnn"], seed)
    rows = []
    for name, strengths in STRENGTHS.items():
        if defect not in (None, name):
            continue
        values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for strength in strengths:
            features = []
            for i, prompt in enumerate(prompts):
                rgb = damaged(
                    name, strength, Scene.from_dict(dict(prompt.attributes["scene"])), 2**31 + 10000 * seed + i
                )
                for metric, extractor in METRICS.items():
                    for key, value in _score(metric, rgb, prompt, networks[extractor]).items():
                        values[key][strength].append(np.nan if value is None else value)
                features.append(networks["world-cnn"].embed(views.crops(rgb, "tiles", CANVAS)))
            for key, reference in references.items():
                values[key][strength].append(kernel_distance(np.concatenate(features), reference))
            advance()
        rows += [_row(name, metric, found) for metric, found in values.items()]
    return rows


def _score(metric: str, rgb: np.ndarray, prompt: Prompt, network: extractors.Extractor) -> dict[str, float | None]:
    found = find("metrics", metric)
    sample = Sample(rgb, prompt, CANVAS, None, network, found.view)
    return {v.name: v.value for v in found.fn(sample, **found.resolve({})) if v.index is None}


def _references(network: extractors.Extractor, seed: int) -> dict[str, np.ndarray]:
    """Features of true panoramas' windows and of native squares, other seeds than the pictures measured."""
    scenes = [
        Scene.from_dict(dict(p.attributes["scene"]))
        for p in load_prompts("scrollworld@1").prompts
        if p.attributes["unique"]
    ]
    out = {}
    for name, width, count in (("kid-panoramas", CANVAS.width, 100), ("kid-squares", HEIGHT, 800)):
        canvas = Canvas(width, HEIGHT)
        pictures = [render(scenes[i % len(scenes)], width, 2**32 + 10000 * seed + i).rgb for i in range(count)]
        out[name] = np.concatenate([network.embed(views.crops(rgb, "tiles", canvas)) for rgb in pictures])
    return out


def _row(defect: str, metric: str, found: dict[float, list[float]]) -> dict[str, Any]:
    table = np.array([found[s] for s in sorted(found)], dtype=np.float64)
    means = [float(np.mean(line)) if np.isfinite(line).all() else None for line in table]
    ranks = []
    if table.shape[1] > 1 and np.isfinite(table).all():
        ranks = [spearmanr(sorted(found), column).statistic for column in table.T if np.ptp(column) > 0]
    return {
        "defect": defect, "metric": metric, "spearman": float(np.mean(ranks)) if ranks else None,
        "responses": dict(zip((f"{s:g}" for s in sorted(found)), means)),
    }  # fmt: skip
