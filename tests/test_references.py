"""Reference sets: identities that follow the pixels, features kept like anybody else's."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from bench import prompts, references
from bench.errors import ScrollBenchError, StoreError, UsageError
from bench.features import Features
from bench.ids import digest, image_id
from bench.references import load_reference
from bench.views import boxes

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


def test_the_renderers_source_is_part_of_the_identity(tmp_path, monkeypatch):
    before = load_reference("r", WORLD, tmp_path).id
    monkeypatch.setattr(references, "source_digest", lambda *roots: "of another renderer")
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


def folder(path, pictures, names, suffix=".png"):
    """The reference set of a folder of such pictures under such names."""
    path.mkdir(parents=True)
    for name, rgb in zip(names, pictures, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path / (name + suffix))
    return load_reference(path.name, {"kind": "folder", "path": str(path)}, path.parent / "store")


def features(reference, view, tmp_path):
    return reference.features(Mean(), view, Features(tmp_path / "none", "mean", "d"))


def test_a_folder_is_known_by_its_pixels_not_by_names_or_encoders(tmp_path):
    pictures = tiny.pictures(3)
    first = folder(tmp_path / "a", pictures, "123")
    assert first.id == folder(tmp_path / "b", pictures, ["z", "y", "in/x"], ".bmp").id
    assert first.id != folder(tmp_path / "c", [*pictures, pictures[0]], "zyxw").id


@pytest.mark.parametrize("view", ["tiles", "whole", "squash", "even", "windows:16"])
def test_where_a_view_does_not_draw_one_id_means_the_same_rows_in_the_same_order(tmp_path, view):
    pictures = tiny.pictures(4, 96)
    first, second = (
        folder(tmp_path / "a", pictures, "1234"),
        folder(tmp_path / "b", pictures[::-1], ["z", "y", "x", "w"]),
    )
    assert first.id_through(view) == second.id_through(view) == first.id
    assert np.array_equal(features(first, view, tmp_path), features(second, view, tmp_path))


@pytest.mark.parametrize(
    ("view", "names", "same"),
    [
        ("random", ("4321", "1234"), False),  # the place is the name's
        ("random", ("1234", "abcd"), False),
        ("random", ("1234", "1234"), True),
        ("random-2023", ("1234", "4321"), False),  # the place is the turn's
        ("random-2023", ("1234", "abcd"), True),
        ("random:8", ("1234", "abcd"), False),
        ("random:512", ("1234", "abcd"), True),  # the squares do not fit, so nothing is drawn
    ],
)
def test_through_a_view_that_draws_the_id_covers_what_is_drawn_of_which_picture(tmp_path, view, names, same):
    pictures = tiny.pictures(4, 96)
    first, second = (folder(tmp_path / f"set-{i}", pictures, n) for i, n in enumerate(names))
    assert first.id == second.id
    rows = [features(r, view, tmp_path) for r in (first, second)]
    assert np.array_equal(*rows) == same  # what decides: the crops
    assert (first.id_through(view) == second.id_through(view)) == same
    assert first.id_through(view).startswith(first.id + "#")  # by which the card is found


def test_squares_are_seen_whole_by_a_view_that_draws_whatever_they_are_called(tmp_path):
    first, second = (folder(tmp_path / f"set-{n}", tiny.pictures(3), n) for n in ("123", "abc"))
    assert first.id_through("random") == second.id_through("random")


def test_a_turn_is_a_place_among_the_files_and_stays_one_when_the_set_is_put_in_order(tmp_path):
    pictures = tiny.pictures(5, 96)
    reference = folder(tmp_path / "a", pictures, "12345")
    canvas = reference.items[0].canvas
    by_id = {image_id(p): boxes("random-2023", canvas, str(turn))[0] for turn, p in enumerate(pictures)}
    assert [i.image_id for i in reference.items] == sorted(by_id)
    assert [i.image_id for i in reference.items] != list(by_id)
    right = [i.pixels()[:, by_id[i.image_id].x :][:, :32].mean((0, 1)) for i in reference.items]
    assert np.allclose(features(reference, "random-2023", tmp_path), np.float32(right), rtol=1e-6)


def test_hidden_copies_are_no_pictures_of_a_set_and_other_formats_are(tmp_path):
    pictures = tiny.pictures(6)
    first, copied = (folder(tmp_path / n, pictures, "012345") for n in ("plain", "copied"))
    for place in (".ipynb_checkpoints", "__MACOSX", ".git/more", "Thumbs", "sub/@eaDir"):
        (tmp_path / "copied" / place).mkdir(parents=True)
        Image.fromarray(pictures[0]).save(tmp_path / "copied" / place / "0-checkpoint.png")
    (tmp_path / "copied" / "._0.png").write_bytes(b"\0\5\x16\7junk")
    again = load_reference("copied", {"kind": "folder", "path": str(tmp_path / "copied")}, tmp_path)
    assert (again.id, len(again.items)) == (first.id, 6) == (copied.id, 6)
    mixed = tmp_path / "mixed"
    for i, suffix in enumerate((".PNG", ".bmp", ".Tiff", ".webp", ".qoi", ".jp2")):
        (mixed / str(i)).mkdir(parents=True)
        options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(suffix, {})
        Image.fromarray(pictures[i]).save(mixed / str(i) / f"picture{suffix}", **options)
    assert load_reference("mixed", {"kind": "folder", "path": str(mixed)}, tmp_path).id == first.id


def test_all_pictures_that_cannot_be_read_are_named_at_once(tmp_path):
    folder(tmp_path / "a", tiny.pictures(2), "12")
    for name in ("bad", "worse"):
        (tmp_path / "a" / f"{name}.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"(?s)bad\.png.*worse\.png"):
        load_reference("r", {"kind": "folder", "path": str(tmp_path / "a")}, tmp_path)


def test_a_picture_replaced_after_the_set_was_read_is_refused_under_the_old_id(tmp_path):
    reference = folder(tmp_path / "a", tiny.pictures(3), "123")
    for path in (tmp_path / "a").iterdir():
        Image.fromarray(tiny.pictures(1, seed=9)[0]).save(path)
    with pytest.raises(StoreError, match="was replaced meanwhile"):
        features(reference, "whole", tmp_path)


# -- cards


def mutated(data, rng):
    """Other bytes: some changed, cut out, doubled, or words of the card exchanged."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 40))
        kind = rng.integers(5)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at] = b"0123456789abcdef"[rng.integers(16)]
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[int(rng.integers(len(out))) :][:length]
        else:
            words = [w for w in bytes(out).split(b'"') if len(w) == 24] or [b"id"]
            old, new = (words[int(rng.integers(len(words)))] for _ in "ab")
            out = bytearray(bytes(out).replace(old, new, 1))
        out = out or bytearray(b"{")
    return bytes(out)


