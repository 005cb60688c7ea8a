"""PixArt's resolution binning against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.flux import flux_dev
from methods.backbones.pixart import pixart_sigma
from methods.direct import direct
from methods.direct_binned import direct_binned, nearest_bin
from tests.support.close import sampled
from tests.support.tiny_pipelines import write_flux, write_pixart

BOAT = Prompt("boat", "a boat under one moon", "blurry")


@pytest.mark.parametrize(
    ("window", "asked", "made"),
    [
        (128, Canvas(4096, 512), Canvas(2048, 512)),  # then enlarged twice, and cut
        (128, Canvas(3072, 512), Canvas(2048, 512)),
        (128, Canvas(512, 4096), Canvas(512, 2048)),
        (256, Canvas(4096, 512), Canvas(4096, 1024)),  # then cut to the middle 512 rows
        (128, Canvas(1024, 1024), Canvas(1024, 1024)),
        (128, Canvas(1152, 896), Canvas(1152, 896)),
    ],
)
def test_a_canvas_is_made_at_the_listed_size_of_the_nearest_aspect(window: int, asked: Canvas, made: Canvas) -> None:
    assert nearest_bin(window, asked) == made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest native side with a table; a decoder that stays in [0, 1]: the pipeline clips later than we do."""
    from safetensors.torch import load_file, save_file

    made = write_pixart(tmp_path_factory.mktemp("pixart"), sample_size=32)
    weights = made / "vae/diffusion_pytorch_model.safetensors"
    faint = {k: 0.1 * v if k.startswith("decoder.conv_out") else v for k, v in load_file(weights).items()}
    save_file(faint, weights, metadata={"format": "pt"})
    return made


def by_diffusers(folder: Path, canvas: Canvas, **changes: Any) -> torch.Tensor:
    from diffusers import PixArtSigmaPipeline

    pipe = PixArtSigmaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    made = nearest_bin(32, canvas) if changes.get("use_resolution_binning", True) else canvas
    noise = Noise(0, BOAT.id).normal("canvas", (1, 4, made.height // 4, made.width // 4))
    given = {"guidance_scale": 4.5, "num_inference_steps": 2, "use_resolution_binning": True, **changes}
    picture = pipe(
        prompt=BOAT.text, negative_prompt=BOAT.negative, clean_caption=False, latents=noise, width=canvas.width,
        height=canvas.height, output_type="pt", **given,
    ).images[0]  # fmt: skip
    assert picture.shape == (3, canvas.height, canvas.width)
    return torch.as_tensor(picture)


def test_it_is_the_pipelines_default_and_direct_is_the_pipeline_without(folder: Path) -> None:
    backbone, canvas = pixart_sigma(model=str(folder)), Canvas(256, 32)
    knobs: dict[str, Any] = {"steps": 2, "guidance": 4.5}
    close = sampled(backbone, 2, 4.5)
    binned, plain = (m.fn(backbone, BOAT, canvas, Noise(0, "boat"), **knobs) for m in (direct_binned, direct))
    assert 0 < float(binned.min()) < float(binned.max()) < 1
    torch.testing.assert_close(binned, by_diffusers(folder, canvas), atol=close, rtol=0)
    without = by_diffusers(folder, canvas, use_resolution_binning=False)
    torch.testing.assert_close(plain, without, atol=close, rtol=0)
    assert float((binned - plain).abs().max()) > 2 * close


def test_at_a_listed_size_it_is_direct(folder: Path) -> None:
    backbone, knobs = pixart_sigma(model=str(folder)), {"steps": 1, "guidance": 4.5}
    canvas = nearest_bin(32, Canvas(64, 64))
    binned, plain = (m.fn(backbone, BOAT, canvas, Noise(0, "boat"), **knobs) for m in (direct_binned, direct))
    assert torch.equal(binned, plain)


def test_loops_and_networks_without_a_table_are_refused(folder: Path, tmp_path: Path) -> None:
    pixart, flux = pixart_sigma(model=str(folder)), flux_dev(model=str(write_flux(tmp_path / "flux")))
    odd = pixart_sigma(model=str(write_pixart(tmp_path / "odd")))
    with pytest.raises(UsageError, match="direct-binned cannot make a loop"):
        direct_binned.fn(pixart, BOAT, Canvas(64, 32, loop=True), Noise(0, "boat"))
    for backbone in (flux, odd):
        with pytest.raises(UsageError, match=f"native sides of 32, 64, 128, 256 cells; {backbone.name} has none"):
            direct_binned.fn(backbone, BOAT, Canvas(64, 32), Noise(0, "boat"))


def test_the_full_size_passes_on_the_meta_device() -> None:
    picture = direct_binned.fn(pixart_sigma.skeleton(), BOAT, Canvas(4096, 512), Noise(0, "boat"), steps=1)
    assert (picture.device.type, picture.shape) == ("meta", (3, 512, 4096))
