"""Views: what they cover, that they stay inside, that they never change by themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.types import Canvas
from bench.views import MIN_SIDE, VIEWS, Box, boxes, crops, drawn_by, key, seen

CANVASES = st.builds(Canvas, st.integers(1, 300), st.integers(1, 120), st.just(True))
OPEN = st.builds(Canvas, st.integers(1, 300), st.integers(1, 120))


def covered(view: str, canvas: Canvas) -> np.ndarray:
    count = np.zeros((canvas.height, canvas.width), dtype=int)
    for b in boxes(view, canvas, "p"):
        count[b.y : b.y + b.h, np.arange(b.x, b.x + b.w) % canvas.width] += 1
    return count


@given(st.one_of(CANVASES, OPEN), st.sampled_from([v for v in VIEWS if v != "ring"]))
def test_boxes_stay_inside_the_canvas_and_only_loops_wrap(canvas, view):
    found = boxes(view, canvas, "p")
    assert found
    for b in found:
        assert b.w >= 1
        assert b.h >= 1
        assert 0 <= b.x < canvas.width
        assert b.y >= 0
        assert b.y + b.h <= canvas.height
        assert b.x + b.w <= canvas.width or (canvas.loop and view == "seams")


@given(OPEN, st.sampled_from(["tiles", "windows"]), st.sampled_from(["", ":16", ":33"]))
def test_tiles_and_windows_cover_every_pixel(canvas, view, side):
    assert covered(view + side, canvas).min() >= 1
    assert seen(view + side, canvas) == 1.0


@given(OPEN)
def test_tiles_are_disjoint_but_for_the_last_one(canvas):
    found = boxes("tiles", canvas)[:-1]
    count = np.zeros((canvas.height, canvas.width), dtype=int)
    for b in found:
        count[b.y : b.y + b.h, b.x : b.x + b.w] += 1
    assert count.max(initial=0) <= 1


@given(CANVASES)
def test_the_ring_covers_a_loop_evenly(canvas):
    count = covered("ring", canvas)
    side = min(canvas.width, canvas.height)
    if side >= MIN_SIDE and canvas.width % side == 0 and side % 2 == 0 and canvas.height == side:
        assert (count == 2).all()
    assert count.min() >= 1


@settings(max_examples=30)
@given(st.one_of(CANVASES, OPEN), st.sampled_from([v for v in VIEWS if v != "ring"]))
def test_views_are_deterministic_and_crops_have_their_boxes_shapes(canvas, view):
    rgb = np.random.default_rng(0).integers(0, 256, (canvas.height, canvas.width, 3), dtype=np.uint8)
    first, second = crops(rgb, view, canvas, "p"), crops(rgb, view, canvas, "p")
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    if view not in ("squash", "letterbox"):
        assert [(b.w, b.h) for b in boxes(view, canvas, "p")] == [(c.shape[1], c.shape[0]) for c in first]


@given(OPEN, st.sampled_from(VIEWS))
def test_the_share_seen_is_a_share(canvas, view):
    if view == "ring":
        canvas = Canvas(canvas.width, canvas.height, loop=True)
    assert 0 < seen(view, canvas) <= 1


def test_boxes_of_a_panorama_are_the_documented_ones():
    wide = Canvas(80, 32)
    assert [b.x for b in boxes("tiles", wide)] == [0, 32, 48]
    assert [b.x for b in boxes("windows", wide)] == [0, 16, 32, 48]
    assert boxes("centre", wide) == (Box(24, 0, 32, 32),)
    assert [(b.x, b.w) for b in boxes("seams", wide)] == [(24, 16), (56, 16)]
    assert [b.x for b in boxes("ring", Canvas(64, 32, loop=True))] == [0, 16, 32, 48]
    assert boxes("tiles", Canvas(32, 80))[-1] == Box(0, 48, 32, 32)
    assert len(boxes("tiles:16", Canvas(64, 32))) == 8


def test_random_crops_follow_the_prompt_id_and_nothing_else():
    canvas = Canvas(3072, 512)
    places = {boxes("random", canvas, f"prompt-{i}")[0].x for i in range(40)}
    assert len(places) > 30
    assert max(places) > 2000
    assert boxes("random", canvas, "harbour") == (Box(1807, 0, 512, 512),)  # frozen


def test_the_released_random_crops_are_the_draws_of_numpys_generator_in_turn():
    canvas, places = Canvas(3072, 512), np.random.RandomState(2023)
    drawn = [places.randint(0, 3072 - 512) for _ in range(300)]
    ours = [boxes("random-2023:512", canvas, str(turn)) for turn in range(300)]
    assert ours == [(Box(x, 0, 512, 512),) for x in drawn]
    assert [b[0].x for b in ours] != [boxes("random-2023:512", canvas, str(t + 1))[0].x for t in range(300)]
    assert {boxes("random-2023", Canvas(514, 512), str(t))[0].x for t in range(40)} == {0, 1}  # 2, the end, never
    assert boxes("random-2023", Canvas(512, 512), "7") == (Box(0, 0, 512, 512),)


def test_what_a_drawn_view_goes_by_is_the_prompt_or_the_turn():
    canvas = Canvas(3072, 512)
    assert drawn_by("random:512", "harbour", 3) == "harbour"
    assert drawn_by("random-2023:512", "harbour", 3) == "3"
    keys = {key("random-2023", canvas, drawn_by("random-2023", "harbour", turn)) for turn in range(3)}
    assert len(keys) == 3
    assert boxes("random-2023", canvas, "harbour") == boxes("random-2023", canvas, "0")


def test_even_squares_touch_both_edges_at_even_distances():
    assert [b.x for b in boxes("even:1024", Canvas(4096, 1024))] == [0, 1024, 2048, 3072]
    assert [b.x for b in boxes("even", Canvas(80, 32))] == [0, 48]  # 2.5 squares: two, with a gap
    assert [b.x for b in boxes("even", Canvas(112, 32))] == [0, 27, 53, 80]  # 3.5: four, overlapping
    assert [b.x for b in boxes("even", Canvas(40, 32))] == [0, 8]
    assert boxes("even", Canvas(32, 32)) == (Box(0, 0, 32, 32),)
    assert len(boxes("even:16", Canvas(64, 32))) == 8
    assert seen("even", Canvas(80, 32)) == pytest.approx(64 / 80)


def test_the_ring_shows_the_break_of_a_loop_and_windows_do_not():
    rgb = np.zeros((32, 128, 3), dtype=np.uint8)
    rgb[:, :64] = 255
    rgb[:, 64:] = np.linspace(255, 0, 64).astype(np.uint8)[None, :, None]
    canvas = Canvas(128, 32, loop=True)

    def jumps(view):
        return max(np.abs(np.diff(c.astype(int), axis=1)).max() for c in crops(rgb, view, canvas))

    assert jumps("ring") == 255
    assert jumps("windows") < 20


def test_pictures_too_small_for_a_square_are_seen_once_as_a_whole():
    assert boxes("tiles", Canvas(256, 1)) == (Box(0, 0, 256, 1),)
    assert boxes("tiles:64", Canvas(256, 32)) == (Box(0, 0, 256, 32),)
    assert len(boxes("tiles", Canvas(256, MIN_SIDE))) == 32


def test_the_share_seen_matches_what_stock_scorers_see():
    wide = Canvas(3072, 512)
    assert seen("centre", wide) == pytest.approx(1 / 6)
    assert seen("squash", wide) == pytest.approx(1 / 6)
    assert seen("letterbox", wide) == pytest.approx(1 / 36)
    assert seen("whole", wide) == 1.0


def test_letterbox_keeps_the_shape_and_squash_does_not():
    rgb = np.full((32, 128, 3), 200, dtype=np.uint8)
    canvas = Canvas(128, 32)
    (bars,), (squashed,) = crops(rgb, "letterbox", canvas), crops(rgb, "squash", canvas)
    assert bars.shape == squashed.shape == (32, 32, 3)
    assert (squashed == 200).all()
    assert (bars[12:20] == 200).all()
    assert (bars[:12] == 0).all()


def test_keys_tell_views_apart_that_crop_differently():
    open_, loop = Canvas(64, 32), Canvas(64, 32, loop=True)
    drawn = {key("random", open_, "a"), key("random", open_, "b")}
    keys = {key("tiles", open_), key("tiles", loop), key("tiles:16", open_), *drawn}
    assert len(keys) == 5
    assert key("tiles", open_, "a") == key("tiles", open_, "b")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: boxes("tile", Canvas(64, 32)), "did you mean 'tiles'"),
        (lambda: boxes("tiles:two", Canvas(64, 32)), "NAME:SIDE"),
        (lambda: boxes("ring", Canvas(64, 32)), "loops"),
        (lambda: crops(np.zeros((32, 64, 3)), "tiles", Canvas(64, 32)), "uint8"),
        (lambda: crops(np.zeros((32, 60, 3), np.uint8), "tiles", Canvas(64, 32)), "shape"),
    ],
)
def test_mistakes_are_answered_with_what_was_expected(call, said):
    with pytest.raises(UsageError, match=said):
        call()
