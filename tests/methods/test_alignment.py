"""Training of ScrollScape's alignment: clips as the method cuts them, resumed as if never stopped, early errors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.errors import UsageError
from bench.noise import Noise
from bench.pipeline.train import pictures
from bench.registry import find, trainer_of
from bench.types import Canvas, Prompt
from bench.world.recipes.pairs import World
from bench.world.recipes.panoramas import asked, scene_of
from bench.world.scene import UNIQUES
from methods.backbones.factory import Choice
from methods.backbones.wan import Wan, wan_small
from methods.scrollscape import ADAPTED, aligned_file, scrollscape
from methods.shared import lora
from methods.shared.scan import Scan, stacked
from methods.shared.windows import gather
from methods.training.alignment import Alignment, alignment, ways
from methods.training.pictures import Folder, Kind
from tests.support.tiny import pictures as smooth
from tests.support.tiny_pipelines import write_sdxl, write_wan

SETTINGS: dict[str, Any] = {"size": 16, "rank": 2, "alpha": 2.0}
WIDE = Kind(96, 16, 1, 2)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for i, (width, height) in enumerate(((192, 32), (20, 100), (244, 40))):
        Image.fromarray(smooth(1, width, height)[0]).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"a photo of boat {i}\n")
    return place


@pytest.fixture(autouse=True)
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A native clip of five frames of 2x1 tokens, 16 px a token."""
    monkeypatch.setitem(Wan.__init__.__kwdefaults__, "native", (5, 2, 4))


def fit(folder: Path, network: Path, place: Path, steps: int = 2, **more: Any) -> dict[str, Any]:
    given = {"settings": SETTINGS, "options": {"model": str(network)}, **more}
    return bench.train("scrollscape", str(folder), "wan-1.3b", place / "out", work=place / "work", steps=steps, **given)


def made(folder: Path, network: Path, work: Path, **more: Any) -> Alignment:
    choice = Choice(wan_small, {"model": str(network)})
    recipe: Alignment = alignment.fn(choice, pictures(str(folder)), **alignment.resolve(SETTINGS | more))(
        None, work, Path()
    )
    return recipe


def weights(place: Path) -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = torch.load(place / "work/scrollscape/checkpoint.pt", weights_only=True)["module"]
    return saved


