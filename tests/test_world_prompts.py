"""The prompt set scrollworld@1: made by its script, level, readable, and measured."""

import csv
from collections import Counter

import pytest

from bench.prompts import load_prompts
from bench.types import freeze
from bench.world import prompts as made
from bench.world.scene import FILLERS, Scene, caption


def test_the_file_is_what_its_script_makes() -> None:
    shipped = load_prompts("scrollworld@1").prompts
    rows = made.make_prompts(300, dropped=made.read_dropped())
    assert [{"id": p.id, "text": p.text, **p.attributes} for p in shipped] == [freeze(row) for row in rows]
    assert made.make_prompts(300, seed=1) != made.make_prompts(300, seed=0)


def test_ids_and_texts_are_unique_and_say_the_scene() -> None:
    prompts = load_prompts("scrollworld@1").prompts
    assert len(prompts) == len({p.id for p in prompts}) == len({p.text for p in prompts}) == 300
    for p in prompts:
        scene = Scene.from_dict(p.attributes["scene"])
        assert p.text == caption(scene)
        assert p.id == made.slug(scene)
        assert p.attributes["unique"] == scene.unique
        assert p.attributes["theme"] == scene.biome
        asked = {scene.unique: 1} if scene.unique else {}
        assert p.attributes["counts"] == asked | dict([scene.counted] if scene.counted else [])
    assert made.slug(Scene("ink", "sea", "dusk", "clear", "sun", ("boat", 3))) == "sea-dusk-ink-sun-3-boats"


def test_captions_are_short_and_hold_only_words_this_world_can_draw() -> None:
    for p in load_prompts("scrollworld@1").prompts:
        words = p.text.replace(",", "").split()
        assert len(words) <= 20  # a word is at most a few of the text encoder's 77 tokens
        beyond = set(words) & set(FILLERS) - {"of", "a", "at", "in", "the", "sea", "green", "city", "high", "snow"}
        assert not beyond, beyond


@pytest.mark.parametrize(("field", "least"), [("style", 0.9), ("weather", 0.9), ("time", 0.85), ("theme", 0.7)])
def test_the_set_is_level_over_what_captions_say(field: str, least: float) -> None:
    counts = Counter(p.attributes[field] for p in load_prompts("scrollworld@1").prompts)
    assert min(counts.values()) >= least * max(counts.values())


def test_the_unique_things_have_their_shares() -> None:
    counts = Counter(p.attributes["unique"] for p in load_prompts("scrollworld@1").prompts)
    assert counts == {u: round(300 * share) for u, share in made.SHARES.items()}


def test_splits_are_what_they_are_named_after() -> None:
    spread = load_prompts("scrollworld@1:spread").prompts
    assert len(spread) == 24
    assert sum(p.attributes["unique"] is not None for p in spread) >= 16
    assert len({p.attributes["theme"] for p in spread}) == 7
    for field, values in (("unique", 5), ("style", 3), ("time", 4), ("weather", 3)):
        counts = Counter(p.attributes[field] for p in spread)
        assert len(counts) == values
        assert max(counts.values()) - min(counts.values()) <= 3, (field, counts)
    suns = load_prompts("scrollworld@1:suns").prompts
    assert len(suns) == 25
    assert {p.attributes["unique"] for p in suns} == {"sun"}
    assert len(load_prompts("scrollworld@1:tiny").prompts) == 4


def test_every_prompt_kept_is_read_exactly_and_the_table_can_be_measured_again() -> None:
    with (made.FOLDER / "detectors.csv").open(encoding="utf-8") as f:
        table = list(csv.DictReader(f))
    shipped = {p.id for p in load_prompts("scrollworld@1").prompts}
    assert {m["id"] for m in table if m["kept"] == "1"} == shipped
    for m in table:
        passed = min(float(m["square_both"]), float(m["panorama_both"])) >= made.EXACT
        assert passed == (m["kept"] == "1")
    rows = made.make_prompts(300)
    again = made.exact(Scene.from_dict(rows[0]["scene"]), 32, range(made.FIRST_SEED, made.FIRST_SEED + made.SQUARES))
    assert {f"square_{k}": round(v, 4) for k, v in again.items()} == {
        k: float(v) for k, v in table[0].items() if k.startswith("square_")
    }


def test_a_prompt_the_detector_cannot_read_is_dropped_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made.make_prompts(20)
    scene = Scene.from_dict(rows[3]["scene"])
    monkeypatch.setattr(made, "SQUARES", 2)
    monkeypatch.setattr(made, "PANORAMAS", 1)
    assert made.measure(rows[3], 3)["kept"] == 1
    monkeypatch.setattr(made, "detect", lambda rgb, scene: [])
    assert made.measure(made.row(scene) if scene.unique else rows[0], 3)["kept"] == 0
    others = made.make_prompts(20, dropped=[rows[3]["id"]])
    assert rows[3]["id"] not in {r["id"] for r in others}
    assert len(others) == 20
    with pytest.raises(ValueError, match="the pool has"):
        made.make_prompts(10**6)
