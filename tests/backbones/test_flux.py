"""FLUX.1 against diffusers' own pipeline: its timestep shift, its guidance input; and its full size on meta."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.ids import folder_digest
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.flux import LAYOUT, flux_dev, flux_krea
from methods.direct import direct, direct_latents
from methods.multidiffusion import multidiffusion
from methods.shared.canvas import start
from tests.support.close import products, rounding, sampled
from tests.support.shallow import shallow
from tests.support.tiny_pipelines import write_flux

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CANVAS = Canvas(48, 16)
GUIDANCE = 3.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def close(folder: Path) -> Callable[[float], float]:
    """How far pictures and latents of five steps at a guidance scale may lie apart."""
    backbone = flux_dev(model=str(folder))
    return lambda guidance: sampled(backbone, 5, guidance)


def by_diffusers(folder: Path, output: str, mu: float | None = None, **changes: Any) -> Any:
    """The pipeline's picture or unpacked latents from the same noise; ``mu`` by a line through (any, mu)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    pipe = FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if mu is not None:
        line = {"base_shift": mu, "max_shift": mu}
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **line)
    given = {"guidance_scale": GUIDANCE, "num_inference_steps": 5, **changes}
    noise = Noise(0, BOAT.id).normal("canvas", (1, 16, 4, 12))
    made = pipe(
        prompt=BOAT.text, width=CANVAS.width, height=CANVAS.height,
        latents=pipe._pack_latents(noise, 1, 16, 4, 12), output_type=output, **given,
    ).images  # fmt: skip
    return pipe._unpack_latents(made, CANVAS.height, CANVAS.width, 4)[0] if output == "latent" else made[0]


def ours(folder: Path, guidance: float = GUIDANCE, **options: Any) -> torch.Tensor:
    backbone = flux_dev(model=str(folder), **options)
    return direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, guidance=guidance)


@pytest.mark.parametrize("guidance", [3.5, 1.0])
def test_direct_is_the_pipelines_picture(folder: Path, guidance: float, close: Callable[[float], float]) -> None:
    expected = by_diffusers(folder, "pt", guidance_scale=guidance)  # an input of the network: u + g (c - u) with g = 1
    torch.testing.assert_close(ours(folder, guidance), expected, atol=close(1.0), rtol=0)


def test_final_latents_are_the_pipelines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = flux_dev(model=str(folder))
    monkeypatch.setattr(backbone, "decode", lambda latents: latents)
    found = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, guidance=GUIDANCE)
    expected = by_diffusers(folder, "latent")
    close = sampled(backbone, 5) * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=close, rtol=0)
    assert backbone.meter.nfe == 5  # guidance is an input: one evaluation a step


def test_a_fixed_mu_is_the_pipelines_with_that_mu(folder: Path, close: Callable[[float], float]) -> None:
    found = ours(folder, mu=1.15)
    torch.testing.assert_close(found, by_diffusers(folder, "pt", mu=1.15), atol=close(1.0), rtol=0)
    assert float((found - ours(folder)).abs().max()) > 2 * close(1.0)


@pytest.mark.parametrize(
    "changes",
    [{"guidance_scale": 3.0}, {"num_inference_steps": 6}, {"mu": 0.5}, {"max_sequence_length": 256}],
)
def test_what_decides_the_picture_is_not_lost_in_the_tolerance(
    folder: Path, changes: dict[str, Any], close: Callable[[float], float]
) -> None:
    assert float((ours(folder) - by_diffusers(folder, "pt", **changes)).abs().max()) > 2 * close(1.0)


