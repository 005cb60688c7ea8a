"""DRSPO's training on a tiny Stable Diffusion and a handful of pairs: what it writes, holds to and refuses."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.analysis.preferences import Shot, write
from bench.errors import UsageError
from bench.noise import Noise
from bench.store import Store
from bench.types import Canvas, Prompt
from methods.backbones.factory import Choice
from methods.backbones.stable_diffusion import sd15
from methods.backbones.tiny.stable_diffusion import write_tiny_sd
from methods.drspo import drspo as sampler
from methods.training import dpo
from methods.training.drspo import Preferred, drspo, split
from methods.training.preferences import Pair, Preferences
from tests.support.killed import killed
from tests.support.tiny import pictures as drawn
from tests.support.tiny_pipelines import write_sdxl

SETTINGS: dict[str, Any] = {"rank": 2, "lr": 1e-3, "warmup": 0, "scale": 1.0, "stride": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and preferences of ten prompts: bright pictures of 32x16 px over dark ones."""
    folder = tmp_path_factory.mktemp("drspo")
    write_tiny_sd(folder / "sd")
    store, pairs = Store(folder / "store"), []
    for i, rgb in enumerate(drawn(10, 32, 16)):
        better, worse = (store.write_image(made) for made in (255 - rgb // 4, rgb // 4))
        pairs.append(Pair("2to1", f"p{i}", f"a photo of {i}", "", 32, 16, better, worse, "a", "b", 0, 0, 2.0, 1.0))
    written(folder, "p", pairs)
    return folder


def written(folder: Path, name: str, pairs: list[Pair]) -> Path:
    shots = [Shot("2to1", p.prompt_id, p.prompt, "", 32, 16, "a", 0, p.winner, 2.0, 1) for p in pairs]
    write(Store(folder / "store"), folder / name, shots, pairs, {"suite": "tiny@1", "score": "brightness"})
    return folder / name


def trained(
    place: Path, out: Path, steps: int = 3, report: Callable[[Any], None] = lambda at: None, **settings: Any
) -> dict[str, Any]:
    return bench.train(
        "drspo", str(place / "p"), "sd15", out / "out", work=out / "work", steps=steps, report=report,
        options={"model": str(place / "sd")}, settings={**SETTINGS, **settings},
    )  # fmt: skip


def recipe(place: Path, **settings: Any) -> Preferred:
    torch.manual_seed(0)
    knobs = drspo.resolve({**SETTINGS, **settings})
    make = drspo.fn(Choice(sd15, {"model": str(place / "sd")}), Preferences(place / "p"), **knobs)
    made = make(None, Path(), Path())
    made.backbone.parts["unet"].requires_grad_(False)
    return made


def stepped(made: Preferred) -> torch.Tensor:
    return made.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stage", ["low", "high"])
def test_a_stage_writes_weights_that_the_method_wears_a_card_and_curves(
    place: Path, tmp_path: Path, stage: str
) -> None:
    card = trained(place, tmp_path, stage=stage)
    assert card["settings"]["preferences"] == Preferences(place / "p").identity
    assert card["held_out"]["pairs"] == 1
    rows = list(csv.DictReader((tmp_path / "out/curves.csv").open()))
    assert list(rows[0]) == ["step", "loss", "implicit_accuracy", "margin", "distance"]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["loss"]) == pytest.approx(math.log(2), rel=1e-5)
    assert (float(rows[0]["implicit_accuracy"]), float(rows[0]["distance"])) == (0.5, 0)
    assert float(rows[2]["distance"]) > 0
    assert Image.open(tmp_path / "out/curves.png").width > 300
    base = sd15(model=str(place / "sd"))
    knobs = {"steps": 2, "scale": 1.0, "stride": 2, "control": "none", "low": "none", "high": "none"}
    given = (base, Prompt("p", "a photo"), Canvas(32, 16), Noise(0, "p"))
    worn = sampler.fn(*given, **{**knobs, stage: str(tmp_path / "out")})
    assert not torch.equal(worn, sampler.fn(*given, **knobs))


@pytest.mark.parametrize("swapped", [False, True])
def test_steps_make_the_winner_likelier_than_the_reference_does(place: Path, swapped: bool) -> None:
    made = recipe(place, drop=0.0)
    right = made.training
    if swapped:  # the control
        made.training = [Pair(**{**vars(p), "winner": p.loser, "loser": p.winner}) for p in right]
    (optimiser,) = made.optimisers()
    for _ in range(4):
        optimiser.zero_grad()
        stepped(made).backward()
        optimiser.step()
    made.training = right
    assert (float(stepped(made).detach()) < math.log(2) - 1e-3) is not swapped


def test_a_training_killed_and_resumed_ends_with_the_same_weights_and_curves(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 2)

    def made(folder: str) -> list[bytes]:
        names = ("pytorch_lora_weights.safetensors", "curves.csv")
        return [(tmp_path / folder / "out" / name).read_bytes() for name in names]

    trained(place, tmp_path / "whole", steps=4)
    assert killed(partial(trained, place, tmp_path / "killed", steps=4), step=3, every=2) == -signal.SIGKILL
    assert not (tmp_path / "killed/out").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "forgetful")
    trained(place, tmp_path / "killed", steps=4)
    assert made("killed") == made("whole")
    monkeypatch.setattr("transformers.optimization.Adafactor.load_state_dict", lambda self, state: None)  # the control
    trained(place, tmp_path / "forgetful", steps=4)
    assert made("forgetful") != made("whole")


