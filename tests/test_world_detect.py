"""The detectors: exact on fresh renders, following what was injected, tolerant of blur and noise, and able to fail."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.errors import UsageError
from bench.world import defects
from bench.world.colours import guess
from bench.world.detect import Detection, detect, detect_colour, horizon_rows
from bench.world.render import HEIGHT, Picture, render
from bench.world.scene import OBJECTS, STYLES, TIMES, UNIQUES, Scene, sample_scene
from bench.world.verify import Table, read_folder, track, verify

SUN = Scene("photo", "sea", "day", "clear", "sun", None)
EMPTY = Scene("ink", "meadow", "dawn", "cloudy", None, None)
FRESH = 2**31 + 7_000_000


@cache
def fresh(n: int, width: int) -> list[Picture]:
    rng = np.random.default_rng([width, 77])
    return [render(sample_scene(rng), width, FRESH + i) for i in range(n)]


def seen(picture: Picture, kinds: tuple[str, ...]) -> list[int]:
    found = [d.kind for d in detect_colour(picture.rgb, picture.scene)]
    return [found.count(k) for k in kinds]


def share_exact(pictures: list[Picture], truth: list[Picture], kinds: tuple[str, ...]) -> float:
    return float(np.mean([seen(p, kinds) == [t.count(k) for k in kinds] for p, t in zip(pictures, truth)]))


@pytest.mark.parametrize("kinds", [UNIQUES, OBJECTS])
def test_fresh_squares_and_panoramas_are_read_exactly(kinds: tuple[str, ...]) -> None:
    for pictures in (fresh(150, 32), fresh(30, 256)):
        assert share_exact(pictures, pictures, kinds) >= 0.95
        shuffled = pictures[1:] + pictures[:1]  # truths of other pictures: the detector does not merely say yes
        assert share_exact(pictures, shuffled, kinds) < 0.6


def test_things_are_found_where_they_are() -> None:
    for picture in fresh(30, 256):
        for d in detect_colour(picture.rgb, picture.scene):
            distance = min((abs(d.x - t.x) + abs(d.y - t.y) for t in picture.things if t.kind == d.kind), default=99)
            assert distance < 3, (picture.scene, d)


def test_counts_follow_the_number_of_injected_copies() -> None:
    rng = np.random.default_rng(6)
    injected, counted = [], []
    for i in range(6):
        scene = sample_scene(rng)
        while scene.unique is None:
            scene = sample_scene(rng)
        for k in (0, 1, 3, 6, 9):
            picture = defects.copies(scene, 256, FRESH + 10**6 + i, k)
            injected.append(k)
            counted.append(sum(d.kind == scene.unique for d in detect_colour(picture.rgb, scene)))
    assert spearmanr(injected, counted).statistic >= 0.95
    assert spearmanr(np.random.default_rng(0).permutation(injected), counted).statistic < 0.5


@pytest.mark.parametrize("degrade", ["blur", "noise"])
def test_mild_blur_and_noise_do_not_hide_unique_things(degrade: str) -> None:
    right = []
    for picture in fresh(150, 32)[:60]:
        rgb = defects.blur(picture.rgb, 1.0) if degrade == "blur" else defects.noise(picture.rgb, 0.05)
        found = [d.kind for d in detect_colour(rgb, picture.scene)]
        right.append(all(found.count(k) == picture.count(k) for k in UNIQUES))
    assert np.mean(right) >= 0.93


def test_a_sun_in_pieces_is_one_and_two_suns_that_touch_are_two() -> None:
    clean = render(SUN, 128, 5)
    (whole,) = detect_colour(clean.rgb, SUN, ["sun"])
    split = clean.rgb.copy()
    split[:, round(whole.x)] = split[:, (round(whole.x) + 60) % 128]  # a stripe of sky through its middle
    assert [d.kind for d in detect_colour(split, SUN, ["sun"])] == ["sun"]
    x, y = round(whole.x), round(whole.y)
    touching = clean.rgb.copy()
    side = 8 if x < 100 else -8
    disc = (slice(max(0, y - 4), y + 5), slice(x - 4, x + 5))
    moved = (disc[0], slice(x - 4 + side, x + 5 + side))
    solid = np.abs(touching[disc].astype(int) - touching[y, x]).sum(-1, keepdims=True) < 90
    touching[moved] = np.where(solid, touching[disc], touching[moved])
    assert len(detect_colour(touching, SUN, ["sun"])) == 2


def test_a_thing_across_the_seam_of_a_loop_is_found_once() -> None:
    rng = np.random.default_rng(8)
    for i in range(12):
        scene = Scene("woodblock", "meadow", str(rng.choice(["dawn", "day"])), "clear", "sun", ("house", 2))
        picture = render(scene, 128, FRESH + i, loop=True)
        sun = next(t for t in picture.things if t.kind == "sun")
        turned = np.roll(picture.rgb, -round(sun.x), axis=1)  # now it lies on the seam
        found = detect_colour(turned, scene, loop=True)
        assert [d.kind for d in found].count("sun") == 1
        assert all(0 <= d.x < 128 or abs(d.x) < 1 for d in found)
        halves = detect_colour(turned, scene, ["sun"], loop=False)
        assert len(halves) != 1 or halves[0].score < 0.8  # read as a strip it is cut in two


def test_without_a_scene_accents_are_chosen_by_the_sky() -> None:
    right = []
    for picture in fresh(150, 32):
        style, time = guess(picture.rgb)  # photo and woodblock share their accents: which of the two does not matter
        right.append(time == picture.scene.time and (style == "ink") == (picture.scene.style == "ink"))
    assert np.mean(right) > 0.95  # chance is one in eight
    named = [p for p in fresh(150, 32) if p.scene.unique][:60]
    found = [[d.kind for d in detect_colour(p.rgb)].count(p.scene.unique or "") == 1 for p in named]
    assert np.mean(found) > 0.9


def test_empty_skies_flat_pictures_and_noise_hold_no_sun() -> None:
    for value in (0, 128, 255):
        assert detect_colour(np.full((HEIGHT, 96, 3), value, dtype=np.uint8), SUN) == []
    random = np.random.default_rng(0).integers(0, 256, (HEIGHT, 96, 3)).astype(np.uint8)
    assert detect_colour(random, SUN, ["sun"]) == []
    assert detect_colour(render(EMPTY, 128, 3).rgb, EMPTY) == []


def test_what_a_detector_cannot_read_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="uint8 picture of shape"):
        detect_colour(np.zeros((64, 64, 3), dtype=np.uint8), SUN)
    with pytest.raises(ValueError, match="float32"):
        detect_colour(np.zeros((32, 64, 3), dtype=np.float32), SUN)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"ballon.*balloon"):
        detect(np.zeros((32, 64, 3), dtype=np.uint8), SUN, ["ballon"])
    with pytest.raises(UsageError, match=r"colou?r"):
        detect(np.zeros((32, 64, 3), dtype=np.uint8), SUN, detector="color")


def test_the_horizon_is_level_on_renders_and_follows_a_break() -> None:
    level, broken, rows = [], [], []
    for i, picture in enumerate(fresh(30, 256)[:20]):
        level.append(np.ptp(horizon_rows(picture.rgb)))
        rows.append(1 + i % 4)
        broken.append(np.ptp(horizon_rows(defects.horizon_break(picture.rgb, rows[-1], (64, 160)))))
    assert np.mean(level) < 0.6
    assert np.mean(np.abs(np.array(broken) - rows)) < 0.8
    assert np.median(broken) > np.mean(level) + 1


def test_every_style_and_time_has_a_sky_of_its_own() -> None:
    for style in STYLES:
        for time in TIMES:
            assert guess(render(Scene(style, "sea", time, "clear", None, None), 96, 21).rgb) == (style, time)


def test_verification_reports_kinds_and_notices_a_blind_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = verify(8, detectors=["colour"])
    clean = {r["group"]: r for r in rows if r["pictures"] == "squares, clean"}
    assert clean["all"]["exact"] >= 0.85
    assert set(UNIQUES) <= set(clean)
    assert {r["pictures"] for r in rows if r["check"] == "track"} == {"copies", "horizon break"}
    (follows,) = [r for r in track("colour", 2) if r["pictures"] == "copies"]
    assert follows["spearman"] >= 0.95
    monkeypatch.setattr("bench.world.verify.detect", lambda *args, **named: [Detection("sun", 1.0, 1.0, 1.0)])
    table = Table()
    for picture in fresh(150, 32)[:40]:
        table.add(("colour", "blind"), picture, picture.rgb)
    blind = {r["group"]: r for r in table.rows()}
    assert blind["all"]["exact"] < 0.7
    assert blind["moon"]["recall"] == 0
    (follows,) = [r for r in track("colour", 2) if r["pictures"] == "copies"]
    assert follows["spearman"] < 0.5


def test_a_folder_of_generated_pictures_is_read_by_prompt_id(tmp_path: Path) -> None:
    from PIL import Image

    from bench.types import Prompt

    prompt = Prompt("six-suns", "the sea by day, one sun", "", {"scene": SUN.to_dict()})
    with pytest.raises(UsageError, match="holds no picture"):
        read_folder(tmp_path, [prompt])
    Image.fromarray(defects.copies(SUN, 256, FRESH, 6).rgb).save(tmp_path / "six-suns_0.png")
    (row,) = read_folder(tmp_path, [prompt])
    assert (row["file"], row["asked"], row["sun"], row["boat"]) == ("six-suns_0.png", "sun", 6, 0)
    Image.fromarray(defects.copies(SUN, 256, FRESH, 2).rgb).save(tmp_path / "six-suns.webp", lossless=True)
    (tmp_path / "six-suns-more.png").write_bytes(b"of another prompt, and no picture")
    assert [(r["file"], r["sun"]) for r in read_folder(tmp_path, [prompt])] == [
        ("six-suns.webp", 2),
        ("six-suns_0.png", 6),
    ]
