"""Training of Scale-DiT's bridge: resumed as if never killed, gradients in the pairs alone, early and clear errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import bench
from bench.cli.app import main
from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.train import pictures
from bench.registry import find, trainer_of
from bench.world.recipes.pairs import World
from methods.backbones.factory import Choice
from methods.backbones.flux import flux_dev
from methods.scaledit import bridge_file
from methods.shared import lora
from methods.shared.flux_streams import ADAPTED
from methods.shared.sparse_attention import choose
from methods.shared.token_layout import Layout
from methods.training.bridge import Bridge, bridge, masked
from methods.training.pictures import Kind
from methods.training.prodigy import Prodigy
from tests.support.close import rounding
from tests.support.killed import killed
from tests.support.tiny import pictures as smooth
from tests.support.tiny_pipelines import write_flux, write_sdxl

SETTINGS: dict[str, Any] = {"size": 32, "window": 4, "ratio": 2, "rank": 2, "alpha": 2.0, "accumulate": 2}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for i, rgb in enumerate(smooth(3, 48, 40)):
        Image.fromarray(rgb).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"a photo of boat {i}\n")
    return place


def trained(folder: Path, network: Path, place: Path, steps: int = 3, **more: Any) -> dict[str, Any]:
    given = {"settings": SETTINGS, "options": {"model": str(network)}, **more}
    return bench.train("scale-dit", str(folder), "flux-dev", place / "out", work=place / "work", steps=steps, **given)


def made(folder: Path, network: Path, **more: Any) -> Bridge:
    """The recipe with random pairs, which change much."""
    recipe = bridge.fn(
        Choice(flux_dev, {"model": str(network)}), pictures(str(folder)), **bridge.resolve(SETTINGS | more)
    )(None, Path(), Path())
    generator = torch.Generator().manual_seed(0)
    for b in recipe.module.b:
        b.data += torch.randn(b.shape, generator=generator)
    return recipe


def loss(recipe: Bridge) -> torch.Tensor:
    return recipe.loss(np.random.default_rng(1), torch.Generator().manual_seed(1))


def kept(place: Path) -> dict[str, Any]:
    """What a resumed training knows, but for what it was told and the time that it took."""
    saved = torch.load(place / "work/scale-dit/checkpoint.pt", weights_only=True)
    return {k: v for k, v in saved.items() if k not in ("seconds", "settings")}


def test_a_training_killed_and_resumed_is_equal_in_every_bit_and_loads_as_a_bridge(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 1)
    whole = trained(folder, network, tmp_path / "whole")
    assert killed(partial(trained, folder, network, tmp_path / "killed"), step=2, every=1) == -signal.SIGKILL
    assert kept(tmp_path / "killed")["step"] == 1
    assert not (tmp_path / "killed/out").exists()
    shutil.copytree(tmp_path / "killed/work", tmp_path / "forgetful/work")
    resumed = trained(folder, network, tmp_path / "killed")
    files = [tmp_path / place / "out" / lora.FILE for place in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    torch.testing.assert_close(kept(tmp_path / "killed"), kept(tmp_path / "whole"), rtol=0, atol=0)

    monkeypatch.setattr(Prodigy, "load_state_dict", lambda self, state: None)  # the control
    trained(folder, network, tmp_path / "forgetful")
    assert kept(tmp_path / "forgetful")["optimisers"][0]["param_groups"][0]["k"] == 2
    assert any(
        not torch.equal(a, b)
        for a, b in zip(*(kept(tmp_path / place)["module"].values() for place in ("forgetful", "whole")), strict=True)
    )

    assert whole["settings"] == resumed["settings"]
    card = json.loads((tmp_path / "whole/out/card.json").read_text())
    assert (card["steps"], card["seed"], card["batch"], card["held_out"]) == (3, 0, 1, {})
    assert card["data"] == "3 pictures with captions of a folder"
    told = card["settings"]
    assert (told["rank"], told["optimiser"], told["lr"], told["clip"], told["backbone"], told["precision"]) == (
        2, "prodigy", 1.0, 0.1, "flux-dev", "fp32",
    )  # fmt: skip

    backbone = flux_dev(model=str(network))
    assert bridge_file(backbone, str(tmp_path / "whole/out")) == files[0]  # all layers, of the right shapes
    pairs = lora.load(files[0])
    assert set(pairs) == set(lora.layers(backbone.transformer, ADAPTED))
    assert {pair.scale for pair in pairs.values()} == {1.0}
    assert {pair.a.dtype for pair in pairs.values()} == {torch.float16}


def test_gradients_reach_the_pairs_alone_and_are_the_same_with_blocks_computed_anew(
    folder: Path, network: Path
) -> None:
    grads = []
    for anew in (True, False):
        recipe = made(folder, network, checkpointing=anew)
        loss(recipe).backward()  # type: ignore[no-untyped-call]
        networks = [p for p in recipe.backbone.parts.values() if isinstance(p, torch.nn.Module)]
        assert not any(p.requires_grad or p.grad is not None for part in networks for p in part.parameters())
        grads.append({n: p.grad for n, p in recipe.module.named_parameters() if p.grad is not None})
    last = [f"single_transformer_blocks.0.{n}" for n in ("proj_mlp", "proj_out")]  # nobody sees low tokens after them
    still = [recipe.module.names.index(n) for n in last]  # type: ignore[union-attr, operator]
    assert len(grads[0]) == 2 * (len(recipe.module.names) - len(still))  # type: ignore[arg-type]
    assert not {f"{ab}.{i}" for ab in "ab" for i in still} & set(grads[0])
    for name, grad in grads[0].items():
        assert float(grad.abs().max()) > 0, name
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-6 * float(grad.abs().max()))


def test_the_loss_is_that_of_the_velocity_at_a_noisy_picture_beside_a_clean_small_one(
    folder: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, seen = made(folder, network, drop=0.0), []

    def watched(transformer: Any, inputs: Any, *rest: Any) -> torch.Tensor:
        seen.append(inputs)
        return torch.zeros_like(inputs.high)

    monkeypatch.setattr("methods.training.bridge.predict", watched)
    kind, noise = recipe.kinds[0], torch.Generator().manual_seed(3)
    key = recipe.pictures.draw(kind, np.random.default_rng(0))
    high, low, *_ = recipe.encoded(kind, key, False)
    found = recipe.error(kind, [key], torch.tensor([0.25]), noise, [False])
    eps = torch.randn(high.shape, generator=torch.Generator().manual_seed(3))
    assert float(found) == pytest.approx(float((eps - high).square().mean()), rel=1e-5)
    (inputs,) = seen
    x = 0.75 * high + 0.25 * eps
    assert float(inputs.high.square().mean()) == pytest.approx(float(x.square().mean()), rel=1e-5)
    assert float(inputs.low.square().mean()) == pytest.approx(float(low.square().mean()), rel=1e-5)
    assert (low.shape[-1] * 2, inputs.time.tolist(), inputs.guidance.tolist()) == (high.shape[-1], [0.25], [1.0])
    picture, text = recipe.pictures.look(kind, key)
    assert (picture.shape, text) == ((32, 32, 3), f"a photo of boat {key[0]}")
    told = [recipe.encoded(kind, key, blank)[2] for blank in (False, True)]
    assert torch.equal(told[1], recipe.read("")[0])
    assert not torch.equal(*told)


def test_masks_are_those_of_sampling_or_those_of_the_released_training(
    folder: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[Layout] = []
    monkeypatch.setattr("methods.training.bridge.masked", lambda layout: layouts.append(layout) or masked(layout))
    losses = [float(loss(made(folder, network, masks=masks)).detach()) for masks in ("sampling", "released")]
    ours, released = layouts
    assert (ours.radius, ours.low_radius, ours.low_seen, ours.low_text) == (2, 1, False, False)
    assert (released.radius, released.low_radius, released.low_seen, released.low_text) == (2, None, True, True)
    assert losses[0] != losses[1]


def test_attention_by_a_table_of_pairs_is_that_of_pictures() -> None:
    layout = Layout((4, 8), 5, 2, 4, 2, 1)
    q, k, v = (torch.randn(2, 3, layout.length, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    expected, close = choose(layout, "cpu").attend(q, k, v), rounding(4.0, 8 * layout.length)
    assert float((masked(layout)(q, k, v) - expected).abs().max()) < close
    other = Layout((4, 8), 5, 2, 4, 1, 1)
    assert float((masked(other)(q, k, v) - expected).abs().max()) > 100 * close


def test_in_bfloat16_the_pairs_stay_in_float32(folder: Path, network: Path) -> None:
    recipe = bridge.fn(
        Choice(flux_dev, {"model": str(network), "precision": "bf16"}), pictures(str(folder)),
        **bridge.resolve(SETTINGS),
    )(None, Path(), Path())  # fmt: skip
    assert recipe.backbone.transformer.dtype == torch.bfloat16
    loss(recipe).backward()  # type: ignore[no-untyped-call]
    assert {p.dtype for p in recipe.module.parameters()} == {torch.float32}
    assert all(p.grad.dtype == torch.float32 for p in recipe.module.parameters() if p.grad is not None)


def test_the_shipped_bridge_is_the_miniatures_own_and_more_than_halves_the_error_on_larger_squares() -> None:
    chosen = Choice(find("backbones", "world-flux"), {})
    recipe = bridge.fn(chosen, World(), **bridge.resolve({"checkpointing": False}))(None, Path(), Path())
    kind, rng = recipe.kinds[0], np.random.default_rng(0)
    keys = [recipe.pictures.draw(kind, rng, fresh=True) for _ in range(2)]

    def error(bridged: bool) -> float:
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            return float(recipe.error(kind, keys, torch.tensor([0.3, 0.7]), noise, [False, False], bridged))

    without, begun = error(False), error(True)  # pairs of B = 0, and nothing trained, are the control
    pairs = lora.load(bridge_file(recipe.backbone, ""), dtype=torch.float32)
    for name, a, b in zip(recipe.module.names, recipe.module.a, recipe.module.b):  # type: ignore[union-attr, arg-type]
        a.data, b.data = pairs[name].a, pairs[name].b
    assert error(True) < min(without, begun) / 2


# -- what it is trained on


def test_the_worlds_small_pictures_are_its_squares_and_fresh_scenes_are_never_drawn_in_training() -> None:
    world, rng = World(examples=50), np.random.default_rng(0)
    twice, crop, wide = world.kinds(32, 4)
    assert (twice, crop, wide) == (Kind(64, 64, 2), Kind(96, 96, 4), Kind(128, 32, 4))
    for kind in (twice, crop, wide):
        rgb, text = world.look(kind, world.draw(kind, rng))
        assert rgb.shape == (kind.height, kind.width, 3)
        assert text.startswith("a")
        k = kind.ratio if kind.height > 32 else 1
        assert np.array_equal(rgb[::k, ::k].repeat(k, 0).repeat(k, 1), rgb)
    keys = {world.draw(twice, rng) for _ in range(200)}
    fresh = {world.draw(twice, rng, fresh=True) for _ in range(200)}
    assert max(keys) < (50,) <= (2**31,) <= min(fresh)
    assert np.array_equal(world.look(wide, (7,))[0], world.look(wide, (7,))[0])
    assert not np.array_equal(world.look(wide, (7,))[0], world.look(wide, (8,))[0])
    with pytest.raises(UsageError, match=r"networks of 32 px squares, world-flux; this one's have 1024 px"):
        world.kinds(1024, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": "adam"}, "unknown optimiser 'adam'; did you mean 'adamw'"),
        ({"masks": "release"}, "unknown masks 'release'; did you mean 'released'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1.0"),
        ({"drop": 2.0}, "drop must be 0 to 1"),
        ({"ranc": 4}, "has no knob 'ranc'; did you mean 'rank'"),
        ({"size": 40}, r"windows of 32 px \(4 tokens\): sides must be multiples, got 40x40; nearest that fits: 32x32"),
        ({"size": 64}, r"0\.png: 48x40; expected at least 64x64, the crops' size"),
    ],
)
def test_settings_and_sizes_that_cannot_work_are_refused_before_anything_is_loaded(
    folder: Path, network: Path, tmp_path: Path, settings: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.flux.load_low", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        trained(folder, network, tmp_path, settings=SETTINGS | settings)


def test_folders_without_pictures_or_captions_are_refused_with_the_next_step(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.flux.load_low", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=r"no folder .*takes a folder of pictures with captions"):
        trained(tmp_path / "nowhere", network, tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match=r"no pictures in .*expected such as a\.jpg, with its caption in a\.txt"):
        trained(tmp_path / "bare", network, tmp_path)
    (tmp_path / "bare/sea.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(UsageError, match=r"sea\.png: no caption; expected one in sea\.txt beside it"):
        trained(tmp_path / "bare", network, tmp_path)


def test_networks_and_methods_that_have_no_such_training_are_refused(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"options": {"model": str(write_sdxl(tmp_path / "sdxl"))}}
    monkeypatch.setattr("methods.backbones.sdxl.load_low", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match="works inside FLUX's transformer; backbone sdxl has none: use flux-dev"):
        bench.train("scale-dit", str(folder), "sdxl", tmp_path / "out", **other)
    with pytest.raises(UsageError, match=r"method direct has no weights of its own to train; these have: .*scale-dit"):
        bench.train("direct", str(folder), "flux-dev", tmp_path / "out")
    with pytest.raises(PrerequisiteError):
        bench.train("scale-dit", str(folder), "flux-dev", tmp_path / "out")  # no weights of FLUX.1-dev here
    assert trainer_of("scale-dit") is bridge
    assert find("methods", "direct").trainer == ""


def test_the_command_trains_and_another_training_in_the_work_or_out_folder_is_not_mixed_with(
    folder: Path, network: Path, tmp_path: Path
) -> None:
    told = ["train", "scale-dit", "--data", folder, "--model", network, "--out", tmp_path / "out", "--work",
            tmp_path / "work", "--steps", "1", "--rank", "2"]  # fmt: skip
    knobs = [f"--set={k}={v}" for k, v in SETTINGS.items() if k != "rank"]
    refused = CliRunner().invoke(main, [str(word) for word in (*told, "--set", "batch")])
    assert (refused.exit_code, "takes NAME=VALUE, e.g. batch=4; got 'batch'" in refused.stderr) == (2, True)
    done = CliRunner().invoke(main, [str(word) for word in (*told, *knobs, "--json")])
    assert (done.exit_code, json.loads(done.stdout)["settings"]["window"]) == (0, 4)
    with pytest.raises(UsageError, match=r"begun with other settings \(rank was 2, now 3\): choose another --work"):
        trained(folder, network, tmp_path, steps=1, settings=SETTINGS | {"rank": 3})
    os.rename(tmp_path / "work", tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"card\.json tells of a training that is not in .*choose another --out"):
        trained(folder, network, tmp_path, steps=1)
