"""Metric validity: what each metric answers to a known defect of growing strength in rendered panoramas, as it is.

Nothing here is tuned to a wished-for answer. The unit is the panorama: every strength is applied to the same renders,
so differences are paired. ``scrollbench world validate`` prints the table, writes it and draws the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench import extractors, views
from bench.errors import UsageError, near
from bench.metrics.distribution import kernel_distance
from bench.prompts import load_prompts
from bench.registry import find
from bench.sample import Sample
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.render import HEIGHT, render
from bench.world.scene import STYLES, Scene

CANVAS = Canvas(8 * HEIGHT, HEIGHT)
SEAMS = range(HEIGHT, CANVAS.width, HEIGHT)
DRAWS = 1000  # bootstrap resamples of panoramas


@dataclass(frozen=True)
class Defect:
    """A defect and its strengths; the first is the truth. ``make(scene, seed, strength)`` draws it."""

    strengths: tuple[float, ...]
    make: Callable[[Scene, int, float], np.ndarray]
    loop: bool = False


def _truth(scene: Scene, seed: int, loop: bool = False) -> np.ndarray:
    return render(scene, CANVAS.width, seed, loop=loop).rgb


def _restyled(scene: Scene, seed: int) -> np.ndarray:
    other = STYLES[(STYLES.index(scene.style) + 1) % len(STYLES)]
    return _truth(Scene(**{**vars(scene), "style": other}), seed)


def _swapped(scene: Scene, seed: int, share: float) -> np.ndarray:
    """From the right, a share of the canvas shows another prompt's scene."""
    rgb, cut = _truth(scene, seed).copy(), round(CANVAS.width * (1 - share))
    rgb[:, cut:] = _truth(_scene(_pool()[(seed * 7 + 3) % len(_pool())]), seed + 1)[:, cut:]
    return rgb


DEFECTS: dict[str, Defect] = {
    "copies of the unique thing": Defect(
        (1, 0, 2, 3, 4, 5, 6, 7, 8), lambda s, seed, k: defects.copies(s, CANVAS.width, seed, int(k)).rgb
    ),
    "windows overwritten by one of them": Defect(
        (0, 1, 3, 7), lambda s, seed, k: defects.repeat(_truth(s, seed), int(k), seed)
    ),
    "windows out of order": Defect(
        (0, 2, 4, 8), lambda s, seed, k: defects.shuffle(_truth(s, seed), seed, moved=int(k))
    ),
    "seam, brightness step": Defect(
        (0, 0.05, 0.1, 0.2, 0.4), lambda s, seed, k: defects.seam(_truth(s, seed), k, SEAMS)
    ),
    "horizon break, px": Defect(
        (0, 1, 2, 4), lambda s, seed, k: defects.horizon_break(_truth(s, seed), int(k), SEAMS)
    ),
    "style drift": Defect(
        (0, 0.25, 0.5, 1), lambda s, seed, k: defects.drift(_truth(s, seed), _restyled(s, seed), k)
    ),
    "another prompt's scene, share": Defect((0, 0.25, 0.5, 1), _swapped),
    "blur, sigma in px": Defect((0, 0.5, 1, 2), lambda s, seed, k: defects.blur(_truth(s, seed), k)),
    "noise, sigma": Defect((0, 0.05, 0.1, 0.2), lambda s, seed, k: defects.noise(_truth(s, seed), k, seed)),
    "open loop, px": Defect(
        (0, 1, 2, 4), lambda s, seed, k: defects.open_loop(_truth(s, seed, loop=True), int(k)), loop=True
    ),
}  # fmt: skip
# (metric, view, extractor): stand-ins of the miniature.
Use = tuple[str, str | None, str | None]
METRICS: tuple[Use, ...] = (
    ("repeat-count", None, "world-vit"),
    ("gsd-dino", None, "world-vit"),
    ("gsd-lpips", None, "world-lpips"),
    ("intra-lpips", None, "world-lpips"),
    ("adjacent", None, "world-lpips"),
    ("adjacent", "ring", "world-lpips"),
    ("clip-score", "tiles", "world-clip"),
    ("clip-score", "squash", "world-clip"),
    ("clip-score", "centre", "world-clip"),
    ("object-repetition", None, "world-oracle"),
    ("horizon-break", None, "world-oracle"),
    ("caption-match", None, "world-oracle"),
)
SETS = ("kid-panoramas", "kid-squares")


