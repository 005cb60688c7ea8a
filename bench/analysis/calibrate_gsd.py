"""Which GSD ScrollScape means: every reading of it on pictures of two methods whose numbers it prints.

The paper (Yu et al., ECCV 2026, arXiv:2603.24270, read through a note) prints GSD-LPIPS and GSD-DINOv2 of
MultiDiffusion and SyncDiffusion at 8:1 and says neither crops nor pairs nor networks. A variant here is a network
(its size, its pooling, the size that crops are resized to), a view (crops of the short side, disjoint or half
overlapping, or of half of it), pairs (all, or those at least half the panorama apart) and, of a cosine, whether it is
taken as it is or as (1 + cosine) / 2.

A variant's distance is the root of the mean square, over the methods, of its mean minus what is printed; means have
intervals over prompts. Prompts are resampled, all variants and methods on the same ones, for how often each variant is
the nearest. A likeness must also call a picture that is one square repeated a clone: at least 0.97 (PROPOSAL).
Nearest says no more than that: pictures are of other prompts, seeds and perhaps settings than the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import extractors
from bench.analysis.claims import find_table
from bench.analysis.columns import Measure
from bench.analysis.samplers import labelled, values
from bench.errors import PrerequisiteError, UsageError
from bench.metrics.sample import Sample
from bench.pipeline.score import score
from bench.registry import find
from bench.stats.means import bounds
from bench.store.index import build
from bench.suites.tables import MetricFile
from bench.types import Canvas, Prompt

if TYPE_CHECKING:
    from bench.progress import Progress
    from bench.store import Store
    from bench.suites.suite import Suite

TABLE, METHODS = "scrollscape:main", ("MultiDiffusion", "SyncDiffusion")
METRICS = {"gsd-lpips": "GSD-LPIPS", "gsd-dino": "GSD-DINOv2"}  # ours, and what the table calls it
CLONE, COPIES = 0.97, 4  # least likeness of a repeated square; pictures that squares are taken from
DRAWS = 2000  # resamples of the prompts

Points = Mapping[str, Mapping[str, float]]  # metric -> method -> printed value


@dataclass(frozen=True)
class Variant:
    """One reading of GSD.

    Attributes:
        pairs: ``all`` or ``distant``.
        scale: ``plain``, or ``half`` for (1 + cosine) / 2.
    """

    metric: str
    extractor: str
    view: str
    pairs: str
    scale: str = "plain"

    @property
    def value(self) -> str:
        """The metric's own name of it in the records."""
        return self.metric if self.pairs == "all" else f"{self.metric}-distant"

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Values on this scale."""
        return (1 + x) / 2 if self.scale == "half" else x


@dataclass(frozen=True)
class Trial:
    """A variant against what is printed.

    Attributes:
        means: by method; with their 95 % intervals over prompts.
        holds: whether both intervals hold what is printed.
        distance: from what is printed.
        nearest: share of the resamples in which no variant of the metric is nearer.
        clone: of repeated squares; None for distances, whose clone is 0 by definition.
    """

    variant: Variant
    means: Mapping[str, tuple[float, float, float]]
    holds: bool
    distance: float
    nearest: float
    clone: float | None

    @property
    def allowed(self) -> bool:
        """Whether repeated squares are clones to it."""
        return self.clone is None or self.clone >= CLONE


@dataclass(frozen=True)
class GsdCalibration:
    """What :func:`calibrate_gsd` found: trials, the nearest first in each metric."""

    suite: str
    prompts: int
    points: Points
    trials: tuple[Trial, ...]
    absent: Mapping[str, str]  # networks that are not here -> how to get them

    def best(self, metric: str) -> Trial | None:
        """The nearest variant of a metric that calls clones clones."""
        return next((t for t in self.trials if t.variant.metric == metric and t.allowed), None)


def published() -> Points:
    """The two methods' printed values."""
    (block,) = find_table(TABLE).blocks
    claims = {(c.metric, c.method): c.number for c in block.claims}
    return {ours: {m: float(claims[name, m] or 0) for m in METHODS} for ours, name in METRICS.items()}