def fuzz_cards(tmp_path, count):
    """How often, of so many mutated cards, the right ids came, an error of the project's, and wrong ids."""
    first = load_reference("r", WORLD, tmp_path)
    right = [i.image_id for i in first.items]
    card = tmp_path / "references" / f"{first.id}.json"
    data, rng, counts = card.read_bytes(), np.random.default_rng(0), {"right": 0, "refused": 0, "wrong": 0}
    for _ in range(count):
        card.write_bytes(mutated(data, rng))
        try:
            ids = [i.image_id for i in load_reference("r", WORLD, tmp_path).items]
        except ScrollBenchError:
            counts["refused"] += 1
        else:
            counts["right" if ids == right else "wrong"] += 1
    return counts


def test_a_card_that_does_not_say_what_was_written_is_never_believed(tmp_path, monkeypatch):
    drawn = {}
    real = references._render
    monkeypatch.setattr(references, "_render", lambda p, c, s: drawn.setdefault((p.id, s), real(p, c, s)))
    assert fuzz_cards(tmp_path / "a", 80) == {"right": 80, "refused": 0, "wrong": 0}
    monkeypatch.setattr(references, "_card_ids", as_many_ids)
    assert fuzz_cards(tmp_path / "b", 80)["wrong"] > 10


def as_many_ids(card, identity):
    """The control: a card is believed if it lists as many ids as are wanted."""
    try:
        ids = json.loads(card.read_text(encoding="utf-8"))["image_ids"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ids if isinstance(ids, list) and len(ids) == WORLD["count"] else None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", "null", '{"digest": NaN}', "1" * 5000, '{"id": "\\ud800"}']
)
def test_a_card_of_any_other_kind_is_written_again(tmp_path, text):
    first = load_reference("r", WORLD, tmp_path)
    card = tmp_path / "references" / f"{first.id}.json"
    sound = card.read_bytes()
    card.write_text(text)
    assert load_reference("r", WORLD, tmp_path).items[0].image_id == first.items[0].image_id
    assert card.read_bytes() == sound


def test_pixels_are_held_against_a_card_that_was_sealed_with_wrong_ids(tmp_path):
    first = load_reference("r", WORLD, tmp_path)
    card = tmp_path / "references" / f"{first.id}.json"
    told = json.loads(card.read_text())
    told["image_ids"][0], told["image_ids"][1] = told["image_ids"][1], told["image_ids"][0]
    del told["digest"]
    card.write_text(json.dumps({**told, "digest": digest(told)}))
    forged = load_reference("r", WORLD, tmp_path)
    with pytest.raises(StoreError, match="delete the set's card"):
        features(forged, "whole", tmp_path)


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
