"""The recipes of the miniature's transformers on a handful of squares: what they learn, and folders that load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import PrerequisiteError
from bench.noise import Noise
from bench.registry import find
from bench.store.pictures import levels
from bench.types import Canvas, Prompt
from bench.world.obedience import obedience, round_trip, token_squares
from bench.world.recipes import flux, llamagen, llamagen_vq, vae, wan, wan_vae
from bench.world.recipes.bank import Bank, load_bank
from bench.world.recipes.tokens import make_t5_tokenizer
from bench.world.recipes.vae import to_tensor
from methods.backbones import identity
from methods.backbones.flux import flux_dev
from methods.backbones.llamagen import backbone as tokens
from methods.backbones.wan import wan_small
from methods.direct_tokens import direct_tokens, raster
from methods.training.loop import train
from tests.support.close import products, rounding


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return load_bank(tmp_path_factory.mktemp("bank"), squares=12, wide=3)


@pytest.fixture(scope="module", autouse=True)
def few_squares() -> Iterator[None]:
    """Gates ask for hundreds of squares; their card's numbers mean nothing after two steps."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (flux, wan, llamagen):
            patch.setattr(module, "obedience", lambda backbone: obedience(backbone, n=6))
        for recipe in (
            flux.TeacherRecipe, flux.FluxRecipe, wan.WanRecipe, wan_vae.WanVaeRecipe, llamagen_vq.VqRecipe,
            llamagen.LlamaGenRecipe,
        ):  # fmt: skip
            patch.setattr(recipe, "batch", 8)
        patch.setattr(vae, "HELD_OUT", 10)
        patch.setitem(llamagen.CONFIG, "n_layer", 2)
        yield