def variants(suite: Suite) -> list[Variant]:
    """All readings on a suite's tier and canvas; the networks of its tier."""
    canvas = suite.parts[0].canvas
    views = ("tiles", "windows", f"tiles:{min(canvas.width, canvas.height) // 2}")
    found = []
    for metric in METRICS:
        role = str(find("metrics", metric).extractor)
        for network in networks(role, suite.tier):
            for view in views:
                for pairs in ("all", "distant"):
                    scales = ("plain", "half") if metric == "gsd-dino" else ("plain",)
                    found += [Variant(metric, network, view, pairs, scale) for scale in scales]
    return found


def networks(role: str, tier: str) -> list[str]:
    """Extractors of a role: the miniature's own, or the others; of a name and its long form the long form."""
    mine = [n for n, spec in extractors.NAMES.items() if spec.role == role]
    mine = [n for n in mine if n.startswith("world-") == (tier == "miniature")]
    return [n for n in mine if f"{n}-cls-224" not in mine]


def calibrate_gsd(
    store: Store, suite: Suite, points: Points | None = None, progress: Progress | None = None,
    device: str | None = None,
) -> GsdCalibration:  # fmt: skip
    """Score the pictures of MultiDiffusion and SyncDiffusion by every variant and hold them against what is printed.

    Args:
        store: with pictures of both; scores go there too, so that a second call computes what is new.
        suite: that has both, on one canvas.
        points: what to come near to: metric -> method -> value; the paper's by default.

    Raises:
        UsageError: a suite without the methods, or without pictures of them.
        PrerequisiteError: none of the networks is here.
    """
    points = published() if points is None else points
    labels = {m.label.casefold(): m.label for m in suite.methods}
    lacking = [m for m in METHODS if m.casefold() not in labels]
    if lacking:
        raise UsageError(f"suite {suite.ref} has no {' and no '.join(lacking)}; take scrollscape-table1")
    tried, absent = variants(suite), dict[str, str]()
    for network in dict.fromkeys(v.extractor for v in tried):
        try:
            extractors.find(network)
        except PrerequisiteError as error:
            absent[network] = str(error)
    tried = [v for v in tried if v.extractor not in absent]
    if not tried:
        raise PrerequisiteError(f"no network of GSD is here: {next(iter(absent.values()))}")
    uses = {(v.metric, v.extractor, v.view): f"{v.metric}[{v.extractor}]@{v.view}" for v in tried}
    files = [MetricFile(ref=m, extractor=e, view=view, label=name) for (m, e, view), name in uses.items()]
    chosen = [m for m in suite.spec.methods if m.name in {labels[m.casefold()] for m in METHODS}]
    suite = replace(suite, spec=suite.spec.model_copy(update={"metrics": files, "methods": chosen}), left_out=())
    score(suite, store, progress, device=device)
    build(store)
    numbers, pictures = _numbers(store, suite, tried, {m: labels[m.casefold()] for m in METHODS})
    clones = {key: _clone(store, key, pictures) for key in uses if key[0] == "gsd-dino"}
    n = next(iter(numbers.values())).shape[1]
    trials = [t for metric in METRICS for t in _trials(metric, tried, numbers, points[metric], clones)]
    return GsdCalibration(suite.ref, n, points, tuple(trials), absent)


def _numbers(
    store: Store, suite: Suite, tried: Sequence[Variant], labels: Mapping[str, str]
) -> tuple[dict[Variant, np.ndarray], list[str]]:
    """(methods, prompts) of each variant on the prompts that both methods have, and the first method's pictures."""
    uses = {(u.metric.name, u.extractor, u.view): u for u in suite.metrics}
    asked = {v: f"{v.value}[{v.extractor}]@{v.view}" for v in tried}  # scales share theirs
    wanted = {
        name: Measure(name, v.value, "none", "", uses[v.metric, v.extractor, v.view]) for v, name in asked.items()
    }
    sides = [labelled(store, suite, label) for label in labels.values()]
    cells = [{key: cell for key, cell in side.cells.items() if cell.image_id} for side in sides]
    read = [values(side, list(wanted.values())) for side in sides]
    keys = [
        key for key in cells[0]
        if all(key in c for c in cells) and all(r[name].get(key) is not None for r in read for name in wanted)
    ]  # fmt: skip
    prompts = list(dict.fromkeys(key[:2] for key in keys))
    if len(prompts) < 2:
        names = " ".join(f"--method {label}" for label in labels.values())
        raise UsageError(
            f"expected pictures of both methods for two prompts at least, got {len(prompts)}; `scrollbench run --suite "
            f"{suite.name} {names}` makes them"
        )
    found = {}
    for v, name in asked.items():
        rows = [[np.mean([r[name][k] for k in keys if k[:2] == p]) for p in prompts] for r in read]
        found[v] = v.scaled(np.array(rows, dtype=np.float64))
    return found, [str(cells[0][key].image_id) for key in keys[:COPIES]]