def test_a_lora_trained_in_two_goes_is_that_of_one_and_the_method_works_with_it(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(folder, network, tmp_path / "whole")

    def stop(at: Any) -> None:
        if at.step == 2:
            raise InterruptedError

    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 1)
    with pytest.raises(InterruptedError):
        fit(folder, network, tmp_path / "halves", report=stop)
    assert not (tmp_path / "halves/out").exists()
    card = fit(folder, network, tmp_path / "halves")
    for a, b in zip(weights(tmp_path / "whole").values(), weights(tmp_path / "halves").values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    fit(folder, network, tmp_path / "other", seed=1)  # the control
    assert not torch.equal(weights(tmp_path / "whole")["a.0"], weights(tmp_path / "other")["a.0"])

    assert card["data"] == "3 pictures with captions of a folder"
    told = card["settings"]
    assert (told["tune"], told["lr"], told["shift"], told["backbone"]) == ("lora", 1e-4, 3.0, "wan-1.3b")
    backbone = wan_small(model=str(network))
    path = aligned_file(backbone, str(tmp_path / "whole/out"))
    assert path is not None
    pairs = lora.load(path)
    assert set(pairs) == set(lora.layers(backbone.transformer, ADAPTED))
    assert {pair.scale for pair in pairs.values()} == {1.0}

    def picture(where: str) -> torch.Tensor:
        knobs = scrollscape.resolve({"steps": 1, "alignment": where, "tap": "image"})
        shown: torch.Tensor = scrollscape.fn(backbone, Prompt("a", "a boat"), Canvas(96, 16), Noise(0, "a"), **knobs)
        return shown

    assert not torch.equal(picture(str(path)), picture("none"))


def test_all_weights_learn_and_are_written_as_a_transformer_that_the_method_takes(
    folder: Path, network: Path, tmp_path: Path
) -> None:
    card = fit(folder, network, tmp_path, steps=1, settings={"size": 16, "tune": "full", "optimiser": "muon"})
    backbone = wan_small(model=str(network))
    path = aligned_file(backbone, str(tmp_path / "out"))
    assert path is not None
    assert path.name == "diffusion_pytorch_model.safetensors"
    assert card["parameters"] == sum(p.numel() for p in backbone.transformer.parameters())
    before = dict(backbone.transformer.named_parameters())
    moved = [n for n, p in weights(tmp_path).items() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2


def test_the_loss_is_flow_matchings_on_windows_of_one_picture_and_one_noise_at_their_places(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(folder, network, tmp_path)
    z, text = recipe.encoded(WIDE, [(0,)], [False])
    seen: list[Any] = []
    real = recipe.backbone.transformer.forward

    def watched(**given: Any) -> Any:
        seen.append((given, recipe.backbone.transformer.rope.positions))
        return real(**given)

    monkeypatch.setattr(recipe.backbone.transformer, "forward", watched)
    scan = Scan((1, 2), 1, (1, 5), backwards=True)
    t, noise = torch.tensor([0.25]), torch.Generator().manual_seed(3)
    found = float(recipe.error(WIDE, [(0,)], scan, t, noise, [False], np.random.default_rng(0)).detach())
    ((given, positions),) = seen
    windows = scan.windows(2)
    assert [w.x for w in windows] == [8, 6, 4, 2, 0]
    eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    x0, eps = (stacked(gather(canvas, windows)) for canvas in (z, eps))
    torch.testing.assert_close(given["hidden_states"], 0.75 * x0 + 0.25 * eps)
    assert given["timestep"].tolist() == [250.0]
    assert torch.equal(given["encoder_hidden_states"], text)
    assert torch.equal(positions, scan.positions())
    assert positions[:2].tolist() == [[0, 0, 4], [0, 0, 5]]  # back: the last place comes first
    with torch.no_grad():
        answer = real(**given)[0]
    # the table is out of its place again; with Wan's own positions the answer is another
    own = float((answer - (eps - x0)).square().mean())
    again = torch.Generator().manual_seed(3)
    plain = recipe.error(WIDE, [(0,)], scan, t, again, [False], np.random.default_rng(0), positions=False)
    assert float(plain.detach()) == pytest.approx(own, rel=1e-5)
    assert found != pytest.approx(own, rel=1e-5)

    recipe.x0 = True  # a network that answers with x0, weighted with 8 at most
    again = torch.Generator().manual_seed(3)
    sample = recipe.error(WIDE, [(0,)], scan, t, again, [False], np.random.default_rng(0), positions=False)
    assert float(sample.detach()) == pytest.approx(8 * float((answer - x0).square().mean()), rel=1e-5)


def test_clips_differ_in_step_and_direction_and_gradients_reach_the_pairs_alone(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(folder, network, tmp_path, frames=9)
    scans: set[Scan] = set()
    whole = recipe.error
    monkeypatch.setattr(
        recipe, "error", lambda kind, keys, scan, *more: scans.add(scan) or whole(kind, keys, scan, *more)
    )
    for i in range(12):
        recipe.loss(np.random.default_rng(i), torch.Generator().manual_seed(i)).backward()  # type: ignore[no-untyped-call]
    assert {scan.backwards for scan in scans} == {True, False}
    assert {scan.stops for scan in scans} == {(1, 5), (4, 1)}  # over wide pictures and down tall ones
    assert all(p.grad is not None for p in recipe.module.parameters())
    parts = [p for p in recipe.backbone.parts.values() if isinstance(p, torch.nn.Module)]
    pairs = {id(p) for p in recipe.module.parameters()}
    assert all(p.grad is None for part in parts for p in part.parameters() if id(p) not in pairs)


def test_a_cameras_steps_go_from_the_usual_one_to_half_a_frame_and_its_frames_to_a_limit(network: Path) -> None:
    backbone = Choice(wan_small, {"model": str(network)}).outline()
    backbone.native = (15, 8, 8)  # frames of 4x4 tokens
    eight, four = Kind(32 * 16, 64, 1), Kind(16 * 16, 64, 1)
    assert [(w.step, w.stops) for w in ways(backbone, eight, None)] == [(2, (1, 15))]
    assert [(w.step, w.stops) for w in ways(backbone, eight, 29)] == [(1, (1, 29)), (2, (1, 15))]
    assert [(w.step, w.stops) for w in ways(backbone, four, None)] == [(1, (1, 13)), (2, (1, 7))]
    assert [(w.step, w.stops) for w in ways(backbone, eight, 7)] == [(2, (1, 7))]  # a part of the picture


def test_latents_and_texts_are_made_once_and_kept(
    folder: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(folder, network, tmp_path / "a")
    new = first.encoded(WIDE, [(0,), (2,)], [False, True])
    monkeypatch.setattr(Wan, "encode", lambda self, x: pytest.fail("encoded again"))
    kept = made(folder, network, tmp_path / "a").encoded(WIDE, [(0,), (2,)], [False, True])
    assert all(torch.equal(a, b) for a, b in zip(new, kept))
    assert torch.equal(kept[1][1], first.read("")[0])
    assert torch.equal(kept[1][0], first.read("a photo of boat 0")[0])
    other = shutil.copytree(network, tmp_path / "other")
    (other / "vae/config.json").write_text(
        (other / "vae/config.json").read_text().replace('"z_dim": 16', '"z_dim":  16')
    )
    with pytest.raises(pytest.fail.Exception, match="encoded again"):  # another network's are its own
        made(folder, other, tmp_path / "a").encoded(WIDE, [(0,)], [False])


# -- what it is trained on


def test_a_folders_pictures_are_shown_whole_at_one_short_side(folder: Path) -> None:
    scrolls = Folder(folder).scrolls(16, 16, 32)
    assert scrolls.kinds == (Kind(16, 80, 1, 1), WIDE)
    assert {scrolls.draw(WIDE, np.random.default_rng(i)) for i in range(20)} == {(0,), (2,)}
    rgb, text = scrolls.look(WIDE, (0,))
    assert (rgb.shape, text) == ((16, 96, 3), "a photo of boat 0")
    whole = np.asarray(Image.open(folder / "0.png"), float)  # halved exactly
    assert np.abs(rgb.astype(float).mean((0, 1)) - whole.mean((0, 1))).max() < 1
    assert (
        np.abs(rgb[:, ::-1].astype(float) - whole.reshape(16, 2, 96, 2, 3).mean((1, 3))).mean() > 10
    )  # mirrored: not it
    assert np.abs(rgb.astype(float) - whole.reshape(16, 2, 96, 2, 3).mean((1, 3))).mean() < 10


def test_the_worlds_panoramas_hold_rare_things_evenly_and_no_scene_of_the_evaluation() -> None:
    scrolls = World().scrolls(32, 8, 32)
    assert [(kind.width, kind.height) for kind in scrolls.kinds] == [(128, 32), (256, 32)]
    scenes = [scene_of(i)[0] for i in range(400)]
    counts = [sum(scene.unique == kind for scene in scenes) for kind in (None, *UNIQUES)]
    assert min(counts) > 400 / 5 - 4 * 8  # four deviations of a fifth of 400
    assert len(asked()) == 300
    assert not asked() & set(scenes)
    rng = np.random.default_rng(0)
    keys = {scrolls.draw(scrolls.kinds[0], rng, fresh) for fresh in (False, True) for _ in range(50)}
    assert sum(key[0] >= 2**31 for key in keys) > 40
    rgb, text = scrolls.look(scrolls.kinds[1], (3,))
    assert (rgb.shape, text[0]) == ((32, 256, 3), "a")
    with pytest.raises(UsageError, match=r"networks of 32 px squares, world-wan; this one's have 480 px"):
        World().scrolls(480, 16, 832)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": "all"}, "unknown tune 'all'"),
        ({"optimiser": "muon"}, "optimiser=muon is for whole matrices; set tune=full, or take adamw"),
        ({"rank": 0}, "scrollscape: rank must be at least 1, got 0"),
        ({"drop": 2.0}, "scrollscape: drop must be 0 to 1"),
        ({"size": 20}, "size=20 is no whole tokens of 16 px; nearest: 16"),
        ({"size": 48}, r"0\.png: 192x32; expected a short side of at least 48 px, and a long one of more than 32 px"),
    ],
)
def test_settings_and_pictures_that_cannot_work_are_refused_before_anything_is_loaded(
    folder: Path, network: Path, tmp_path: Path, settings: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.backbones.wan.load_low", lambda *a: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=message):
        fit(folder, network, tmp_path, settings=SETTINGS | settings)


def test_other_networks_are_refused_and_the_method_names_its_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"backbone sdxl has none: use wan-1\.3b or wan-14b"):
        bench.train(
            "scrollscape", str(folder), "sdxl", tmp_path / "out", options={"model": str(write_sdxl(tmp_path / "sdxl"))}
        )
    assert trainer_of("scrollscape") is alignment
    assert find("methods", "scrollscape").trainer
