"""The shipped networks of the miniature keep their quality gates and load through the loaders of real weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import extractors
from bench.extractors import locate
from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from bench.world.colour_detector import KINDS
from bench.world.obedience import count, obedience, round_trip, summary
from bench.world.oracle_net import load_oracle
from bench.world.render import HEIGHT, render
from bench.world.scene import sample_scene
from methods.backbones.flux import Flux
from methods.backbones.llamagen.backbone import LlamaGen
from methods.backbones.stable_diffusion import StableDiffusion
from methods.direct import direct

WEIGHTS = Path(locate.WORLD)
FRESH = 2**31 + 8_000_000


@pytest.fixture(scope="module")
def base() -> StableDiffusion:
    return find("backbones", "world-sd")()


def test_squares_show_exactly_one_thing_where_one_is_asked_for_and_none_in_an_empty_sky(base: StableDiffusion) -> None:
    rows = obedience(base, n=60)
    for detector in ("colour", "net"):
        asked = [r for r in rows if r["detector"] == detector and r["asked"] != "empty sky"]
        empty = next(r for r in rows if r["detector"] == detector and r["asked"] == "empty sky")
        assert sum(r["exactly_one"] * r["n"] for r in asked) >= 0.9 * sum(r["n"] for r in asked)
        assert empty["n"] >= 10
        assert empty["any"] <= 0.05


def test_a_base_model_that_does_not_listen_fails_the_gate(
    base: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = base.condition("a photo of the sea by day, clear sky, empty sky")
    monkeypatch.setattr(base, "condition", lambda prompt, negative="": deaf)
    asked = [r for r in obedience(base, n=12) if r["asked"] != "empty sky"]
    assert sum(r["exactly_one"] * r["n"] for r in asked) < 0.2 * sum(r["n"] for r in asked)


def pictures(n: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(12)
    return [render(sample_scene(rng), width, FRESH + i).rgb for i in range(n)]


def psnr(base: StableDiffusion, rgb: np.ndarray) -> float:
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        back = base.decode(base.encode(x))
    return float(-10 * torch.log10((back - x).square().mean()))


def test_the_autoencoder_keeps_32_db_on_squares_and_panoramas(base: StableDiffusion) -> None:
    for width in (HEIGHT, 8 * HEIGHT):
        assert np.mean([psnr(base, rgb) for rgb in pictures(20, width)]) >= 32
    assert (
        psnr(base, np.random.default_rng(0).integers(0, 256, (HEIGHT, HEIGHT, 3), dtype=np.uint8)) < 25
    )  # the control


def test_the_learned_oracle_counts_fresh_panoramas_exactly() -> None:
    net, rng = load_oracle(), np.random.default_rng(3)
    right = []
    for i in range(40):
        picture = render(sample_scene(rng), 8 * HEIGHT, FRESH + i, copies=i % 6)
        seen = [d.kind for d in net.read(picture.rgb).detections]
        right.append(all(seen.count(k) == picture.count(k) for k in KINDS))
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("name", ["world-vit", "world-clip", "world-cnn", "world-lpips", "world-oracle"])
def test_every_stand_in_network_has_a_card_with_how_it_was_made(name: str) -> None:
    card = json.loads((WEIGHTS / name / "card.json").read_text())
    assert card["name"] == name
    assert {"data", "steps", "batch", "seed", "seconds", "final_loss", "parameters", "held_out"} <= set(card)
    assert extractors.load(name).digest == extractors.find(name).digest


def test_all_shipped_weights_together_stay_small() -> None:
    files = {p.resolve() for p in WEIGHTS.rglob("*") if p.is_file()}  # some are shared
    assert sum(p.stat().st_size for p in files) < 45e6


@pytest.fixture(scope="module")
def world_flux() -> Flux:
    return find("backbones", "world-flux")()


def test_the_transformer_obeys_through_its_guidance_input(world_flux: Flux) -> None:
    found = summary(obedience(world_flux, n=24, seed=1))
    for detector in ("colour", "net"):
        assert found[f"exactly_one_{detector}"] >= 0.9
        assert found[f"empty_sky_any_{detector}"] <= 0.05


def test_the_transformers_folder_is_a_pipeline_of_diffusers_with_the_same_square(world_flux: Flux) -> None:
    from diffusers import FluxPipeline

    text, canvas, noise = "an ink painting of the sea at dusk, cloudy sky, one sun", Canvas(32, 32), Noise(0, "sea")
    ours = direct.fn(world_flux, Prompt("sea", text), canvas, noise, steps=4, guidance=2.5)
    pipe = FluxPipeline.from_pretrained(WEIGHTS / "world-flux", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    packed = pipe._pack_latents(Noise(0, "sea").normal("canvas", (1, 16, 8, 8)), 1, 16, 8, 8)
    theirs = [
        pipe(
            prompt=text, width=32, height=32, latents=packed, max_sequence_length=32, num_inference_steps=4,
            guidance_scale=scale, output_type="pt",
        ).images[0]
        for scale in (2.5, 2.0)
    ]  # fmt: skip
    torch.testing.assert_close(ours, theirs[0], atol=1e-5, rtol=0)
    assert float((ours - theirs[1]).abs().max()) > 1e-3  # the control: another guidance


@pytest.fixture(scope="module")
def world_llamagen() -> LlamaGen:
    return find("backbones", "world-llamagen")()


def test_the_token_network_obeys_its_captions(world_llamagen: LlamaGen) -> None:
    found = summary(obedience(world_llamagen, n=16, seed=2))  # type: ignore[arg-type]
    # Of 400 squares it misses 2 %: of so few, more than two once in 300 rounds.
    for detector in ("colour", "net"):
        assert found[f"exactly_one_{detector}"] >= 0.8
        assert found[f"empty_sky_any_{detector}"] <= 0.05


def test_the_image_tokenizer_keeps_28_db_and_what_the_detectors_read(world_llamagen: LlamaGen) -> None:
    rng, through = np.random.default_rng(5), round_trip(world_llamagen)  # type: ignore[arg-type]
    scenes = [sample_scene(rng) for _ in range(40)]
    squares = [render(s, HEIGHT, FRESH + i).rgb for i, s in enumerate(scenes)]
    back = [through(rgb) for rgb in squares]

    def db(a: np.ndarray, b: np.ndarray) -> float:
        return float(-10 * np.log10(np.square((a.astype(float) - b) / 255).mean()))

    assert np.mean([db(a, b) for a, b in zip(squares, back)]) >= 28
    grain = rng.integers(0, 256, (HEIGHT, HEIGHT, 3), dtype=np.uint8)
    assert db(grain, through(grain)) < 25  # the control
    for detector in ("colour", "net"):
        same = [count(a, s, detector) == count(b, s, detector) for a, b, s in zip(squares, back, scenes)]
        assert np.mean(same) >= 0.95