def _clone(store: Store, use: tuple[str, str, str], pictures: Sequence[str]) -> dict[str, float]:
    """The likeness of panoramas of one square repeated, by name of the value; the least of some."""
    metric, network, view = use
    loaded, found = extractors.load(network), list[dict[str, float]]()
    for image_id in pictures:
        rgb = store.read_image(image_id)
        side = min(rgb.shape[:2])
        rgb = np.tile(rgb[:side, :side], (1, rgb.shape[1] // side, 1))
        sample = Sample(rgb, Prompt("clone", ""), Canvas(rgb.shape[1], side), extractor=loaded, view=view)
        answered = find("metrics", metric).fn(sample)
        found.append({v.name: float(v.value) for v in answered if v.index is None and v.value is not None})
    return {name: min(one[name] for one in found) for name in found[0]}


def _trials(
    metric: str, tried: Sequence[Variant], numbers: Mapping[Variant, np.ndarray], printed: Mapping[str, float],
    clones: Mapping[tuple[str, str, str], Mapping[str, float]],
) -> Iterator[Trial]:  # fmt: skip
    mine = [v for v in tried if v.metric == metric]
    if not mine:
        return
    x = np.stack([numbers[v] for v in mine])  # (variants, methods, prompts)
    target = np.array([printed[m] for m in METHODS])
    n = x.shape[2]
    picks = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    counts = np.stack([np.bincount(pick, minlength=n) for pick in picks]) / n

    def distance(means: np.ndarray) -> np.ndarray:  # over the methods, the last axis but one
        far: np.ndarray = np.sqrt(((means - target[:, None]) ** 2).mean(-2))
        return far

    means, (low, high) = x.mean(2), bounds(x)
    nearest = np.bincount(distance(x @ counts.T).argmin(0), minlength=len(mine)) / DRAWS
    far = distance(means[..., None])[:, 0]
    for i in np.argsort(far, kind="stable"):
        v, clone = mine[i], clones.get((mine[i].metric, mine[i].extractor, mine[i].view), {}).get(mine[i].value)
        estimates = zip(means[i].tolist(), low[i].tolist(), high[i].tolist())
        holds = bool(((low[i] <= target) & (target <= high[i])).all())
        like = None if clone is None else float(v.scaled(np.float64(clone)))
        yield Trial(v, dict(zip(METHODS, estimates)), holds, float(far[i]), float(nearest[i]), like)


def rows(found: GsdCalibration) -> list[dict[str, Any]]:
    """A line for each trial, for a table."""
    return [
        {**asdict(t.variant), **{m: value for m, (value, _, _) in t.means.items()}, "distance": t.distance,
         "holds": t.holds, "nearest": t.nearest, "clone": t.clone, "allowed": t.allowed}
        for t in found.trials
    ]  # fmt: skip


def verdict(found: GsdCalibration) -> list[str]:
    """The nearest variant of each metric, in words."""
    said = []
    for metric, printed in found.points.items():
        best = found.best(metric)
        target = ", ".join(f"{m} {v:g}" for m, v in printed.items())
        if best is None:
            said.append(f"{metric} (printed: {target}): no variant calls repeated squares clones")
            continue
        v, means = best.variant, best.means.items()
        said.append(
            f"{metric} (printed: {target}): nearest is {v.extractor}@{v.view}, {v.pairs} pairs, {v.scale}: "
            + ", ".join(f"{m} {x:.3f} [{low:.3f}, {high:.3f}]" for m, (x, low, high) in means)
            + f"; distance {best.distance:.3f} over {found.prompts} prompts, nearest in {best.nearest:.0%} of resamples"
        )
    return said


def plain(found: GsdCalibration) -> dict[str, Any]:
    """As JSON."""
    best = {metric: found.best(metric) for metric in found.points}
    return {
        "suite": found.suite, "prompts": found.prompts, "points": {m: dict(p) for m, p in found.points.items()},
        "trials": rows(found), "absent": dict(found.absent),
        "nearest": {metric: asdict(t.variant) if t else None for metric, t in best.items()},
    }  # fmt: skip