@pytest.mark.parametrize(("negative", "equal"), [("blurry", True), ("sharp", False)])
def test_true_guidance_through_predict_is_the_pipelines(folder: Path, negative: str, equal: bool) -> None:
    backbone = flux_dev(model=str(folder))
    told, scheduler = backbone.condition(BOAT.text, BOAT.negative), backbone.scheduler(3, (4, 12))
    scale = torch.full((2,), GUIDANCE)

    def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
        added = {**told.added, "guidance": scale}
        u, c = backbone.predict(torch.cat([x, x]), t, told.embeds, added).chunk(2)
        return u + 4.0 * (c - u)

    with torch.no_grad():
        found = direct_latents(guided, scheduler, start(backbone, scheduler, Noise(0, BOAT.id), (4, 12)))[0]
    more = {"true_cfg_scale": 4.0, "negative_prompt": negative, "num_inference_steps": 3}
    expected = by_diffusers(folder, "latent", **more)
    apart, close = float((found - expected).abs().max()), sampled(backbone, 3, 4.0) * float(expected.abs().max())
    assert apart < close if equal else apart > 2 * close


def test_without_a_guidance_input_the_network_is_asked_for_none(folder: Path) -> None:
    backbone = flux_dev(model=str(folder))
    told = backbone.condition("a boat")
    x = torch.randn(2, 16, 4, 8, generator=torch.Generator().manual_seed(0))
    alone = backbone.predict(x, torch.tensor(500.0), told.embeds, told.added)
    both = backbone.guided(x[1:], torch.tensor(500.0), told, 1.0)
    close = rounding(float(both.abs().max()), products(backbone.network))
    torch.testing.assert_close(alone[1:], both, atol=close, rtol=0)
    assert float((both - backbone.guided(x[1:], torch.tensor(500.0), told, 3.5)).abs().max()) > 2 * close


# By hand: mu = 0.5 + 0.65 (tokens - 256) / 3840, then the last of 28 sigmas e^mu / (e^mu + 27).
SHIFTS = [((128, 128), 0.1047), ((64, 256), 0.1047), ((128, 512), 0.4836), ((512, 512), 0.99974)]


@pytest.mark.parametrize(("size", "last"), SHIFTS)
def test_the_shift_grows_with_the_canvas_unless_it_is_fixed(folder: Path, size: tuple[int, int], last: float) -> None:
    found, fixed = (flux_dev(model=str(folder), mu=mu).scheduler(28, size).sigmas for mu in (None, 1.15))
    assert (len(found), float(found[-1])) == (29, 0.0)
    assert float(found[-2]) == pytest.approx(last, abs=2e-4)
    assert float(fixed[-2]) == pytest.approx(0.1047, abs=2e-4)


def test_a_canvas_whose_first_sigmas_are_all_one_still_ends_at_zero(folder: Path) -> None:
    scheduler = flux_dev(model=str(folder)).scheduler(4, (1024, 1024))
    assert scheduler.timesteps[0] == scheduler.timesteps[1]  # mu is 44.8
    x = torch.ones(1)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.ones(1), t, x).prev_sample
    assert float(x) == 0.0  # from 1 along a velocity of 1, over all sigmas


def test_positions_beyond_4096_px_stay_apart_in_half_precision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import FluxPipeline

    backbone = flux_dev(model=str(folder), precision="bf16")
    told, seen = backbone.condition("a boat"), []
    watch = backbone.transformer.pos_embed.register_forward_pre_hook(lambda _, ids: seen.append(ids[0]))
    with torch.no_grad():
        backbone.predict(torch.zeros(1, 16, 2, 600), 500.0, told.embeds[1:], {k: v[1:] for k, v in told.added.items()})
    watch.remove()
    assert len(seen[0][-300:].unique(dim=0)) == 300
    rounded = FluxPipeline._prepare_latent_image_ids(1, 1, 300, "cpu", torch.bfloat16)
    assert len(rounded.unique(dim=0)) < 300  # the pipeline's fall together


def test_the_shift_is_part_of_the_name_and_nonsense_is_refused(folder: Path, tmp_path: Path) -> None:
    names = [flux_krea.describe(model=str(folder), mu=mu).name for mu in (None, 1.15)]
    assert names == ["flux-krea", "flux-krea[mu=1.15]"]
    with pytest.raises(UsageError, match=r"option mu takes a number such as 1\.15"):
        flux_dev(model=str(folder), mu="high")
    with pytest.raises(UsageError, match="takes no guidance"):
        flux_dev(model=str(write_flux(tmp_path, guidance_embeds=False)))


