"""Object repetition in real pictures: an open-vocabulary detector counts the prompt's one-and-only thing.

ScrollWorld knows its truth (:mod:`bench.world.metrics`); for other prompts that name a ``unique`` thing this counts
what a detector finds. A panorama is read in overlapping squares, because a detector resizes what it gets to one square:
shown whole, a 6:1 panorama would shrink its things six times. The boxes of all squares are then put together so that
a thing across the border of squares counts once:

1. in each square, boxes below a score are dropped and overlapping ones suppressed;
2. in what two squares share, both saw the same pixels. Two boxes cut down to that common part are the same thing if
   they agree there; a thing is whatever is linked by such agreements, however many squares it spans.

The score a box must have, the overlaps and the wording of the query are PROPOSALS: nothing here was compared with
counts by people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.errors import UsageError
from bench.metrics.sample import Sample
from bench.registry import metric
from bench.types import Canvas, Value
from bench.views import Box


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1; 0 where a box has no area."""
    inner = _area(_clipped(a, b))
    union = _area(a) + _area(b) - inner
    return inner / union if union > 0 else 0.0


def suppress(boxes: np.ndarray, threshold: float, most: float) -> np.ndarray:
    """Non-maximum suppression: the boxes above a score, best first, none overlapping a better one too much.

    Args:
        boxes: (n, 5) x0, y0, x1, y1, score.
        threshold: scores must be above it.
        most: the intersection over union at which the weaker of two boxes is dropped.
    """
    kept: list[np.ndarray] = []
    for box in sorted(boxes[boxes[:, 4] > threshold], key=lambda b: -b[4]):
        if _area(box) > 0 and all(overlap(box, k) < most for k in kept):
            kept.append(box)
    return np.array(kept, dtype=np.float64).reshape(-1, 5)


def merge(seen: Sequence[np.ndarray], windows: Sequence[Box], canvas: Canvas, agree: float) -> list[list[int]]:
    """Boxes of overlapping windows put together into things.

    Args:
        seen: for each window its boxes (n, 5), in pixels of that window, suppressed already.
        windows: where they lie; on a canvas that loops they may pass its right edge.
        canvas: the panorama.
        agree: two boxes are one thing if, cut to what their windows share, their intersection over union reaches it.

    Returns:
        For each thing the windows that show it, ascending.
    """
    turns = (-canvas.width, 0, canvas.width) if canvas.loop else (0,)
    areas = [np.array([w.x, w.y, w.x + w.w, w.y + w.h], dtype=float) for w in windows]
    placed = [(i, box[:4] + np.tile(areas[i][:2], 2)) for i, boxes in enumerate(seen) for box in boxes]
    parent = list(range(len(placed)))

    def root(k: int) -> int:
        while parent[k] != k:
            k = parent[k]
        return k

    for first, (i, a) in enumerate(placed):
        for second, (j, b) in enumerate(placed[:first]):
            if i == j:
                continue
            for turn in turns:
                aside = np.array([turn, 0, turn, 0])
                common = _clipped(areas[i], areas[j] + aside)
                if overlap(_clipped(a, common), _clipped(b + aside, common)) >= agree:
                    parent[root(first)] = root(second)
    things: dict[int, set[int]] = {}
    for k, (window, _) in enumerate(placed):
        things.setdefault(root(k), set()).add(window)
    return [sorted(shown) for shown in things.values()]


@metric(
    "unique-count", scope="image", view="windows", extractor="owl", unit="things", range=(0.0, None), prompted=True,
    values={"unique-count": "one", "unique-excess": "lower", "unique-exact": "higher"},
    source="OWLv2 (Minderer et al., NeurIPS 2023) on overlapping squares; thresholds and wording are ours",
)  # fmt: skip
def unique_count(
    sample: Sample, *, threshold: float = 0.2, nms: float = 0.5, agree: float = 0.5, query: str = "a photo of a {}"
) -> list[Value]:
    """How many of the prompt's one-and-only thing a panorama shows; undefined for prompts that name none.

    ``threshold``: the least score of a box. ``nms``, ``agree``: overlaps, see :func:`suppress` and :func:`merge`.
    ``query``: what the detector is asked, ``{}`` for the thing. Rows with an index count what one window shows. Under
    ``tiles`` nothing overlaps, and a thing across a border counts twice; on a canvas that loops the view ``ring``
    closes the edge. ``squash``, ``letterbox``, ``centre`` and ``whole`` ask once.
    """
    if "{}" not in query:
        raise UsageError(f"unique-count.query must hold {{}} where the thing goes, got {query!r}")
    thing = sample.prompt.attributes.get("unique")
    if not isinstance(thing, str) or not thing:
        return [Value(name, None) for name in unique_count.values]
    detector: Any = sample.network()
    seen = [suppress(b, threshold, nms) for b in detector.detect(sample.crops(), query.format(thing))]
    things = merge(seen, sample.boxes(), sample.canvas, agree)
    count = float(len(things))
    along = [Value("unique-count", float(len(boxes)), i) for i, boxes in enumerate(seen)]
    return [
        Value("unique-count", count),
        Value("unique-excess", max(0.0, count - 1)),
        Value("unique-exact", float(count == 1)),
        *along,
    ]


def _clipped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The part of one box inside another; without area where they do not meet."""
    return np.array([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])


def _area(box: np.ndarray) -> float:
    return max(0.0, float(box[2] - box[0])) * max(0.0, float(box[3] - box[1]))
