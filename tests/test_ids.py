"""Identities are frozen, and say no less and no more than what decides the pixels."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import ids
from bench.ids import canonical, digest, folder_digest, image_id, recipe_id
from bench.types import Canvas, Recipe

RECIPE = Recipe(
    prompt_id="harbour", prompt="a photo of a harbour", negative="blurry", canvas=Canvas(256, 32, False), seed=3,
    method="multidiffusion", method_version="1", method_source="0123456789ab", backbone="world-sd", weights="fedcba",
    precision="fp32", params={"steps": 20, "guidance": 2.5, "clamp": None, "loop": True},
)  # fmt: skip
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

GOLDEN = {
    "value": "eb9218f4c580976c696f6cf6",
    "recipe": "45b9c131b1d224226f26222c",
    "control recipe": "80e523d9879dda5855ab85fd",
    "image": "3137f141e7a6097a94ad1c07",
}


def current() -> dict[str, str]:
    return {
        "value": digest({"b": [1, 2.0, None, True], "a": "é"}),
        "recipe": recipe_id(RECIPE),
        "control recipe": recipe_id(dataclasses.replace(RECIPE, backbone=None, weights=None)),
        "image": image_id(PIXELS),
    }


def test_ids_are_those_of_all_earlier_releases() -> None:
    assert current() == GOLDEN


def test_another_version_of_the_scheme_gives_other_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "ID_VERSION", ids.ID_VERSION + 1)
    assert not set(current().values()) & set(GOLDEN.values())


# -- recipes

words = st.text(string.ascii_letters + ' é\n"', max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
params = st.dictionaries(words, st.none() | st.booleans() | numbers | words, max_size=3)
canvases = st.builds(Canvas, st.integers(1, 4096), st.integers(1, 4096), st.booleans())
recipes = st.builds(
    Recipe, words, words, words, canvases, st.integers(0, 2**31), words, words, words, params,
    st.none() | words, st.none() | words, st.none() | words, st.sampled_from(["fp32", "fp16"]), st.none() | words,
)  # fmt: skip
FIELDS = [f.name for f in dataclasses.fields(Recipe)]


@given(recipes, recipes, st.sampled_from(FIELDS))
def test_any_change_of_any_field_changes_the_id(recipe: Recipe, other: Recipe, field: str) -> None:
    changed = dataclasses.replace(recipe, **{field: getattr(other, field)})
    same = canonical(dataclasses.asdict(recipe)) == canonical(dataclasses.asdict(changed))
    assert (recipe_id(recipe) == recipe_id(changed)) == same


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_recipe_counts(field: str) -> None:
    old = getattr(RECIPE, field)
    new: Any = {int: 4, Canvas: Canvas(256, 32, True), dict: {**RECIPE.params, "steps": 21}}.get(type(old), f"{old}x")
    assert recipe_id(dataclasses.replace(RECIPE, **{field: new})) != recipe_id(RECIPE)


@given(recipes)
def test_the_order_of_knobs_does_not_count(recipe: Recipe) -> None:
    turned = dict(reversed(list(recipe.params.items())))
    assert recipe_id(dataclasses.replace(recipe, params=turned)) == recipe_id(recipe)


def test_text_moved_between_fields_changes_the_id() -> None:
    moved = dataclasses.replace(RECIPE, prompt=RECIPE.prompt + RECIPE.negative, negative="")
    assert recipe_id(moved) != recipe_id(RECIPE)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="non-finite"):
        digest({"guidance": number})


def test_values_without_a_canonical_form_are_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        digest({1, 2})


TEXTS = st.text(max_size=12)
MAYBE = st.none() | TEXTS
KNOBS = st.dictionaries(
    TEXTS, st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS, max_size=2), max_size=3
)


@given(st.data())
def test_the_id_of_a_recipe_is_the_digest_of_all_its_fields(data: st.DataObject) -> None:
    own = {"canvas": st.builds(Canvas, st.integers(1, 99), st.integers(1, 99), st.booleans()), "params": KNOBS,
           "seed": st.integers(0, 2**63 - 1)}  # fmt: skip
    kinds = {f.name: own.get(f.name, MAYBE if "None" in str(f.type) else TEXTS) for f in dataclasses.fields(Recipe)}
    for _ in range(2):  # of two samplers in turn
        recipe = Recipe(**{name: data.draw(kind) for name, kind in kinds.items()})
        fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}
        assert recipe_id(recipe) == digest({**fields, "canvas": dataclasses.asdict(recipe.canvas)})


# -- pictures, folders


@given(st.integers(0, 23), st.integers(1, 255))
def test_one_changed_pixel_changes_the_image_id(where: int, by: int) -> None:
    other = PIXELS.copy()
    other.flat[where] = (int(other.flat[where]) + by) % 256
    assert image_id(other) != image_id(PIXELS)


def test_the_shape_is_part_of_the_image_id() -> None:
    assert image_id(PIXELS.reshape(4, 2, 3)) != image_id(PIXELS)


def test_memory_layout_is_not_part_of_the_image_id() -> None:
    assert image_id(np.asfortranarray(PIXELS)) == image_id(PIXELS)


def test_a_weights_folder_is_its_names_and_contents_but_not_its_card(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weights")
    before = folder_digest(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / ".cache").write_text("x")
    assert folder_digest(tmp_path) == before
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"weightz")
    assert folder_digest(tmp_path) != before


def test_a_recipe_with_read_only_knobs_has_the_same_id() -> None:
    assert recipe_id(dataclasses.replace(RECIPE, params=MappingProxyType(dict(RECIPE.params)))) == recipe_id(RECIPE)