def test_one_window_of_the_high_stage_is_the_low_stage(place: Path) -> None:
    low, high = recipe(place, stage="low"), recipe(place, stage="high", window=4, stride=4)
    whole = recipe(place, stage="high", window=4, stride=2)
    square = [np.ascontiguousarray(drawn(1, 16, 16, seed=i)[0]) for i in range(2)]
    for made in (low, high, whole):
        made.preferences.picture = lambda image: square[image == "loser"]  # type: ignore[method-assign]
        made.training = [Pair("s", "p", "sea", "", 16, 16, "winner", "loser", "a", "b", 0, 0, 2.0, 1.0)]
        generator = torch.Generator().manual_seed(1)
        for b in made.module.b:  # type: ignore[union-attr]
            b.data += 0.1 * torch.randn(b.shape, generator=generator)
    found = [float(stepped(made).detach()) for made in (low, high, whole)]
    assert found[0] == found[1] == found[2] != pytest.approx(math.log(2), rel=1e-6)


def test_windows_loss_is_added_with_its_weight(place: Path) -> None:
    plain, more = recipe(place, stage="high"), recipe(place, stage="high", windows_weight=0.5)
    assert float(stepped(plain).detach()) == pytest.approx(math.log(2), rel=1e-6)
    assert float(stepped(more).detach()) == pytest.approx(1.5 * math.log(2), rel=1e-6)


def test_blocks_computed_anew_give_the_same_gradients(place: Path) -> None:
    found = []
    for checkpointing in True, False:
        made = recipe(place, stage="high", checkpointing=checkpointing)
        stepped(made).backward()
        found.append([p.grad for p in made.module.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert any(float(b.abs().max()) > 0 for b in found[1])


def test_sdxl_is_trained_with_its_added_conditions(place: Path, tmp_path: Path) -> None:
    model = str(write_sdxl(tmp_path / "sdxl"))
    card = bench.train(
        "drspo", str(place / "p"), "sdxl", tmp_path / "out", work=tmp_path / "work", steps=1,
        options={"model": model}, settings={**SETTINGS, "stage": "high", "batch": 2, "held_out": 0.0},
    )  # fmt: skip
    assert card["final_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert card["held_out"] == {}


def test_a_spike_ends_the_training_and_keeps_the_last_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 2)
    monkeypatch.setattr("methods.training.loop.RECENT", 2)
    trained(place, tmp_path, steps=2)
    before = (tmp_path / "work/drspo/checkpoint.pt").read_bytes()
    whole = dpo.preference_loss
    monkeypatch.setattr("methods.training.drspo.dpo.preference_loss", lambda margin: 100 * whole(margin))
    with pytest.raises(FloatingPointError, match=r"is more than 20 times .* at step 3; nothing was overwritten"):
        trained(place, tmp_path, steps=4)
    assert (tmp_path / "work/drspo/checkpoint.pt").read_bytes() == before
    json.loads((tmp_path / "out/card.json").read_text())


@pytest.mark.parametrize("stage", ["low", "high"])
def test_accuracy_of_weights_is_what_their_training_said_of_the_same_pairs(
    place: Path, tmp_path: Path, stage: str
) -> None:
    options, given = {"model": str(place / "sd")}, {"scale": 1.0, "stride": 2}

    def found(pairs: Path, weights: Path) -> dict[str, Any]:
        return bench.preference_accuracy(pairs, str(weights), stage, "sd15", options=options, settings=given)

    card = trained(place, tmp_path, steps=6, stage=stage)
    _, held = split(Preferences(place / "p").pairs, 0.1)
    turned = [Pair(**{**vars(p), "winner": p.loser, "loser": p.winner}) for p in held]
    right = found(written(place, f"held-{stage}", held), tmp_path / "out")
    wrong = found(written(place, f"turned-{stage}", turned), tmp_path / "out")
    # The card is of weights before they are halved.
    assert right["margin"] == pytest.approx(card["held_out"]["margin"], rel=0.05)
    assert right["implicit_accuracy"] == card["held_out"]["implicit_accuracy"]
    assert wrong["margin"] == pytest.approx(-right["margin"], rel=1e-3)
    assert found(place / "p", tmp_path / "out")["prompts"] == 10


def test_prompts_that_are_held_out_are_always_the_same_and_never_trained_on(place: Path) -> None:
    pairs = Preferences(place / "p").pairs
    training, held = split(pairs, 0.3)
    assert split(pairs, 0.3) == (training, held)
    assert len({p.prompt_id for p in held}) == 3
    assert not {p.prompt_id for p in held} & {p.prompt_id for p in training}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": "middle"}, "unknown stage 'middle'"),
        ({"form": "cubed"}, "unknown form"),
        ({"convention": "none"}, "unknown convention"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"beta": 0.0}, "beta must be above 0"),
        ({"drop": 1.0}, "drop must be at least 0 and below 1"),
        ({"windows_weight": 0.5}, "windows_weight is 0 or more, of the high stage"),
        ({"spike": 1.0}, "spike must be above 1"),
        ({"scale": 3.0}, "3 times smaller than 32x16 px is not whole cells"),
        ({"stage": "high", "stride": 3}, "leave .* over"),
        ({"stage": "high", "window": 5, "stride": 1}, "a window is 20 px"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(
    place: Path, settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.stable_diffusion.load_parts", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        trained(place, tmp_path, **settings)


def test_data_and_networks_of_another_kind_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drspo trains on preferences: --data takes a folder that `scrollbench prefer"):
        bench.train("drspo", "world", "world-sd", tmp_path / "out")
    with pytest.raises(UsageError, match="drspo trains a U-Net; backbone world-flux has none: use sdxl"):
        bench.train("drspo", str(place / "p"), "world-flux", tmp_path / "out")
    with pytest.raises(UsageError, match="holds preferences, for drspo; this training takes pictures with captions"):
        bench.train("scale-dit", str(place / "p"), "world-flux", tmp_path / "out")
