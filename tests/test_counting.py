"""Counting the one-and-only thing: things across borders count once, whatever the windows; the detector is OWLv2."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import tiny_scorers
import torch
from close import products, rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bench import extractors
from bench.errors import UsageError
from bench.metrics.counting import merge, overlap, suppress, unique_count
from bench.registry import find
from bench.sample import Sample
from bench.types import Canvas, Prompt
from bench.views import boxes

SIDE = 64


class Fake:
    """A detector that knows where the things are, and sees in each window the part that lies in it."""

    name, role, digest, dim = "fake", "owl", "d", 0

    def __init__(self, things, canvas, view, least=0.0):
        self.things, self.canvas, self.windows, self.least = things, canvas, boxes(view, canvas), least
        self.asked = []

    def detect(self, crops, query):
        self.asked.append(query)
        assert len(crops) == len(self.windows)
        return [self._seen(w) for w in self.windows]

    def _seen(self, w):
        rows = []
        for x0, y0, x1, y1 in self.things:
            for turn in (-self.canvas.width, 0, self.canvas.width) if self.canvas.loop else (0,):
                left, right = max(x0 + turn, w.x), min(x1 + turn, w.x + w.w)
                top, bottom = max(y0, w.y), min(y1, w.y + w.h)
                share = max(0, right - left) * max(0, bottom - top) / ((x1 - x0) * (y1 - y0))
                if share > self.least:
                    rows.append([left - w.x, top - w.y, right - w.x, bottom - w.y, 0.5 + share / 4])
        return np.array(rows, dtype=np.float32).reshape(-1, 5)


def counted(things, canvas, view="windows", least=0.0, attributes=None, **knobs):
    detector = Fake(things, canvas, view, least)
    prompt = Prompt("p", "a red boat", attributes={"unique": "red boat"} if attributes is None else attributes)
    rgb = np.zeros((canvas.height, canvas.width, 3), np.uint8)
    sample = Sample(rgb, prompt, canvas, extractor=detector, view=view)
    return unique_count.fn(sample, **unique_count.resolve(knobs)), detector


def whole(values):
    return {v.name: v.value for v in values if v.index is None}


@st.composite
def scenes(draw, loop):
    """Things beside each other, 2 px or more apart, 3 px to two windows wide; on a loop they may cross the edge."""
    width = draw(st.integers(3 * SIDE, 6 * SIDE))
    at, things = draw(st.integers(0, SIDE)) if loop else 0, []
    first = at
    while len(things) < 8:
        x0 = at + draw(st.integers(2, 90))
        x1 = x0 + draw(st.integers(3, 2 * SIDE))
        if x1 > (first + width - 2 if loop else width):
            break
        y0 = draw(st.integers(0, SIDE - 4))
        things.append((x0, y0, x1, draw(st.integers(y0 + 3, SIDE))))
        at = x1
    return Canvas(width, SIDE, loop), things


@settings(max_examples=150, deadline=None)
@given(scenes(loop=False), st.sampled_from([0.0, 0.1]))
def test_each_thing_counts_once_wherever_the_borders_fall(scene, least):
    canvas, things = scene
    assert whole(counted(things, canvas, least=least)[0])["unique-count"] == len(things)


@settings(max_examples=150, deadline=None)
@given(scenes(loop=True))
def test_on_a_loop_a_thing_across_the_edge_counts_once(scene):
    canvas, things = scene
    assert whole(counted(things, canvas, "ring")[0])["unique-count"] == len(things)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), unique=True, max_size=8), st.integers(0, 40))
def test_on_a_large_canvas_things_are_told_apart_in_both_directions(cells, shift):
    canvas = Canvas(4 * SIDE + 40, 4 * SIDE + 40)
    things = [(SIDE * x + shift, SIDE * y + shift, SIDE * x + shift + 50, SIDE * y + shift + 50) for x, y in cells]
    assert whole(counted(things, canvas, f"windows:{SIDE}")[0])["unique-count"] == len(things)


def test_disjoint_tiles_count_a_thing_across_a_border_twice():
    canvas, thing = Canvas(4 * SIDE, SIDE), (SIDE - 10, 10, SIDE + 10, 30)
    assert whole(counted([thing], canvas, "tiles")[0])["unique-count"] == 2
    assert whole(counted([thing], canvas, "windows")[0])["unique-count"] == 1
    edge = (4 * SIDE - 10, 10, 4 * SIDE + 10, 30)
    loop = Canvas(4 * SIDE, SIDE, loop=True)
    assert whole(counted([edge], loop, "windows")[0])["unique-count"] == 2  # nothing overlaps across the edge
    assert whole(counted([edge], loop, "ring")[0])["unique-count"] == 1


def test_two_things_side_by_side_stay_two_where_a_union_of_overlaps_would_join_them():
    canvas = Canvas(3 * SIDE, SIDE)
    pair = [(60, 10, 80, 30), (81, 12, 101, 32)]
    assert whole(counted(pair, canvas)[0])["unique-count"] == 2
    windows = boxes("windows", canvas)
    seen = [suppress(b, 0.2, 0.5) for b in Fake(pair, canvas, "windows").detect(windows, "")]
    assert len(merge(seen, windows, canvas, agree=0.5)) == 2
    assert len(merge(seen, windows, canvas, agree=0.0)) == 1  # boxes that need not agree are all one thing


def test_what_is_read_off_a_scene_with_three_boats():
    canvas = Canvas(4 * SIDE, SIDE)
    boats = [(5, 5, 15, 15), (60, 5, 70, 15), (200, 5, 210, 15)]
    values, detector = counted(boats, canvas)
    assert whole(values) == {"unique-count": 3, "unique-excess": 2, "unique-exact": 0}
    assert [v.value for v in values if v.index is not None] == [2, 1, 1, 0, 0, 1, 1]  # one is cut by the first window
    assert detector.asked == ["a photo of a red boat"]
    assert whole(counted(boats[:1], canvas)[0]) == {"unique-count": 1, "unique-excess": 0, "unique-exact": 1}
    assert whole(counted([], canvas)[0]) == {"unique-count": 0, "unique-excess": 0, "unique-exact": 0}


def test_the_threshold_and_the_wording_are_knobs():
    canvas, boats = Canvas(4 * SIDE, SIDE), [(5, 5, 15, 15)]
    assert whole(counted(boats, canvas, threshold=0.8)[0])["unique-count"] == 0
    assert counted(boats, canvas, query="one {}")[1].asked == ["one red boat"]
    with pytest.raises(UsageError, match="where the thing goes"):
        counted(boats, canvas, query="a boat")


@pytest.mark.parametrize("attributes", [{}, {"unique": None}, {"unique": ""}])
def test_prompts_that_name_no_unique_thing_have_no_count(attributes):
    values, detector = counted([(5, 5, 15, 15)], Canvas(128, SIDE), attributes=attributes)
    assert {v.name: v.value for v in values} == dict.fromkeys(unique_count.values)
    assert detector.asked == []


def test_suppression_keeps_the_best_of_overlapping_boxes_as_torchvision_does():
    from torchvision.ops import nms

    rng = np.random.default_rng(0)
    corner, size = rng.uniform(0, 60, (200, 2)), rng.uniform(5, 30, (200, 2))
    rows = np.concatenate([corner, corner + size, rng.random((200, 1))], axis=1)
    ours = suppress(rows, 0.3, 0.5)
    above = rows[rows[:, 4] > 0.3]
    kept = nms(torch.from_numpy(above[:, :4]), torch.from_numpy(above[:, 4]), 0.5)
    np.testing.assert_array_equal(ours, above[kept.numpy()])
    assert len(ours) < len(above)
    assert len(suppress(rows, 0.3, 1.1)) == len(above)


def test_overlap_is_intersection_over_union_and_zero_without_area():
    a = np.array([0.0, 0, 2, 2])
    assert overlap(a, np.array([1.0, 0, 3, 2])) == pytest.approx(1 / 3)
    assert overlap(a, a) == 1
    assert overlap(a, np.array([2.0, 0, 4, 2])) == 0
    assert overlap(np.array([1.0, 1, 1, 1]), np.array([1.0, 1, 1, 1])) == 0


# -- OWLv2 itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_scorers.owl(tmp_path_factory.mktemp("owl") / "owl")


def test_boxes_lie_in_their_crop_and_do_not_depend_on_its_neighbours(folder):
    net = extractors.load(f"owl@{folder}")
    crops = [*tiny.pictures(2, 80, 80), *tiny.pictures(1, 120, 60)]
    found = net.detect(crops, "a photo of a red boat")
    for crop, rows in zip(crops, found):
        height, width = crop.shape[:2]
        assert rows.shape == (16, 5)
        assert rows.dtype == np.float32
        assert (rows[:, :4] >= 0).all()
        assert (rows[:, [0, 2]] <= width).all()
        assert (rows[:, [1, 3]] <= height).all()
        assert ((rows[:, 4] >= 0) & (rows[:, 4] <= 1)).all()
    close = rounding(1, products(net.model))  # of scores, and of boxes in sides of the crop
    for crop, rows in zip(crops[::-1], found[::-1]):
        alone = net.detect([crop], "a photo of a red boat")[0]
        np.testing.assert_allclose(alone[:, :4], rows[:, :4], rtol=0, atol=max(crop.shape) * close)
        np.testing.assert_allclose(alone[:, 4], rows[:, 4], rtol=0, atol=close)
    other = net.detect(crops[:1], "a photo of a lighthouse")[0]
    assert np.abs(other[:, 4] - found[0][:, 4]).max() > 2 * close


def test_the_query_is_read_as_owls_own_processor_would(folder):
    net = extractors.load(f"owl@{folder}")
    ids = net.text(["a photo of a red boat"])[0].tolist()
    assert ids == [49406, 320, 1125, 539, 320, 736, 4440, 49407, *[0] * 8]  # 16 tokens, zeros behind the end


def test_an_owl_file_with_another_key_is_refused_and_computed_constants_are_not_missed(folder, tmp_path):
    copy = tiny_scorers.owl(tmp_path / "copy")
    path = copy / "model.safetensors"
    state = load_file(path)
    save_file({**state, "owlv2.text_model.embeddings.position_ids": torch.arange(16)[None]}, path)
    crop = tiny.pictures(1)
    expected = extractors.load(f"owl@{folder}").detect(crop, "a")[0]
    np.testing.assert_array_equal(extractors.load(f"owl@{copy}").detect(crop, "a")[0], expected)
    save_file({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="extra"):
        extractors.load(f"owl@{copy}")
    save_file({k: v for k, v in state.items() if k != "box_head.dense0.bias"}, path)
    with pytest.raises(UsageError, match=r"1 keys missing \['box_head.dense0.bias'\]"):
        extractors.load(f"owl@{copy}")


def test_the_count_runs_on_the_real_network_and_is_registered(folder):
    net = extractors.load(f"owl@{folder}")
    prompt = Prompt("p", "a red boat", attributes={"unique": "red boat"})
    rgb = np.concatenate(tiny.pictures(3, 64, 64), axis=1)
    sample = Sample(rgb, prompt, Canvas(192, 64), extractor=net, view="windows")
    values = unique_count.fn(sample, **unique_count.resolve({}))
    assert {v.name for v in values} == set(unique_count.values)
    assert len(values) == 3 + 5
    assert find("metrics", "unique-count").prompted
    assert extractors.role(extractors.default("owl", "full")) == "owl"
