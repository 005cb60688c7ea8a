"""SDXL against diffusers' own pipeline, its full size on the meta device, and its options."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from bench.ids import folder_digest
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.sdxl import LAYOUT, sdxl
from methods.backbones.stable_diffusion import sd15, sd20, sd21
from methods.direct import direct
from methods.multidiffusion import multidiffusion
from tests.support.close import sampled
from tests.support.shallow import shallow
from tests.support.tiny_pipelines import write_sdxl

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CANVAS = Canvas(48, 16)
GUIDANCE = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def close(folder: Path) -> Callable[[float], float]:
    """How far pictures and latents of five steps at a guidance scale may lie apart."""
    backbone = sdxl(model=str(folder))
    return lambda guidance: sampled(backbone, 5, guidance)


def by_diffusers(folder: Path, negative: str | None, output: str, **changes: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    given = {"guidance_scale": GUIDANCE, "num_inference_steps": 5, **changes}
    return pipe(
        prompt=BOAT.text, negative_prompt=negative, width=CANVAS.width, height=CANVAS.height,
        latents=Noise(0, BOAT.id).normal("canvas", (1, 4, 4, 12)), output_type=output, **given,
    ).images[0]  # fmt: skip


def ours(folder: Path, negative: str = BOAT.negative, guidance: float = GUIDANCE, **options: Any) -> torch.Tensor:
    asked = Prompt(BOAT.id, BOAT.text, negative)
    backbone = sdxl(model=str(folder), **options)
    return direct.fn(backbone, asked, CANVAS, Noise(0, BOAT.id), steps=5, guidance=guidance)


@pytest.mark.parametrize(("negative", "official"), [("blurry", "blurry"), ("", None)])
def test_direct_is_the_pipelines_picture(
    folder: Path, negative: str, official: str | None, close: Callable[[float], float]
) -> None:
    expected = torch.from_numpy(by_diffusers(folder, official, "np")).permute(2, 0, 1)
    torch.testing.assert_close(ours(folder, negative), expected, atol=close(GUIDANCE), rtol=0)


def test_final_latents_are_the_pipelines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_diffusers(folder, "blurry", "latent")
    backbone = sdxl(model=str(folder))
    monkeypatch.setattr(backbone, "decode", lambda latents: latents)
    found = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, guidance=GUIDANCE)
    close = sampled(backbone, 5, GUIDANCE) * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=close, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"guidance_scale": 4.5}, {"original_size": (64, 64)}, {"num_inference_steps": 6}, {"negative": None}]
)
def test_what_decides_the_picture_is_not_lost_in_the_tolerance(
    folder: Path, changes: dict[str, Any], close: Callable[[float], float]
) -> None:
    negative = changes.pop("negative", "blurry")
    other = torch.from_numpy(by_diffusers(folder, negative, "np", **changes)).permute(2, 0, 1)
    assert float((ours(folder) - other).abs().max()) > 2 * close(GUIDANCE)


def test_ddim_is_another_picture_and_another_name(folder: Path) -> None:
    assert float((ours(folder, sampler="ddim") - ours(folder)).abs().max()) > 1e-3
    named = [sdxl.describe(model=str(folder), sampler=s).name for s in ("checkpoint", "ddim")]
    assert named == ["sdxl", "sdxl[sampler=ddim]"]
    with pytest.raises(UsageError, match="did you mean 'ddim'"):
        sdxl(model=str(folder), sampler="dim")


def test_size_conditioning_follows_what_the_network_sees_unless_the_sampler_says(folder: Path) -> None:
    backbone = sdxl(model=str(folder))
    told = backbone.condition("a boat")
    x = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[16.0, 32.0, 0, 0, 16.0, 32.0]]).expand(2, -1)

    def predict(**more: Any) -> torch.Tensor:
        return backbone.predict(x, torch.tensor(500), told.embeds, {**told.added, **more})

    assert torch.equal(predict(), predict(time_ids=ids))
    assert not torch.equal(predict(), predict(time_ids=ids + 8))


def test_a_folder_round_trips_and_a_partial_one_is_refused_in_one_error(folder: Path, tmp_path: Path) -> None:
    assert sdxl.describe(model=str(folder)).weights_digest == folder_digest(folder, LAYOUT)
    saved = Path(shutil.copytree(folder, tmp_path / "sdxl"))
    (saved / "text_encoder_2/model.safetensors").unlink()
    shutil.rmtree(saved / "tokenizer_2")
    with pytest.raises(UsageError) as caught:
        sdxl.describe(model=str(saved))
    for part in ("text_encoder_2 has no *.safetensors", "tokenizer_2/tokenizer_config.json is missing"):
        assert part in str(caught.value)


def test_a_stable_diffusion_2_folder_is_not_sdxl(tiny_sd: Path) -> None:
    with pytest.raises(UsageError, match=r"text_encoder_2/config\.json is missing"):
        sdxl.describe(model=str(tiny_sd))


def test_half_precision_keeps_the_decoder_in_float32(folder: Path) -> None:
    backbone = sdxl(model=str(folder), precision="bf16")
    assert backbone.unet.dtype == backbone.parts["text_encoder_2"].dtype == torch.bfloat16
    assert backbone.vae.dtype == torch.float32
    assert np.isfinite(direct.fn(backbone, BOAT, CANVAS, Noise(0, "boat"), steps=2, guidance=5.0).numpy()).all()


# The published sizes of the released networks.
SIZES = [
    (sd15, Canvas(5120, 512), {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
    (sd20, Canvas(5120, 512), {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
    (sd21, Canvas(5120, 512), {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}),
    (
        sdxl,
        Canvas(4096, 1024),
        {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
    ),
]


@pytest.mark.parametrize(("factory", "canvas", "sizes"), SIZES, ids=[f.name for f, _, _ in SIZES])
def test_the_full_size_passes_on_the_meta_device(factory: Any, canvas: Canvas, sizes: dict[str, int]) -> None:
    backbone = factory.skeleton(precision="bf16")
    backbone.condition = cache(backbone.condition)  # one text, encoded once
    modules = {k: m for k, m in backbone.parts.items() if hasattr(m, "parameters")}
    assert {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()} == sizes
    for run, knobs in ((direct, {}), (multidiffusion, {"stride": backbone.window // 2})):
        picture = run.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=1, guidance=7.5, **knobs)
        assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
        shallow(*backbone.parts.values())  # the whole network has passed
