"""The renderer: the same scene and seed give the same pixels, and the annotations say what the pixels show."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.world.colours import oklab, reserved
from bench.world.render import HEIGHT, render
from bench.world.scene import BIOMES, OBJECT_OF_BIOME, STYLES, TIMES, WEATHERS, Scene, caption, sample_scene

SEA = Scene("ink", "sea", "dusk", "cloudy", "sun", ("boat", 3))
MEADOW = Scene("photo", "meadow", "day", "clear", "lighthouse", ("house", 2))
CITY = Scene("woodblock", "city", "night", "foggy", "moon", None)


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    biome = draw(st.sampled_from(BIOMES))
    time = draw(st.sampled_from(TIMES))
    unique = draw(st.sampled_from([None, "balloon", "lighthouse", "moon" if time == "night" else "sun"]))
    kind = OBJECT_OF_BIOME[biome]
    n = draw(st.integers(0, 3)) if kind else 0
    counted = (kind, n) if kind and n else None
    return Scene(draw(st.sampled_from(STYLES)), biome, time, draw(st.sampled_from(WEATHERS)), unique, counted)


def _digest(rgb: np.ndarray) -> str:
    """Of pixels rounded to 16 levels: a last bit may differ between machines, a picture may not."""
    return hashlib.sha256((rgb >> 4).tobytes()).hexdigest()[:16]


@settings(max_examples=25, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.integers(32, 200))
def test_a_scene_a_width_and_a_seed_decide_every_pixel(scene: Scene, seed: int, width: int) -> None:
    first, again = render(scene, width, seed), render(scene, width, seed)
    assert first.rgb.shape == (HEIGHT, width, 3)
    assert first.rgb.dtype == np.uint8
    assert np.array_equal(first.rgb, again.rgb)
    assert first.things == again.things
    assert not np.array_equal(first.rgb, render(scene, width, seed + 1).rgb)


@pytest.mark.parametrize(
    ("scene", "width", "golden"),
    [(SEA, 32, "cf7ced9889add297"), (MEADOW, 96, "e24a36dff68f1e83"), (CITY, 64, "66f7b52d17eee079")],
)
def test_renders_are_the_pictures_they_were(scene: Scene, width: int, golden: str) -> None:
    assert _digest(render(scene, width, 12).rgb) == golden
    assert _digest(render(scene, width, 13).rgb) != golden


@settings(max_examples=25, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.integers(32, 512), st.booleans())
def test_whatever_the_width_the_unique_thing_is_there_once_and_objects_as_often_as_asked(
    scene: Scene, seed: int, width: int, loop: bool
) -> None:
    picture = render(scene, width, seed, loop=loop)
    asked = {scene.unique: 1} if scene.unique else {}
    asked |= dict([scene.counted]) if scene.counted else {}
    assert {t.kind: picture.count(t.kind) for t in picture.things} == asked
    assert all(0 <= t.x < width and 0 <= t.y < HEIGHT for t in picture.things)


@settings(max_examples=15, deadline=None)
@given(scenes(), st.integers(0, 2**32), st.integers(0, 8))
def test_copies_inject_exactly_that_many(scene: Scene, seed: int, copies: int) -> None:
    picture = render(scene, 256, seed, copies=copies)
    assert len([t for t in picture.things if t.kind == scene.unique]) == (copies if scene.unique else 0)


def test_annotations_lie_on_pixels_of_their_own_colour() -> None:
    rng = np.random.default_rng(4)
    checked = 0
    for seed in range(60):
        scene = sample_scene(rng)
        picture = render(scene, 128, seed)
        lab = oklab(picture.rgb)
        for t in picture.things:
            colours = np.array([c for c, _ in reserved(t.kind, scene.style, scene.time)])

            def near(x: float, y: float, lab: np.ndarray = lab, colours: np.ndarray = colours) -> float:
                part = lab[max(0, int(y) - 4) : int(y) + 5, max(0, int(x) - 3) : int(x) + 4]
                return float(np.sqrt(((part[:, :, None] - colours) ** 2).sum(-1)).min())

            assert near(t.x, t.y) < 0.03, (scene, t)
            checked += 1
        if scene.unique in ("sun", "moon", "balloon"):  # and nowhere else: far from every annotation it is missing
            body = next(t for t in picture.things if t.kind == scene.unique)
            colour = reserved(scene.unique, scene.style, scene.time)[0][0]
            away = np.abs(np.arange(128) - body.x) > 16
            assert np.sqrt(((lab[:14, away] - colour) ** 2).sum(-1)).min() > 0.05, scene
    assert checked > 60


def test_the_edges_of_a_loop_meet_and_those_of_a_strip_do_not() -> None:
    rng = np.random.default_rng(5)
    loops, strips, inside = [], [], []
    for seed in range(80):
        scene = sample_scene(rng)
        for out, loop in ((loops, True), (strips, False)):
            x = render(scene, 128, seed, loop=loop).rgb.astype(float)
            out.append(np.abs(x[:, 0] - x[:, -1]).mean())
            if loop:
                inside.append(np.abs(np.diff(x, axis=1)).mean())
    assert np.mean(loops) < 1.3 * np.mean(inside)
    assert np.mean(strips) > 1.5 * np.mean(loops)


@pytest.mark.parametrize(
    ("width", "copies", "said"), [(31, 1, "at least 32"), (64, 9, "do not fit"), (64, -1, "do not fit")]
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(width: int, copies: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render(SEA, width, copies=copies)


@settings(max_examples=40, deadline=None)
@given(scenes(), st.integers(0, 2**31))
def test_scenes_survive_json_and_captions_name_everything_asked(scene: Scene, seed: int) -> None:
    assert Scene.from_dict(scene.to_dict()) == scene
    for text in (caption(scene), caption(scene, np.random.default_rng(seed))):
        assert scene.unique is None or scene.unique in text
        assert scene.counted is None or scene.counted[0] in text


def test_unknown_words_of_a_scene_are_refused_with_the_choices() -> None:
    for field in ("style", "biome", "time", "weather", "unique"):
        with pytest.raises(UsageError, match=f"scene {field} must be one of"):
            Scene.from_dict(SEA.to_dict() | {field: "opera"})
    for counted in (["boat", 9], ["boat", "2"], ["boat", 2.0], ["boat", True], ["boat"], [], "boat", {"boat": 2}):
        with pytest.raises(UsageError, match="scene counted must be"):
            Scene.from_dict(SEA.to_dict() | {"counted": counted})
    with pytest.raises(UsageError, match="a scene has no field 'stile'; did you mean 'style'"):
        Scene.from_dict(SEA.to_dict() | {"stile": "ink"})
    with pytest.raises(UsageError, match="scene unique is missing"):
        Scene.from_dict({k: v for k, v in SEA.to_dict().items() if k != "unique"})
    with pytest.raises(UsageError, match="a scene is an object of style, biome"):
        Scene.from_dict("sea")  # type: ignore[arg-type]