@dataclass(frozen=True)
class Response:
    """What one number did as one defect grew.

    Attributes:
        defect, metric, view: which; direction: which way is better for it.
        n: panoramas on which it is defined at every strength; 1 for numbers of whole sets.
        strengths, means, low, high: mean over panoramas at each strength and its 95 % bootstrap interval (None for
            numbers of whole sets).
        spearman, spearman_low, spearman_high: mean over panoramas of the rank correlation with the strength (a
            number that never changes has 0), with its interval.
        detects: the smallest strength from which on the paired change from the truth is surely not zero.
        verdict: ``punishes``, ``rewards``, ``mixed`` (surely better at one strength and worse at another), ``blind``,
            or ``-`` where better has no meaning or there is no interval.
    """

    defect: str
    metric: str
    view: str
    direction: str
    n: int
    strengths: tuple[float, ...]
    means: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    detects: float | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class _Shared:
    """Features of the picture at hand, shared by all metrics that look the same way."""

    def __init__(self) -> None:
        self.kept: dict[Any, np.ndarray] = {}

    def get(self, key: tuple[str, str], compute: Callable[[], np.ndarray]) -> np.ndarray:
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


def total(names: list[str] | None = None) -> int:
    """How often :func:`validate` advances."""
    return sum(len(DEFECTS[n].strengths) for n in names or DEFECTS)