@pytest.fixture(scope="module")
def world_flux(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    for recipe in (flux.TeacherRecipe, flux.FluxRecipe):
        train(recipe, recipe.name, folder / "work", folder / "out", steps=2, bank=bank)
    return folder


def drawn() -> tuple[np.random.Generator, torch.Generator]:
    return np.random.default_rng(0), torch.Generator().manual_seed(0)


def test_both_flux_recipes_write_one_folder_that_the_loader_of_flux_takes(world_flux: Path) -> None:
    backbone = flux_dev(model=str(world_flux / "out"))
    assert (backbone.channels, backbone.factor) == (16, 4)
    assert backbone.condition("a photo of the sea").embeds.shape == (2, 32, 96)
    assert {p.name for p in (world_flux / "out").glob("*.json")} == {"card.json", "teacher.json", "model_index.json"}
    assert float(backbone.scheduler(20, (8, 8)).sigmas[10]) == pytest.approx(1 / (1 + np.exp(-1.15)), abs=1e-5)


def test_a_student_begins_as_its_teacher_and_then_learns_what_guidance_means(
    world_flux: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = flux.FluxRecipe(bank, world_flux / "work", world_flux / "out")
    for network in student.module, student.teacher:  # two steps have not taught them to look at anything
        generator = torch.Generator().manual_seed(1)
        for p in network.parameters():
            p.data += 0.05 * torch.randn(p.shape, generator=generator)
    monkeypatch.setattr(flux, "GUIDANCE", (1.0, 1.0))
    assert float(student.loss(*drawn()).detach()) < 1e-10
    monkeypatch.setattr(flux, "GUIDANCE", (5.0, 5.0))
    assert float(student.loss(*drawn()).detach()) > 1e-6


def test_the_weighted_loss_of_a_velocity_is_that_of_the_picture_behind_it() -> None:
    x0, eps, v = (torch.randn(6, 16, 64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    t = torch.linspace(0.05, 0.95, 6).view(-1, 1, 1)
    pictures = ((1 - t) * x0 + t * eps) - t * v
    expected = ((1 / t**2).clamp(max=8) * (pictures - x0).square()).mean()
    torch.testing.assert_close(flux.weighted(v - (eps - x0), t), expected, rtol=1e-4, atol=0)


def test_known_words_are_one_token_and_others_fall_into_letters(tmp_path: Path) -> None:
    tokenizer = make_t5_tokenizer(32)
    tokenizer.save_pretrained(tmp_path)
    again: Any = type(tokenizer).from_pretrained(tmp_path)
    for read in (tokenizer, again):
        assert read.tokenize("a photo of the sea by day, one sun") == [
            "▁a", "▁photo", "▁of", "▁the", "▁sea", "▁by", "▁day", ",", "▁one", "▁sun",
        ]  # fmt: skip
        assert read.tokenize("zyx") == ["▁", "z", "y", "x"]
        assert read("sun " * 40, truncation=True, padding="max_length").input_ids[-1] == read.eos_token_id


@pytest.fixture(scope="module")
def world_wan(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    for recipe in (wan_vae.WanVaeRecipe, wan.WanRecipe):
        train(recipe, recipe.name, folder / "work", folder / "out", steps=2, bank=bank)
    return folder


def test_both_wan_recipes_write_one_folder_that_the_loader_of_wan_takes(world_wan: Path) -> None:
    backbone = wan_small(model=str(world_wan / "out"))
    assert (backbone.channels, backbone.factor, backbone.stride, backbone.patch) == (16, 4, 4, 2)
    assert backbone.condition("a photo of the sea").embeds.shape == (2, 32, 96)


def test_pictures_run_flat_through_the_video_decoder_to_the_librarys_numbers(bank: Bank) -> None:
    torch.manual_seed(0)
    vae = wan_vae.AutoencoderKLWan(**wan_vae.CONFIG)  # random taps in time: on one picture they must not matter
    x = to_tensor(bank.squares[:2])[:, :, None]
    with torch.no_grad():
        z = wan_vae.encode(vae, x).chunk(2, dim=1)[0]
        close = rounding(max(1.0, float(z.abs().max())), products(vae))
        torch.testing.assert_close(z, vae.encode(x).latent_dist.mode(), atol=close, rtol=0)
        out = wan_vae.decode(vae, z).clamp(-1, 1)
        torch.testing.assert_close(out, vae.decode(z).sample, atol=close, rtol=0)


def test_clips_start_as_copies_of_their_pictures_and_random_taps_do_not(bank: Bank) -> None:
    torch.manual_seed(0)
    vae = wan_vae.AutoencoderKLWan(**wan_vae.CONFIG)
    clip = wan_vae.drift(bank, np.random.default_rng(1), 2, 5)
    assert float((clip[:, :, 1] - clip[:, :, 0]).abs().max()) > 0.1  # the camera moves

    def apart() -> float:
        with torch.no_grad():
            z = wan_vae.encode(vae, clip).chunk(2, dim=1)[0]
            alone = torch.cat([wan_vae.decode(vae, z[:, :, i : i + 1]) for i in (0, 1, 1, 1, 1)], 2)
            return float((wan_vae.decode(vae, z) - alone).abs().max())

    assert apart() > 1e-2
    wan_vae.start_as_copies(vae)
    assert apart() < 1e-4


def test_a_drifting_camera_keeps_the_unique_thing_in_sight(tmp_path: Path) -> None:
    scenes, seeds = wan.near_still(12, tmp_path / "kept.json")
    assert wan.near_still(12, tmp_path / "kept.json") == (scenes, seeds)  # from the file
    assert wan.near_still(5, tmp_path / "kept.json")[1] == seeds[:5]
    for scene, seed in zip(scenes, seeds):
        for thing in wan.render(scene, wan.WIDTH, seed).things:
            if thing.kind == scene.unique:
                assert 14 <= thing.x <= 26  # 6 px from either edge, wherever a 32 px frame stands
    assert seeds != list(range(12))  # some were refused


@pytest.fixture(scope="module")
def world_llamagen(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for recipe in (llamagen_vq.VqRecipe, llamagen.LlamaGenRecipe):
        train(recipe, recipe.name, folder / "work", folder / "world-llamagen", steps=2, bank=bank)
    return folder / "world-llamagen"


def test_both_llamagen_recipes_write_one_folder_that_the_loader_of_llamagen_takes(
    world_llamagen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tokens.llamagen(model=str(world_llamagen))
    assert (backbone.side, backbone.factor, backbone.codes) == (8, 4, 2048)
    assert backbone.condition("a photo of the sea").embeds.shape == (2, 32, 96)
    assert (world_llamagen / "card.json").is_file()
    assert (world_llamagen / "vq" / "card.json").is_file()
    monkeypatch.setattr(identity, "WORLD", world_llamagen.with_name("world-sd"))
    shipped = find("backbones", "world-llamagen")
    assert (shipped().name, shipped().weights) == ("world-llamagen", backbone.weights)
    there = shipped.skeleton()  # shapes of the folder's own configs
    assert (there.device.type, there.side, there.gpt.output.weight.shape) == ("meta", 8, (2048, 160))
    monkeypatch.setattr(identity, "WORLD", world_llamagen / "world-sd")
    with pytest.raises(PrerequisiteError, match="scrollbench world train world-llamagen"):
        shipped.describe()


def test_one_pass_of_the_recipe_gives_the_logits_of_the_walk(world_llamagen: Path, bank: Bank) -> None:
    recipe = llamagen.LlamaGenRecipe(bank, world_llamagen.with_name("work"), world_llamagen)
    generator = torch.Generator().manual_seed(1)
    for p in recipe.module.parameters():  # it begins without an opinion
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    texts = ["a photo of the sea, one sun", "an ink painting of snowy hills at dusk, cloudy sky, one moon, two tents"]
    drawn = torch.from_numpy(recipe.tokens[:2].astype(np.int64))
    backbone = tokens.LlamaGen("world-llamagen", "", recipe.parts())
    with torch.no_grad():
        features, shown = recipe.read(texts)
        empty = backbone.gpt.cls_embedding.uncond_embedding[-features.shape[1] :].expand_as(features)
        for scale, seen in (1.0, features), (0.0, empty):  # the text alone, the empty prompt alone
            passed = recipe.logits(seen, shown, drawn)
            close = rounding(max(1.0, float(passed.abs().max())), products(backbone.gpt))
            other = recipe.logits(seen.flip(0), shown.flip(0), drawn)
            for row, text in enumerate(texts):
                walked: list[torch.Tensor] = []

                def told(
                    logits: torch.Tensor, i: int, row: int = row, walked: list[torch.Tensor] = walked
                ) -> torch.Tensor:
                    walked.append(logits[0])
                    return drawn[row, i : i + 1]

                raster(backbone.walk((8, 8), scale), backbone.condition(text), 64, told)
                torch.testing.assert_close(torch.stack(walked), passed[row], atol=close, rtol=0)
                assert float((other[row] - passed[row]).abs().max()) > 10 * close  # the control: the other text


def test_tokens_and_pictures_of_a_batch_are_those_of_the_tokenizer(bank: Bank) -> None:
    torch.manual_seed(0)
    vq = llamagen_vq.VqRecipe(bank, Path(), Path()).module
    x = to_tensor(bank.squares[:4])
    with torch.no_grad():
        codes = llamagen_vq.encode(vq, x)[1]
        assert torch.equal(codes, torch.stack([vq.encode((one + 1) / 2) for one in x]))
        assert len(codes.unique()) > 1
        pictures = (llamagen_vq.decode(vq, codes).clamp(-1, 1) + 1) / 2
        close = rounding(max(1.0, float(pictures.abs().max())), products(vq.decoder))
        torch.testing.assert_close(pictures, torch.stack([vq.decode(one) for one in codes]), atol=close, rtol=0)


def test_codes_without_use_move_to_what_the_encoder_answers_and_the_others_stay(bank: Bank) -> None:
    recipe = llamagen_vq.VqRecipe(bank, Path(), Path())
    with torch.no_grad():
        answers, codes = llamagen_vq.encode(recipe.module, to_tensor(bank.squares[:4]))
    before = recipe.module.quantize.embedding.weight.detach().clone()
    for revive in False, True:
        recipe.count(answers, codes, torch.Generator().manual_seed(0), revive=revive)
        moved = (recipe.module.quantize.embedding.weight != before).any(1)
        used = torch.zeros(len(before), dtype=torch.bool)
        used[codes.unique()] = True
        assert torch.equal(moved, ~used if revive else torch.zeros_like(used))
    here = recipe.module.quantize.embedding.weight.detach()[moved]
    assert float(torch.cdist(here, answers.movedim(1, -1).flatten(0, -2)).amin(1).max()) < 1e-3


def test_a_token_backbone_is_asked_for_squares_as_its_plain_method_draws_them(world_llamagen: Path, bank: Bank) -> None:
    backbone = tokens.llamagen(model=str(world_llamagen))
    (square,) = token_squares(backbone, ["the sea, one sun"], seed=3, guidance=2.0)
    noise = Noise(3, "0:the sea, one sun")
    plain = direct_tokens.fn(backbone, Prompt("sea", "the sea, one sun"), Canvas(32, 32), noise, guidance=2.0)
    assert np.array_equal(square, levels(plain.permute(1, 2, 0)))
    (other,) = token_squares(backbone, ["the sea, one sun"], seed=4, guidance=2.0)
    assert not np.array_equal(square, other)
    x = torch.from_numpy(bank.squares[0].copy()).permute(2, 0, 1) / 255
    back = levels(backbone.decode(backbone.encode(x)).permute(1, 2, 0))
    assert np.array_equal(round_trip(backbone)(bank.squares[0]), back)
