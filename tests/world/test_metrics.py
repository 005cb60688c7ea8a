"""The oracle metrics: what they say of truths, of injected defects, and of prompts they know nothing about."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bench.metrics.sample import Sample
from bench.registry import find
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.colour_detector import Detection
from bench.world.render import render
from bench.world.scene import Scene, caption

SCENE = Scene("photo", "sea", "dawn", "clear", "sun", ("boat", 2))
EMPTY = Scene("photo", "sea", "dawn", "clear", None, None)
SEED = 2**31 + 55


@dataclass
class Reading:
    detections: list[Detection]
    attributes: list[dict[str, str]]
    horizon: np.ndarray


@dataclass
class Oracle:
    """A learned oracle that says what it is told to say."""

    reading: Reading
    loops: Any = None

    def read(self, rgb: np.ndarray, loop: bool = False) -> Reading:
        self.loops = loop
        return self.reading


def measure(
    name: str,
    rgb: np.ndarray,
    scene: Scene | None = SCENE,
    oracle: Any = None,
    loop: bool = False,
    view: str = "whole",
    **knobs: Any,
) -> dict[Any, float | None]:
    metric = find("metrics", name)
    attributes = {"scene": scene.to_dict()} if scene else {}
    prompt = Prompt("p", caption(scene) if scene else "a harbour", "", attributes)
    sample = Sample(rgb, prompt, Canvas(rgb.shape[1], rgb.shape[0], loop), extractor=oracle, view=view)
    values = metric.fn(sample, **metric.resolve(knobs))
    assert {v.name for v in values} == set(metric.values)
    return {v.name if v.index is None else (v.name, v.index): v.value for v in values}


def test_the_truth_counts_one_and_repetition_is_counted_as_it_is() -> None:
    for k in (0, 1, 2, 5):
        found = measure("object-repetition", defects.copies(SCENE, 256, SEED, k).rgb)
        assert found["object-count"] == k
        assert found["object-excess"] == max(0, k - 1)
        assert found["object-exact"] == (k == 1)
        assert found["counted-error"] == 0
        assert found["object-count-net"] is None
        assert found["object-exact-net"] is None


def test_an_empty_sky_is_exact_only_without_any_unique_thing() -> None:
    right = measure("object-repetition", render(EMPTY, 256, SEED).rgb, EMPTY)
    assert (right["object-count"], right["object-excess"], right["object-exact"]) == (None, 0, 1)
    wrong = measure("object-repetition", defects.copies(SCENE, 256, SEED, 3).rgb, EMPTY)
    assert (wrong["object-count"], wrong["object-excess"], wrong["object-exact"]) == (None, 3, 0)
    assert right["counted-error"] is None


def test_a_larger_square_is_read_after_shrinking_where_the_view_says_so() -> None:
    large = render(SCENE, 32, SEED).rgb.repeat(4, axis=0).repeat(4, axis=1)
    assert measure("object-repetition", large, view="squash:32")["object-count"] == 1
    assert measure("object-repetition", np.full_like(large, 99), view="squash:32")["object-count"] == 0
    assert measure("object-repetition", large)["object-count"] is None


def test_missing_and_surplus_objects_are_errors_alike() -> None:
    rgb = render(SCENE, 256, SEED).rgb
    for n, error in ((1, 1), (3, 1)):
        asked = Scene("photo", "sea", "dawn", "clear", "sun", ("boat", n))
        assert measure("object-repetition", rgb, asked)["counted-error"] == error


def test_the_learned_oracle_is_reported_beside_the_colours_and_told_of_loops() -> None:
    twice = Reading([Detection("sun", 4, 4, 1.0), Detection("sun", 90, 4, 1.0)], [], np.full(256, 20.0))
    oracle = Oracle(twice)
    found = measure("object-repetition", render(SCENE, 256, SEED).rgb, oracle=oracle, loop=True)
    assert (found["object-count"], found["object-count-net"]) == (1, 2)
    assert (found["object-exact"], found["object-exact-net"]) == (1, 0)
    assert oracle.loops is True


def test_the_horizon_of_a_truth_is_level_and_a_break_is_measured() -> None:
    rgb = render(SCENE, 256, SEED).rgb
    level = measure("horizon-break", rgb)
    assert level["horizon-range"] == level["horizon-jump"] == 0
    assert level["horizon-range-net"] is None
    for rows in (2, 4):
        broken = measure("horizon-break", defects.horizon_break(rgb, rows, (96, 160)))
        assert broken["horizon-range"] == broken["horizon-jump"] == rows
    slope = Oracle(Reading([], [], np.linspace(18, 22, 256)))
    assert measure("horizon-break", rgb, oracle=slope)["horizon-range-net"] == pytest.approx(4)


def test_a_jump_at_the_seam_counts_only_on_loops() -> None:
    half = defects.horizon_break(render(SCENE, 256, SEED, loop=True).rgb, 3, (128,))
    rolled = np.roll(half, 128, axis=1)  # one step inside, one at the seam
    inside = np.concatenate([half[:, :128]] * 2, axis=1)
    assert measure("horizon-break", rolled, loop=True)["horizon-jump"] == 3
    assert measure("horizon-break", inside)["horizon-jump"] == 0


def test_caption_match_counts_what_is_said_and_read() -> None:
    rgb = render(SCENE, 64, SEED).rgb
    assert measure("caption-match", rgb)["caption-match"] == 1
    assert measure("caption-match", rgb, EMPTY)["caption-match"] == 0  # a sun in an empty sky
    no_moon = Scene("photo", "sea", "dawn", "clear", "lighthouse", ("boat", 2))
    assert measure("caption-match", rgb, no_moon)["caption-match"] == 0.5
    said = {"style": "photo", "time": "dawn", "biome": "sea", "weather": "clear"}
    half = Oracle(Reading([], [said, {**said, "time": "night", "biome": "city"}], np.full(64, 20.0)))
    found = measure("caption-match", rgb, oracle=half)
    assert found["caption-match", 0] == 1
    assert found["caption-match", 1] == 0.5
    assert found["caption-match"] == pytest.approx((1 + 1 + 1 + 0.5 + 0.5 + 1) / 6)


@pytest.mark.parametrize("name", ["object-repetition", "horizon-break", "caption-match"])
def test_numbers_without_a_known_truth_are_missing_not_zero(name: str) -> None:
    assert set(measure(name, render(SCENE, 64, SEED).rgb, None).values()) == {None}
    assert set(measure(name, np.zeros((64, 128, 3), dtype=np.uint8)).values()) == {None}


@pytest.mark.parametrize("name", ["object-repetition", "horizon-break", "caption-match"])
def test_black_pictures_have_numbers_too(name: str) -> None:
    assert all(v is None or np.isfinite(v) for v in measure(name, np.zeros((32, 256, 3), dtype=np.uint8)).values())
