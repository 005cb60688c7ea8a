"""Metric validity: what each metric answers to a known defect of growing strength in rendered panoramas, as it is.

Nothing here is tuned to a wished-for answer. The unit is the panorama: every strength is applied to the same renders,
so differences are paired. ``scrollbench world validate`` prints the table, writes it and draws the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import spearmanr

from bench import extractors, views
from bench.errors import UsageError, near
from bench.metrics.distribution import frechet_distance, inception_scores, kernel_distance
from bench.prompts import load_prompts
from bench.registry import find
from bench.sample import Sample
from bench.stats_sets import jackknife_error, leave_out, one_by_one
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
Key = tuple[str, str, str]  # metric, view, which way is better
Use = tuple[str, str | None, str | None]
METRICS: tuple[Use, ...] = (
    ("repeat-count", None, "world-vit"),
    ("gsd-dino", None, "world-vit"),
    ("gsd-lpips", None, "world-lpips"),
    ("intra-lpips", None, "world-lpips"),
    ("adjacent", None, "world-lpips"),
    ("adjacent", "ring", "world-lpips"),
    ("panollama", None, "world-lpips"),
    ("intra-style", None, "world-style"),
    ("sharpness", None, None),
    ("clip-score", "tiles", "world-clip"),
    ("clip-score", "squash", "world-clip"),
    ("clip-score", "centre", "world-clip"),
    ("object-repetition", None, "world-oracle"),
    ("horizon-break", None, "world-oracle"),
    ("caption-match", None, "world-oracle"),
)
# metric -> its network, its function of rows and reference, which way is better. The references are windows of true
# panoramas and native squares; ``is`` has none. relative-fid is fid less a constant, and answers as fid does.
Distance = Callable[..., float]
DISTANCES: dict[str, tuple[str, Distance]] = {
    "kid": ("world-cnn", kernel_distance),
    "fid": ("world-cnn", frechet_distance),
    "kd-dino": ("world-vit", kernel_distance),
    "fd-dino": ("world-vit", frechet_distance),
}
REFERENCES = {"panoramas": (CANVAS.width, 100), "squares": (HEIGHT, 800)}  # width, how many
SETS = (*DISTANCES, "is")


@dataclass(frozen=True)
class Response:
    """What one number did as one defect grew.

    Attributes:
        defect, metric, view: which; direction: which way is better for it.
        n: panoramas on which it is defined at every strength.
        strengths, means, low, high: mean over panoramas at each strength and its 95 % bootstrap interval; for a number
            of the whole set that number, with the jackknife interval over 20 blocks of panoramas.
        spearman, spearman_low, spearman_high: mean over panoramas of the rank correlation with the strength from the
            truth on (a number that never changes has 0), with its interval; that of a set, without.
        detects: the smallest strength from which on the paired change from the truth is surely not zero.
        verdict: ``punishes``, ``rewards``, ``mixed`` (surely better at one strength and worse at another), ``blind``,
            or ``-`` where better has no meaning or fewer than two panoramas have the number.
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
        metrics: only these metrics, by their names in ``METRICS`` and ``SETS``.
        advance: called after every strength.

    Raises:
        UsageError: an unknown defect or metric, or fewer than two panoramas.
    """
    for name in names or ():
        if name not in DEFECTS:
            raise UsageError(f"unknown defect {name!r}; {near(name, DEFECTS)}")
    if n < 2:
        raise UsageError(f"validity needs at least 2 panoramas for an interval, got {n}")
    known = {*(m for m, _, _ in METRICS), *SETS}
    for metric in metrics or ():
        if metric not in known:
            raise UsageError(f"metric {metric!r} is not part of the validity page; {near(metric, known)}")
    prompts = [_pool()[i * len(_pool()) // n] for i in range(n)]
    uses = [use for use in METRICS if metrics is None or use[0] in metrics]
    sets = [m for m in SETS if metrics is None or m in metrics]
    embedding = {DISTANCES[m][0] if m in DISTANCES else "world-cnn" for m in sets}
    networks = {e: extractors.load(e) for e in {*(e for _, _, e in uses if e), *embedding}}
    references = _references({e: networks[e] for e in embedding}, seed)
    rows: list[Response] = []
    for name in names or DEFECTS:
        defect = DEFECTS[name]
        canvas = Canvas(CANVAS.width, CANVAS.height, loop=defect.loop)
        values: dict[Key, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        of_sets: dict[Key, dict[float, np.ndarray]] = defaultdict(dict)
        for strength in defect.strengths:
            features: dict[str, list[np.ndarray]] = {e: [] for e in embedding}
            for i, prompt in enumerate(prompts):
                rgb = defect.make(_scene(prompt), 2**31 + 10000 * seed + i, strength)
                caches: dict[str, Any] = {e: _Shared() for e in networks}
                seen = Sample(rgb, prompt, canvas, image_id="picture")
                for key, value in _scores(seen, uses, networks, caches).items():
                    values[key][strength].append(np.nan if value is None else value)
                for e in embedding:
                    features[e].append(replace(seen, view="tiles", extractor=networks[e], cache=caches[e]).features())
            for key, found in _set_scores(sets, features, references, networks).items():
                of_sets[key][strength] = found
            advance()
        rows += [respond(name, *key, found) for key, found in values.items()]
        rows += [respond_set(name, *key, n, found) for key, found in of_sets.items()]
    return rows


@cache
def _pool() -> list[Prompt]:
    return [p for p in load_prompts("scrollworld@1").prompts if p.attributes["unique"]]


def _scene(prompt: Prompt) -> Scene:
    return Scene.from_dict(prompt.attributes["scene"])


def _scores(
    seen: Sample, uses: list[Use], networks: Mapping[str, Any], caches: Mapping[str, Any]
) -> dict[Key, float | None]:
    out: dict[Key, float | None] = {}
    for metric, view, extractor in uses:
        found = find("metrics", metric)
        if view == "ring" and not seen.canvas.loop:
            continue
        sample = replace(seen, view=view or found.view)
        if extractor:
            sample = replace(sample, extractor=networks[extractor], cache=caches[extractor])
        for v in found.fn(sample, **found.resolve({})):
            name = v.name if v.index is None else f"{v.name}-{v.index}"
            if v.index is None or v.name.endswith("-lag"):
                out[name, sample.view, found.values[v.name]] = v.value
    return out


def _references(networks: Mapping[str, Any], seed: int) -> dict[tuple[str, str], np.ndarray]:
    """(network, reference) -> features of its windows; other seeds than the pictures measured."""
    scenes, out = [_scene(p) for p in _pool()], {}
    for name, (width, count) in REFERENCES.items() if networks else ():
        canvas = Canvas(width, HEIGHT)
        pictures = [render(scenes[i % len(scenes)], width, 2**32 + 10000 * seed + i).rgb for i in range(count)]
        for extractor, network in networks.items():
            rows = [network.embed(views.crops(rgb, "tiles", canvas)) for rgb in pictures]
            out[extractor, name] = np.concatenate(rows)
    return out


def _set_scores(
    sets: list[str],
    features: Mapping[str, list[np.ndarray]],
    references: Mapping[tuple[str, str], np.ndarray],
    networks: Mapping[str, Any],
) -> dict[Key, np.ndarray]:
    """Every number of the whole set, first of all panoramas, then with each block of them left out."""
    out: dict[Key, np.ndarray] = {}
    for metric in sets:
        if metric == "is":
            groups = [networks["world-cnn"].logits(rows) for rows in features["world-cnn"]]
            out["is", "tiles", "higher"] = _replicates(groups, lambda rows: float(inception_scores(rows)[0]))
            continue
        network, distance = DISTANCES[metric]
        for name in REFERENCES:
            against = partial(distance, reference=references[network, name])
            out[f"{metric}-{name}", "tiles", "lower"] = _replicates(features[network], against)
    return out


def _replicates(groups: list[np.ndarray], statistic: Callable[[np.ndarray], float]) -> np.ndarray:
    return one_by_one(groups, statistic)(np.vstack([np.ones(len(groups)), leave_out(len(groups))]))


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
    start = order.index(truth)
    ranks = np.array([_rank_correlation(order[start:], column) for column in table[start:].T])
    rank_low, rank_high = _interval(ranks[picks].mean(-1)[None])
    change_low, change_high = _interval((table - table[start])[:, picks].mean(-1))
    signs = np.sign(change_low) * (np.sign(change_low) == np.sign(change_high))
    return Response(
        *plain, tuple(low), tuple(high), float(ranks.mean()), rank_low[0], rank_high[0],
        _smallest(order, signs, truth), _verdict(direction, means, signs, start),
    )  # fmt: skip


def respond_set(
    defect: str, metric: str, view: str, direction: str, n: int, found: Mapping[float, np.ndarray]
) -> Response:
    """Summarise a number of n panoramas together: by strength its value, then those without each block of them.

    Intervals are Student's t at one degree of freedom less than there are blocks. Changes are paired: the same block is
    left out of the truth.
    """
    truth, order = next(iter(found)), sorted(found)
    table = np.array([found[s] for s in order])  # (strengths, 1 + blocks)
    reach = float(stdtrit(table.shape[1] - 2, 0.975))

    def half(values: np.ndarray) -> np.ndarray:
        return np.array([reach * jackknife_error(line) for line in values[:, 1:]])

    start = order.index(truth)
    change, means = table - table[start], table[:, 0]
    signs = np.sign(change[:, 0]) * (abs(change[:, 0]) > half(change))
    return Response(
        defect, metric, view, direction, n, tuple(order), tuple(means.tolist()),
        tuple((means - half(table)).tolist()), tuple((means + half(table)).tolist()),
        _rank_correlation(order[start:], means[start:]), None, None,
        _smallest(order, signs, truth), _verdict(direction, list(means), signs, start),
    )  # fmt: skip


def _rank_correlation(strengths: list[float], values: np.ndarray) -> float:
    return float(spearmanr(strengths, values).statistic) if np.ptp(values) > 0 else 0.0


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
