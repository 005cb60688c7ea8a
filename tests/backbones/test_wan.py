"""Wan2.1: its decoder and encoder, its schedule, its folders, and its full size on the meta device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.ids import folder_digest
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.wan import LAYOUT, wan_large, wan_small
from methods.direct_video import direct_video
from tests.support.close import products, rounding
from tests.support.shallow import shallow
from tests.support.tiny_pipelines import write_wan

BOAT = Prompt("boat", "a boat under one moon", "blurry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("wan"))


@pytest.mark.parametrize("frames", [1, 2])
def test_encode_and_decode_undo_the_statistics_of_the_latents(folder: Path, frames: int) -> None:
    backbone = wan_small(model=str(folder))
    config, generator = backbone.vae.config, torch.Generator().manual_seed(0)
    video = torch.rand(1, 3, 4 * frames - 3, 16, 24, generator=generator)
    with torch.no_grad():
        found = backbone.encode(video)
        raw = backbone.vae.encode(2 * video - 1).latent_dist.mode()
        shown = backbone.decode(found)
        expected = backbone.vae.decode(raw)[0] / 2 + 0.5
    assert found.shape == (1, 16, frames, 2, 3)
    mean, std = (torch.tensor(v).view(1, 16, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    torch.testing.assert_close(found, (raw - mean) / std)
    torch.testing.assert_close(shown, expected.clamp(0, 1), atol=rounding(1, products(backbone.vae)), rtol=0)
    assert float((found - raw).abs().max()) > 0.1  # without them it would be something else


def test_the_shift_is_the_checkpoints_unless_it_is_set(folder: Path) -> None:
    def sigmas(**options: Any) -> torch.Tensor:
        found: torch.Tensor = wan_small(model=str(folder), **options).scheduler(10).sigmas
        return found

    assert torch.equal(sigmas(), sigmas(shift=3.0))
    at = torch.linspace(1, 1 / 1000, 11)[:-1]
    for shift in (3.0, 5):
        by_hand = shift * at / (1 + (shift - 1) * at)
        torch.testing.assert_close(sigmas(shift=shift)[:-1], by_hand.to(torch.float32), atol=2e-3, rtol=0)
    assert float((sigmas() - sigmas(shift=5)).abs().max()) > 0.05
    names = [wan_large.describe(model=str(folder), shift=shift).name for shift in (None, 5.0)]
    assert names == ["wan-14b", "wan-14b[shift=5.0]"]
    for wrong in ("high", 0, -1.0):
        with pytest.raises(UsageError, match="option shift takes a number above 0"):
            wan_small(model=str(folder), shift=wrong)


@pytest.mark.parametrize(("words", "flags"), [(80, []), (120, ["prompt-truncated"])])
def test_cut_prompts_are_flagged(folder: Path, words: int, flags: list[str]) -> None:
    backbone = wan_small(model=str(folder))
    backbone.condition("boat " * words)  # a token a letter and one a space; umT5 reads 512
    assert backbone.meter.flags == flags


def test_a_canvas_beyond_the_table_of_positions_is_refused_before_anything_is_computed(folder: Path) -> None:
    backbone = wan_small(model=str(folder))  # 32 positions of 16 px
    with pytest.raises(UsageError, match=r"positions for 32 tokens an axis, that is 512 px; .* 528x16 px"):
        direct_video.fn(backbone, BOAT, Canvas(528, 16), Noise(0, "boat"), steps=2)
    assert (backbone.meter.nfe, backbone.meter.seconds) == (0, {})
    with pytest.raises(UsageError, match=r"16384 px; .* 16400x512"):
        wan_small.skeleton().scheduler(50, (64, 2050))


def test_a_folder_round_trips_and_a_partial_one_is_refused_in_one_error(folder: Path, tmp_path: Path) -> None:
    assert wan_small.describe(model=str(folder)).weights_digest == folder_digest(folder, LAYOUT)
    saved = Path(shutil.copytree(folder, tmp_path / "wan"))
    backbone = wan_small(model=str(folder))
    backbone.transformer.save_pretrained(saved / "transformer", max_shard_size="20KB")
    (saved / "transformer/diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    pictures = [
        direct_video.fn(wan_small(model=str(f)), BOAT, Canvas(32, 16), Noise(0, "boat"), steps=2)
        for f in (folder, saved)
    ]
    assert torch.equal(*pictures)
    next(saved.glob("transformer/*-00002-of-*")).unlink()
    shutil.rmtree(saved / "vae")
    with pytest.raises(UsageError) as caught:
        wan_small(model=str(saved))
    for part in ("transformer lacks 1 of", "vae/config.json is missing"):
        assert part in str(caught.value)


def test_half_precision_keeps_the_decoder_and_the_layers_that_diffusers_keeps_in_float32(folder: Path) -> None:
    from diffusers import WanTransformer3DModel

    backbone = wan_small(model=str(folder), precision="bf16")
    assert backbone.transformer.dtype == backbone.parts["text_encoder"].dtype == torch.bfloat16
    assert backbone.vae.dtype == torch.float32
    theirs = WanTransformer3DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.bfloat16)
    kept = {k: p.dtype for k, p in theirs.named_parameters()}
    assert {k: p.dtype for k, p in backbone.transformer.named_parameters()} == kept
    assert set(kept.values()) == {torch.bfloat16, torch.float32}
    assert direct_video.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "boat"), steps=2).isfinite().all()


# The published sizes of the released networks.
REST = {"vae": 126_892_531, "text_encoder": 5_680_910_336}
SIZES = [
    (wan_small, Canvas(6656, 832), {"transformer": 1_418_996_800, **REST}),
    (wan_large, Canvas(4096, 512), {"transformer": 14_288_491_584, **REST}),
]


@pytest.mark.parametrize(("factory", "canvas", "sizes"), SIZES, ids=[f.name for f, _, _ in SIZES])
def test_the_full_size_passes_on_the_meta_device(factory: Any, canvas: Canvas, sizes: dict[str, int]) -> None:
    backbone = factory.skeleton(precision="bf16")
    modules = {k: m for k, m in backbone.parts.items() if hasattr(m, "parameters")}
    assert {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()} == sizes
    shallow(*backbone.parts.values())
    picture = direct_video.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=3)
    assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
    assert backbone.meter.nfe == 6