def test_windows_run_unchanged_and_one_window_is_direct_sampling(folder: Path) -> None:
    backbone = flux_dev(model=str(folder))
    knobs = {"steps": 2, "guidance": GUIDANCE}
    wide = multidiffusion.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "boat"), window=8, stride=4, **knobs)
    assert (wide.shape, backbone.meter.nfe) == ((3, 32, 64), 2 * 3)
    one = multidiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "boat"), window=8, **knobs)
    plain = direct.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "boat"), **knobs)
    torch.testing.assert_close(one, plain, atol=sampled(backbone, 2), rtol=0)


@pytest.mark.parametrize(("words", "flags"), [(10, []), (20, ["prompt-truncated"])])
def test_cut_prompts_are_flagged(folder: Path, words: int, flags: list[str]) -> None:
    backbone = flux_dev(model=str(folder))
    backbone.condition("boat " * words)  # a token a letter: CLIP reads 77, T5 512
    assert backbone.meter.flags == flags


def test_a_folder_round_trips_and_a_partial_one_is_refused_in_one_error(folder: Path, tmp_path: Path) -> None:
    assert flux_dev.describe(model=str(folder)).weights_digest == folder_digest(folder, LAYOUT)
    saved = Path(shutil.copytree(folder, tmp_path / "flux"))
    flux_dev(model=str(folder)).parts["text_encoder_2"].save_pretrained(saved / "text_encoder_2", max_shard_size="20KB")
    (saved / "text_encoder_2/model.safetensors").unlink(missing_ok=True)
    assert torch.equal(ours(saved), ours(folder))
    next(saved.glob("text_encoder_2/*-00002-of-*")).unlink()
    shutil.rmtree(saved / "transformer")
    with pytest.raises(UsageError) as caught:
        flux_dev(model=str(saved))
    for part in ("text_encoder_2 lacks 1 of", "transformer/config.json is missing"):
        assert part in str(caught.value)


def test_attention_backends_change_rounding_only(folder: Path) -> None:
    close = sampled(flux_dev(model=str(folder)), 5)
    torch.testing.assert_close(ours(folder, attention="native"), ours(folder), atol=close, rtol=0)
    with pytest.raises(UsageError, match="attention 'natif' does not work here"):
        flux_dev(model=str(folder), attention="natif")


def test_half_precision_keeps_the_decoder_in_float32(folder: Path) -> None:
    backbone = flux_dev(model=str(folder), precision="bf16")
    low = {backbone.parts[p].dtype for p in ("transformer", "text_encoder", "text_encoder_2")}
    assert (low, backbone.vae.dtype) == ({torch.bfloat16}, torch.float32)
    assert direct.fn(backbone, BOAT, CANVAS, Noise(0, "boat"), steps=2, guidance=3.5).isfinite().all()


# The published sizes of the released networks.
SIZES = {
    "transformer": 11_901_408_320, "vae": 83_819_683, "text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656,
}  # fmt: skip


@pytest.mark.parametrize(("factory", "canvas"), [(flux_dev, Canvas(4096, 4096)), (flux_krea, Canvas(4096, 1024))])
def test_the_full_size_passes_on_the_meta_device(factory: Any, canvas: Canvas) -> None:
    backbone = factory.skeleton(precision="bf16", mu=1.15)
    backbone.condition = cache(backbone.condition)  # one text, encoded once
    modules = {k: m for k, m in backbone.parts.items() if hasattr(m, "parameters")}
    assert {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()} == SIZES
    shallow(*backbone.parts.values())
    picture = direct.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=1)
    assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
    if canvas.height == 1024:
        picture = multidiffusion.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=1, stride=backbone.window)
        assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
