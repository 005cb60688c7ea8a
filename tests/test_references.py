"""Reference sets: identities that follow the pixels, features kept like anybody else's."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from bench import prompts, references
from bench.errors import UsageError
from bench.features import Features
from bench.ids import image_id
from bench.references import load_reference

SCENE = {"style": "photo", "biome": "sea", "time": "day", "weather": "clear", "unique": "sun", "counted": None}
WORLD = {"kind": "world", "width": 64, "count": 5, "prompts": "toy@1", "seed": 3}


class Mean:
    """An extractor that counts what it is asked."""

    name, role, digest, dim = "mean", "dino", "d", 3

    def __init__(self):
        self.asked = 0

    def embed(self, crops):
        self.asked += len(crops)
        return np.stack([c.mean((0, 1)) for c in crops]).astype(np.float32)


@pytest.fixture(autouse=True)
def toy_prompts(tmp_path, monkeypatch):
    rows = [{"id": f"sea-{b}", "text": f"the {b}", "scene": {**SCENE, "biome": b}} for b in ("sea", "desert")]
    folder = tmp_path / "prompts" / "toy" / "1"
    folder.mkdir(parents=True)
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(references, "load_prompts", lambda ref: prompts.load_prompts(ref, tmp_path / "prompts"))


def test_a_world_set_is_drawn_from_its_specification_alone(tmp_path):
    first = load_reference("panoramas", WORLD, tmp_path / "a")
    again = load_reference("other-name", WORLD, tmp_path / "b")
    assert first.id == again.id
    assert [i.image_id for i in first.items] == [i.image_id for i in again.items]
    assert len({i.image_id for i in first.items}) == 5
    assert all(image_id(i.pixels()) == i.image_id for i in first.items)


@pytest.mark.parametrize("change", [{"width": 96}, {"count": 6}, {"seed": 4}, {"loop": True}])
def test_any_change_of_the_specification_is_another_set(tmp_path, change):
    assert load_reference("r", {**WORLD, **change}, tmp_path).id != load_reference("r", WORLD, tmp_path).id


def test_the_renderers_version_is_part_of_the_identity(tmp_path, monkeypatch):
    before = load_reference("r", WORLD, tmp_path).id
    monkeypatch.setattr("bench.world.render.VERSION", "test")
    assert load_reference("r", WORLD, tmp_path).id != before


def test_a_known_set_is_not_drawn_again_until_its_pixels_are_needed(tmp_path, monkeypatch):
    first = load_reference("r", WORLD, tmp_path)
    monkeypatch.setattr(references, "_render", lambda *_: pytest.fail("drawn again"))
    assert [i.image_id for i in load_reference("r", WORLD, tmp_path).items] == [i.image_id for i in first.items]


def test_a_damaged_card_is_written_again(tmp_path):
    first = load_reference("r", WORLD, tmp_path)
    card = tmp_path / "references" / f"{first.id}.json"
    card.write_text("{")
    again = load_reference("r", WORLD, tmp_path)
    assert again.id == first.id
    assert json.loads(card.read_text())["image_ids"] == [i.image_id for i in first.items]


def test_features_of_a_set_are_computed_once(tmp_path):
    reference, net = load_reference("r", WORLD, tmp_path), Mean()
    with Features(tmp_path / "features", net.name, net.digest) as cache:
        rows = reference.features(net, "tiles", cache)
    assert rows.shape == (10, 3)
    cache = Features(tmp_path / "features", net.name, net.digest)
    again = load_reference("r", WORLD, tmp_path).features(net, "tiles", cache)
    assert np.array_equal(rows, again)
    assert net.asked == 10


def test_a_ring_view_of_pictures_that_do_not_loop_falls_back_to_windows(tmp_path):
    net = Mean()
    flat, loop = (load_reference("r", {**WORLD, "loop": loop}, tmp_path) for loop in (False, True))
    assert len(flat.features(net, "ring", Features(tmp_path / "f", "mean", "d"))) == 5 * 3
    assert len(loop.features(net, "ring", Features(tmp_path / "f", "mean", "d"))) == 5 * 4


def test_a_folder_is_known_by_its_pixels_not_by_names_or_encoders(tmp_path):
    pictures = tiny.pictures(3)
    for folder, names in (("a", ["1.png", "2.png", "3.png"]), ("b", ["z.bmp", "y.bmp", "x.bmp"])):
        (tmp_path / folder).mkdir()
        for name, rgb in zip(names, pictures):
            Image.fromarray(rgb).save(tmp_path / folder / name)
    first = load_reference("a", {"kind": "folder", "path": str(tmp_path / "a")}, tmp_path)
    assert first.id == load_reference("b", {"kind": "folder", "path": str(tmp_path / "b")}, tmp_path).id
    Image.fromarray(pictures[0]).save(tmp_path / "b" / "w.bmp")
    assert first.id != load_reference("b", {"kind": "folder", "path": str(tmp_path / "b")}, tmp_path).id


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "wrld"}, "did you mean 'world'"),
        ({**WORLD, "widht": 3}, "did you mean 'width'"),
        ({**WORLD, "count": 0}, "count >= 1"),
        ({"kind": "folder", "path": "/nonexistent"}, "no pictures"),
        ({"kind": "folder"}, "no pictures"),
    ],
)
def test_mistakes_are_answered_with_what_was_expected(tmp_path, spec, said):
    with pytest.raises(UsageError, match=said):
        load_reference("r", spec, tmp_path)


def test_an_unreadable_picture_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"bad\.png"):
        load_reference("r", {"kind": "folder", "path": str(tmp_path)}, tmp_path)