def validate(
    n: int = 200,
    seed: int = 0,
    names: list[str] | None = None,
    metrics: list[str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Response]:
    """Measure the response of every metric of the miniature to every defect on n panoramas.

    Args:
        n: panoramas, of prompts that name a unique thing, spread over the set; more than there are prompts go round.
        seed: renders are 2**31 + 10000 seed + i, none of them training pictures.
        names: only these of ``DEFECTS``.
        metrics: only these metrics, or ``kid``.
        advance: called after every strength.

    Raises:
        UsageError: an unknown defect, or fewer than two panoramas.
    """
    for name in names or ():
        if name not in DEFECTS:
            raise UsageError(f"unknown defect {name!r}; {near(name, DEFECTS)}")
    if n < 2:
        raise UsageError(f"validity needs at least 2 panoramas for an interval, got {n}")
    known = {m for m, _, _ in METRICS} | {"kid"}
    for metric in metrics or ():
        if metric not in known:
            raise UsageError(f"metric {metric!r} is not part of the validity page; {near(metric, known)}")
    prompts = [_pool()[i * len(_pool()) // n] for i in range(n)]
    uses = [use for use in METRICS if metrics is None or use[0] in metrics]
    networks = {e: extractors.load(e) for _, _, e in uses if e}
    cnn = extractors.load("world-cnn")
    references = _references(cnn, seed) if metrics is None or "kid" in metrics else {}
    rows: list[Response] = []
    for name in names or DEFECTS:
        defect = DEFECTS[name]
        canvas = Canvas(CANVAS.width, CANVAS.height, loop=defect.loop)
        values: dict[tuple[str, str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for strength in defect.strengths:
            features = []
            for i, prompt in enumerate(prompts):
                rgb = defect.make(_scene(prompt), 2**31 + 10000 * seed + i, strength)
                for key, value in _scores(rgb, prompt, canvas, uses, networks).items():
                    values[key][strength].append(np.nan if value is None else value)
                if references:
                    features.append(cnn.embed(views.crops(rgb, "tiles", canvas)))
            for label, reference in references.items():
                distance = kernel_distance(np.concatenate(features), reference)
                values[label, "tiles", "lower"][strength].append(distance)
            advance()
        rows += [respond(name, *key, found) for key, found in values.items()]
    return rows


@cache
def _pool() -> list[Prompt]:
    return [p for p in load_prompts("scrollworld@1").prompts if p.attributes["unique"]]


def _scene(prompt: Prompt) -> Scene:
    return Scene.from_dict(dict(prompt.attributes["scene"]))


def _scores(
    rgb: np.ndarray, prompt: Prompt, canvas: Canvas, uses: list[Use], networks: Mapping[str, Any]
) -> dict[tuple[str, str, str], float | None]:
    out: dict[tuple[str, str, str], float | None] = {}
    caches: dict[Any, Any] = {e: _Shared() for e in networks}
    for metric, view, extractor in uses:
        found = find("metrics", metric)
        if view == "ring" and not canvas.loop:
            continue
        network = networks[extractor] if extractor else None
        sample = Sample(rgb, prompt, canvas, None, network, view or found.view, "picture", caches.get(extractor))
        for v in found.fn(sample, **found.resolve({})):
            if v.index is None:
                out[v.name, sample.view, found.values[v.name]] = v.value
    return out


def _references(network: Any, seed: int) -> dict[str, np.ndarray]:
    """Features of true panoramas' windows and of native squares, other seeds than the pictures measured."""
    scenes = [_scene(p) for p in _pool()]
    out = {}
    for name, width, count in zip(SETS, (CANVAS.width, HEIGHT), (100, 800)):
        canvas = Canvas(width, HEIGHT)
        pictures = [render(scenes[i % len(scenes)], width, 2**32 + 10000 * seed + i).rgb for i in range(count)]
        out[name] = np.concatenate([network.embed(views.crops(rgb, "tiles", canvas)) for rgb in pictures])
    return out


def respond(defect: str, metric: str, view: str, direction: str, found: Mapping[float, list[float]]) -> Response:
    """Summarise values by strength; the first strength is the truth, every list has one value a panorama."""
    truth, order = next(iter(found)), sorted(found)
    table = np.array([found[s] for s in order], dtype=np.float64)
    table = table[:, np.isfinite(table).all(0)]  # paired: panoramas on which it is defined at every strength
    n = table.shape[1]
    nothing: tuple[float | None, ...] = (None,) * len(order)
    means: list[float | None] = [float(np.mean(line)) for line in table] if n else list(nothing)
    plain = (defect, metric, view, direction, n, tuple(order), tuple(means))
    if n < 2:
        return Response(*plain, nothing, nothing, None, None, None, None, "-")
    rng = np.random.default_rng(0)
    picks = rng.integers(0, n, (DRAWS, n))
    low, high = _interval(table[:, picks].mean(-1))
    ranks = np.array([spearmanr(order, c).statistic if np.ptp(c) > 0 else 0.0 for c in table.T])
    rank_low, rank_high = _interval(ranks[picks].mean(-1)[None])
    change_low, change_high = _interval((table - table[order.index(truth)])[:, picks].mean(-1))
    signs = np.sign(change_low) * (np.sign(change_low) == np.sign(change_high))
    return Response(
        *plain, tuple(low), tuple(high), float(ranks.mean()), rank_low[0], rank_high[0],
        _smallest(order, signs, truth), _verdict(direction, means, signs, order.index(truth)),
    )  # fmt: skip


def _interval(draws: np.ndarray) -> tuple[list[float], list[float]]:
    """95 % percentile interval of each row of bootstrap draws."""
    low, high = np.quantile(draws, (0.025, 0.975), axis=-1)
    return low.tolist(), high.tolist()


def _smallest(order: list[float], signs: np.ndarray, truth: float) -> float | None:
    """The smallest strength above the truth from which on all changes are sure and of one sign."""
    above = [i for i, s in enumerate(order) if s > truth]
    for start in above:
        rest = {float(signs[i]) for i in above if i >= start}
        if len(rest) == 1 and 0.0 not in rest:
            return order[start]
    return None


def _verdict(direction: str, means: list[float | None], signs: np.ndarray, truth: int) -> str:
    """Whether the number got worse (punishes), better (rewards), both (mixed) or neither (blind) beyond the truth."""
    goal = {"zero": 0.0, "one": 1.0}.get(direction)
    if direction == "none":
        return "-"
    worse: set[bool] = set()
    for i in range(truth + 1, len(means)):
        now, was = means[i], means[truth]
        if signs[i] == 0 or now is None or was is None:
            continue
        worse.add(abs(now - goal) > abs(was - goal) if goal is not None else (signs[i] > 0) == (direction == "lower"))
    return "blind" if not worse else "mixed" if len(worse) == 2 else "punishes" if worse == {True} else "rewards"
