"""Metrics against the known truth of a ScrollWorld prompt: repetition, horizon, obedience. Undefined for other prompts.

Two detectors read a picture back: colour rules (:mod:`bench.world.colour_detector`) and, where its weights are given as
the extractor, a learned network. They share nothing, so where they agree the number can be believed.

They read the whole picture, or with the view ``squash:32`` what is left of a larger square of one scene.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Value
from bench.world.colour_detector import detect_colour, horizon_rows
from bench.world.render import HEIGHT
from bench.world.scene import UNIQUES, Scene

WINDOW_ATTRIBUTES = ("style", "time", "biome", "weather")


@metric(
    "object-repetition", scope="image", extractor="oracle", unit="things", range=(0.0, None), prompted=True,
    values={"object-count": "one", "object-count-net": "one", "object-excess": "lower", "object-exact": "higher",
            "object-exact-net": "higher", "counted-error": "lower"},
    source="ScrollWorld's known truth: every unique thing is asked for exactly once, whatever the width",
)  # fmt: skip
def object_repetition(sample: Sample) -> list[Value]:
    """How many of the prompt's one-and-only thing a panorama shows.

    ``object-count`` is undefined for an empty sky; there every unique thing is in excess, and exact means none.
    ``counted-error`` is \\|shown - asked\\| of the counted objects, undefined where none are asked for.
    """
    scene = _scene(sample)
    if scene is None:
        return [Value(name, None) for name in object_repetition.values]
    seen, learned = _kinds(sample, scene), _kinds_net(sample)
    return [
        Value("object-count", _count(seen, scene)),
        Value("object-count-net", _count(learned, scene)),
        Value("object-excess", float(max(0, _uniques(seen, scene) - bool(scene.unique)))),
        Value("object-exact", _exact(seen, scene)),
        Value("object-exact-net", _exact(learned, scene)),
        Value("counted-error", _miscount(seen, scene)),
    ]


@metric(
    "horizon-break", scope="image", extractor="oracle", unit="px", range=(0.0, float(HEIGHT)), prompted=True,
    values={"horizon-range": "lower", "horizon-jump": "lower", "horizon-range-net": "lower"},
    source="ScrollWorld's known truth: one horizon row along the whole canvas",
)  # fmt: skip
def horizon_break(sample: Sample, *, reach: int = 8) -> list[Value]:
    """How far the horizon wanders along a panorama: its range, and its largest change within ``reach`` px.

    Columns are laid over the picture's typical column; ``horizon-range-net`` is the learned oracle's own reading. On
    broken renders the colour rules follow the break more closely, so they are the headline.
    """
    if _scene(sample) is None:
        return [Value(name, None) for name in horizon_break.values]
    rows, read = horizon_rows(_picture(sample), sample.canvas.loop), _reading(sample)
    ahead = np.abs(np.roll(rows, -reach) - rows)
    change = ahead if sample.canvas.loop else ahead[:-reach]
    return [
        Value("horizon-range", float(np.ptp(rows))),
        Value("horizon-jump", float(change.max(initial=0.0))),
        Value("horizon-range-net", None if read is None else float(np.ptp(read.horizon))),
    ]


@metric(
    "caption-match", scope="image", extractor="oracle", unit="", range=(0.0, 1.0), prompted=True,
    values={"caption-match": "higher", "caption-match-net": "higher"},
    source="ScrollWorld's known truth: what the caption says",
)  # fmt: skip
def caption_match(sample: Sample) -> list[Value]:
    """Share of what the caption says that is read back from the picture.

    The unique thing and the counted objects each count as right or wrong over the whole canvas; style, time, biome
    and weather, which only the learned oracle reads, count by the share of 32-px windows that have them. Rows with
    an index are single windows and hold those four alone. ``caption-match-net`` takes the learned oracle's word for
    things, too: a reward to train on that leaves the colour rules as the judge.
    """
    scene = _scene(sample)
    if scene is None:
        return [Value(name, None) for name in caption_match.values]
    read = _reading(sample)
    if read is None:
        return [Value("caption-match", _match(_kinds(sample, scene), scene, [])), Value("caption-match-net", None)]
    right = np.array([[w[a] == getattr(scene, a) for a in WINDOW_ATTRIBUTES] for w in read.attributes], dtype=float)
    shares = right.mean(axis=0).tolist()
    whole = Value("caption-match", _match(_kinds(sample, scene), scene, shares))
    learned = Value("caption-match-net", _match([d.kind for d in read.detections], scene, shares))
    return [whole, learned, *(Value("caption-match", float(v), i) for i, v in enumerate(right.mean(axis=1)))]


def _match(seen: list[str], scene: Scene, shares: list[float]) -> float:
    parts = [_uniques(seen, scene) == bool(scene.unique), *([not _miscount(seen, scene)] if scene.counted else [])]
    return float(np.mean([*parts, *shares]))


def _picture(sample: Sample) -> np.ndarray:
    return sample.crops()[0] if sample.view.startswith("squash") else sample.rgb


def _scene(sample: Sample) -> Scene | None:
    data: Any = sample.prompt.attributes.get("scene")
    height, width = _picture(sample).shape[:2]
    if data is None or height != HEIGHT or width < HEIGHT:
        return None
    return Scene.from_dict(data)


# The three metrics look at one picture one after the other: the latest answer of each detector is kept.
_LATEST: dict[str, tuple[np.ndarray, tuple[Any, ...], Any]] = {}


def _once(detector: str, sample: Sample, about: tuple[Any, ...], look: Callable[[], Any]) -> Any:
    kept, about = _LATEST.get(detector), (*about, sample.view)
    if kept is None or kept[0] is not sample.rgb or kept[1] != about:
        _LATEST[detector] = kept = (sample.rgb, about, look())
    return kept[2]


def _reading(sample: Sample) -> Any:
    oracle: Any = sample.extractor
    if oracle is None:
        return None
    loop = sample.canvas.loop
    return _once("net", sample, (oracle, loop), lambda: oracle.read(_picture(sample), loop=loop))


def _kinds(sample: Sample, scene: Scene) -> list[str]:
    loop = sample.canvas.loop
    seen = _once("colour", sample, (scene, loop), lambda: detect_colour(_picture(sample), scene, loop=loop))
    return [d.kind for d in seen]


def _kinds_net(sample: Sample) -> list[str] | None:
    read = _reading(sample)
    return None if read is None else [d.kind for d in read.detections]


def _uniques(seen: list[str], scene: Scene) -> int:
    return seen.count(scene.unique) if scene.unique else sum(k in UNIQUES for k in seen)


def _count(seen: list[str] | None, scene: Scene) -> float | None:
    return None if seen is None or scene.unique is None else float(seen.count(scene.unique))


def _exact(seen: list[str] | None, scene: Scene) -> float | None:
    return None if seen is None else float(_uniques(seen, scene) == bool(scene.unique))


def _miscount(seen: list[str], scene: Scene) -> float | None:
    if scene.counted is None:
        return None
    kind, asked = scene.counted
    return float(abs(seen.count(kind) - asked))
