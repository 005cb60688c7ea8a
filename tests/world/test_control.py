"""world-control's recipe: where it begins, what it draws, and a folder that diffusers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel

from bench.world.recipes import control
from bench.world.recipes.bank import Bank, load_bank
from bench.world.scene import caption
from methods.control.canny import canny
from methods.control.controlnet import ROWS, watched
from methods.training.loop import train


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return load_bank(tmp_path_factory.mktemp("bank"), squares=8, wide=4)


@pytest.fixture(scope="module")
def recipe(bank: Bank) -> control.ControlRecipe:
    return control.ControlRecipe(bank, Path(), Path())


def test_it_begins_as_the_networks_own_way_down_that_changes_nothing(recipe: control.ControlRecipe) -> None:
    own, there = recipe.module.state_dict(), recipe.backbone.unet.state_dict()
    shared = [name for name in own if name in there]
    assert {name.split(".")[0] for name in shared} == {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    assert all(torch.equal(own[name], there[name]) for name in shared)
    x, text = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 4, 96)
    told = {"encoder_hidden_states": text, "added_cond_kwargs": {ROWS: torch.ones(1, 3, 32, 32)}}
    with torch.no_grad():
        plain = recipe.backbone.unet(x, 500, encoder_hidden_states=text).sample
        with recipe.asked():
            assert torch.equal(recipe.backbone.unet(x, 500, **told).sample, plain)
        with watched(recipe.backbone.unet, shifted(recipe.module)):  # the control: answers that are not zero
            assert not torch.equal(recipe.backbone.unet(x, 500, **told).sample, plain)


def shifted(module: ControlNetModel) -> Any:
    def ask(*given: object, **named: object) -> tuple[list[torch.Tensor], torch.Tensor]:
        down, middle = module(*given, **named)
        return [r + 1 for r in down], middle

    return ask


def test_half_of_a_batch_are_squares_and_half_cuts_of_panoramas_with_their_captions(
    recipe: control.ControlRecipe, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "batch", 12)
    monkeypatch.setattr(control, "caption", lambda scene, rng, fillers: caption(scene))
    rgb, texts = recipe.draw(np.random.default_rng(0))
    assert rgb.shape == (12, 32, 32, 3)
    for i, (picture, text) in enumerate(zip(rgb, texts)):
        if i < 6:
            (j,) = (j for j, square in enumerate(bank.squares) if np.array_equal(square, picture))
            asked = caption(bank.scenes[j])
        else:
            (j,) = (
                j for j, wide in enumerate(bank.wide)
                if any(np.array_equal(wide[:, x : x + 32], picture) for x in range(97))
            )  # fmt: skip
            asked = caption(bank.wide_scenes[j])
        assert text in ("", asked)
    assert 0 < texts.count("") < 12


def test_the_loss_reaches_the_controlnet_alone(recipe: control.ControlRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "batch", 2)
    recipe.module.zero_grad()
    recipe.loss(np.random.default_rng(0), torch.Generator().manual_seed(0)).backward()
    assert float(recipe.module.controlnet_mid_block.weight.grad.abs().max()) > 0
    assert all(p.grad is None for p in recipe.backbone.unet.parameters())


def test_training_writes_a_controlnet_that_diffusers_loads(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HELD_OUT", 2)
    monkeypatch.setattr(control.ControlRecipe, "batch", 2)
    monkeypatch.setattr(control, "squares", lambda backbone, texts, **_: bank.squares[: len(texts)])
    card = train(control.ControlRecipe, "world-control", tmp_path / "work", tmp_path / "out", steps=1, bank=bank)
    assert {"edges_f1", "edges_f1_without", "exactly_one_net", "unseen_any_colour"} <= set(card["held_out"])
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) < 3e6
    ControlNetModel.from_pretrained(tmp_path / "out")


def test_edges_agree_with_themselves_and_not_with_anothers() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    assert control.edges_f1(list(a), a) == 1
    assert 0 < control.edges_f1(list(a), b) < 0.9
    assert torch.equal(control.edges(a)[1, 2], torch.from_numpy(canny(a[1])).float())
