"""Controls and defects: drawn truth, and deliberate defects of known strength."""

from typing import Any

import numpy as np
import pytest

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from bench.world import defects
from bench.world.colour_detector import detect_colour
from bench.world.render import render
from bench.world.scene import Scene, caption

SCENE = Scene("photo", "sea", "dawn", "clear", "sun", ("boat", 2))
PROMPT = Prompt("sea-dawn-photo-sun-2-boats", caption(SCENE), "", {"scene": SCENE.to_dict()})
WIDE = Canvas(256, 32)
CONTROLS = ("world-truth", "world-tiled", "world-blurred", "world-suns")


def draw(name: str, prompt: Prompt = PROMPT, canvas: Canvas = WIDE, seed: int = 0, **knobs: Any) -> np.ndarray:
    method = find("methods", name)
    picture: np.ndarray = method.fn(prompt, canvas, Noise(seed, prompt.id), **method.resolve(knobs))
    return picture


def count(picture: np.ndarray, kind: str, scene: Scene = SCENE, loop: bool = False) -> int:
    rgb = np.rint(picture.transpose(1, 2, 0) * 255).astype(np.uint8)
    return sum(d.kind == kind for d in detect_colour(rgb, scene, loop=loop))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_a_float_picture_decided_by_prompt_canvas_and_seed(name: str) -> None:
    method = find("methods", name)
    assert method.family == "control"
    first, again = draw(name), draw(name)
    assert first.shape == (3, 32, 256)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, draw(name, seed=1))
    assert draw(name, canvas=Canvas(97, 32, loop=True)).shape == (3, 32, 97)


def test_the_truth_shows_one_and_the_others_what_they_are_for() -> None:
    assert count(draw("world-truth"), "sun") == 1
    assert count(draw("world-truth"), "boat") == 2
    assert count(draw("world-tiled"), "sun") == 8
    assert [count(draw("world-suns", k=k), "sun") for k in (0, 1, 3, 6)] == [0, 1, 3, 6]
    assert count(draw("world-suns", canvas=Canvas(64, 32)), "sun") == 3  # as many as fit
    tiled = draw("world-tiled")
    assert np.array_equal(tiled[:, :, :32], tiled[:, :, 96:128])
    truth, soft = draw("world-truth"), draw("world-blurred")
    assert count(soft, "sun") == 1
    assert np.abs(np.diff(soft)).mean() < 0.8 * np.abs(np.diff(truth)).mean()
    assert np.array_equal(draw("world-blurred", sigma=0.0), truth)


def test_an_empty_sky_stays_empty_with_any_number_of_suns() -> None:
    empty = Scene("photo", "sea", "dawn", "clear", None, None)
    prompt = Prompt("empty", caption(empty), "", {"scene": empty.to_dict()})
    assert np.array_equal(draw("world-suns", prompt, k=6), draw("world-truth", prompt))


@pytest.mark.parametrize("name", CONTROLS)
def test_what_cannot_be_drawn_says_which_prompts_and_canvases_can(name: str) -> None:
    with pytest.raises(PrerequisiteError, match=r"'harbour' says no ScrollWorld scene.*scrollworld@1"):
        draw(name, Prompt("harbour", "a harbour"))
    with pytest.raises(UsageError, match="32 px high"):
        draw(name, canvas=Canvas(256, 64))
    with pytest.raises(UsageError, match="time must be one of"):
        draw(name, Prompt("odd", "odd", "", {"scene": SCENE.to_dict() | {"time": "teatime"}}))
    with pytest.raises(UsageError, match="0 or more"):
        draw("world-suns", k=-1)


def test_defects_of_strength_zero_are_the_picture_and_stronger_ones_differ_more() -> None:
    rgb = render(SCENE, 256, 3).rgb

    def far(x: np.ndarray) -> float:
        return float(np.abs(x.astype(float) - rgb).mean())

    for strengths in (
        [defects.blur(rgb, s) for s in (0, 0.5, 1, 2)],
        [defects.noise(rgb, s) for s in (0, 0.05, 0.1, 0.2)],
        [defects.seam(rgb, s, (64, 128)) for s in (0, 0.1, 0.2, 0.4)],
        [defects.horizon_break(rgb, s, (64, 128)) for s in (0, 1, 2, 4)],
    ):
        assert np.array_equal(strengths[0], rgb)
        distance = [far(x) for x in strengths]
        assert distance == sorted(distance)
        assert len(set(distance)) == 4
        assert all(x.dtype == np.uint8 and x.shape == rgb.shape for x in strengths)
    before = render(SCENE, 256, 3).rgb
    assert np.array_equal(rgb, before)  # nothing was done in place
    assert np.array_equal(defects.noise(rgb, 0.1, 4), defects.noise(rgb, 0.1, 4))
    assert not np.array_equal(defects.noise(rgb, 0.1, 4), defects.noise(rgb, 0.1, 5))


def test_a_seam_steps_at_its_columns_and_nowhere_else() -> None:
    flat = np.full((32, 96, 3), 120, dtype=np.uint8)
    step = np.abs(np.diff(defects.seam(flat, 0.2, (32, 64)).astype(int), axis=1)).max(axis=(0, 2))
    assert np.flatnonzero(step).tolist() == [31, 63]
    assert step[31] == pytest.approx(51, abs=1)


def test_a_horizon_break_moves_every_second_segment_down() -> None:
    rgb = np.zeros((32, 90, 3), dtype=np.uint8)
    rgb[20:] = 255
    broken = defects.horizon_break(rgb, 3, (30, 60))
    assert [int((broken[:, x, 0] == 0).sum()) for x in (10, 40, 80)] == [20, 23, 20]


@pytest.mark.parametrize("width", [64, 96, 200, 256])
def test_shuffling_moves_every_window_and_loses_none(width: int) -> None:
    rgb = render(SCENE, width, 3).rgb
    n = width // 32
    for seed in range(5):
        mixed = defects.shuffle(rgb, seed)
        before = [rgb[:, i * 32 : (i + 1) * 32].tobytes() for i in range(n)]
        after = [mixed[:, i * 32 : (i + 1) * 32].tobytes() for i in range(n)]
        assert sorted(before) == sorted(after)
        assert all(a != b for a, b in zip(before, after))
        assert np.array_equal(mixed[:, n * 32 :], rgb[:, n * 32 :])


def test_tiling_cuts_the_last_copy_where_the_width_asks_for_it() -> None:
    square = render(SCENE, 32, 3).rgb
    wide = defects.tile(square, 80)
    assert wide.shape == (32, 80, 3)
    assert np.array_equal(wide[:, 32:64], square)
    assert np.array_equal(wide[:, 64:], square[:, :16])
