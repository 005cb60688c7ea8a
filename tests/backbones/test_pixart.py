"""PixArt-Sigma against diffusers' own pipeline, its micro-conditions, and its full size on the meta device."""

from __future__ import annotations

import json
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
from methods.backbones.pixart import LAYOUT, pixart_sigma
from methods.direct import direct
from methods.multidiffusion import multidiffusion
from tests.support.close import sampled
from tests.support.shallow import shallow
from tests.support.tiny_pipelines import write_pixart

BOAT = Prompt("boat", "A boat under ONE moon ", "blurry")
CANVAS = Canvas(48, 16)
GUIDANCE = 4.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pixart(tmp_path_factory.mktemp("pixart"))


@pytest.fixture(scope="module")
def close(folder: Path) -> Callable[[float], float]:
    """How far pictures and latents of five steps at a guidance scale may lie apart."""
    backbone = pixart_sigma(model=str(folder))
    return lambda guidance: sampled(backbone, 5, guidance)


def by_diffusers(folder: Path, output: str, negative: str = BOAT.negative, **changes: Any) -> Any:
    from diffusers import PixArtSigmaPipeline

    pipe = PixArtSigmaPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    given = {
        "guidance_scale": GUIDANCE, "num_inference_steps": 5, "use_resolution_binning": False, "clean_caption": False,
        "latents": Noise(0, BOAT.id).normal("canvas", (1, 4, 4, 12)), "width": CANVAS.width, "height": CANVAS.height,
        **changes,
    }  # fmt: skip
    return pipe(prompt=BOAT.text, negative_prompt=negative, output_type=output, **given).images[0]


def ours(folder: Path, negative: str = BOAT.negative, guidance: float = GUIDANCE) -> torch.Tensor:
    asked = Prompt(BOAT.id, BOAT.text, negative)
    return direct.fn(pixart_sigma(model=str(folder)), asked, CANVAS, Noise(0, BOAT.id), steps=5, guidance=guidance)


@pytest.mark.parametrize(("negative", "guidance"), [("blurry", 4.5), ("", 4.5), ("blurry", 1.0)])
def test_direct_is_the_pipelines_picture(
    folder: Path, negative: str, guidance: float, close: Callable[[float], float]
) -> None:
    expected = by_diffusers(folder, "np", negative, guidance_scale=guidance)
    found = ours(folder, negative, guidance)
    torch.testing.assert_close(found, torch.from_numpy(expected).permute(2, 0, 1), atol=close(guidance), rtol=0)


def test_final_latents_are_the_pipelines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = pixart_sigma(model=str(folder))
    monkeypatch.setattr(backbone, "decode", lambda latents: latents)
    found = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, guidance=GUIDANCE)
    expected = by_diffusers(folder, "latent")
    close = sampled(backbone, 5, GUIDANCE) * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=close, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{"guidance_scale": 4.0}, {"num_inference_steps": 6}, {"negative": ""}, {"max_sequence_length": 12}],
)
def test_what_decides_the_picture_is_not_lost_in_the_tolerance(
    folder: Path, changes: dict[str, Any], close: Callable[[float], float]
) -> None:
    other = torch.from_numpy(by_diffusers(folder, "np", **changes)).permute(2, 0, 1)
    assert float((ours(folder) - other).abs().max()) > 2 * close(GUIDANCE)


def test_nothing_is_snapped_to_a_table_of_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_pixart(tmp_path, sample_size=32)  # a size the pipeline has a table for
    backbone = pixart_sigma(model=str(model))
    monkeypatch.setattr(backbone, "decode", lambda latents: latents)
    assert direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=1).shape == (4, 4, 12)
    assert by_diffusers(model, "latent", latents=None, use_resolution_binning=True).shape == (4, 36, 108)  # 432x144 px


def test_checkpoints_with_micro_conditions_are_told_size_and_aspect(tmp_path: Path) -> None:
    from diffusers import PixArtAlphaPipeline

    model = write_pixart(tmp_path, sample_size=128, micro_conditions=True)
    pipe = PixArtAlphaPipeline.from_pretrained(model)  # Sigma's pipeline knows no such checkpoints
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=BOAT.text, negative_prompt=BOAT.negative, width=CANVAS.width, height=CANVAS.height,
        latents=Noise(0, BOAT.id).normal("canvas", (1, 4, 4, 12)), output_type="np", guidance_scale=GUIDANCE,
        num_inference_steps=5, use_resolution_binning=False, clean_caption=False, max_sequence_length=300,
    ).images[0]  # fmt: skip
    apart = (ours(model) - torch.from_numpy(expected).permute(2, 0, 1)).abs().max()
    backbone = pixart_sigma(model=str(model))
    close = sampled(backbone, 5, GUIDANCE)
    assert float(apart) < close
    backbone.factor = 8  # the same latents, taken for a canvas of twice the sides
    wrong = direct.fn(backbone, BOAT, Canvas(96, 32), Noise(0, BOAT.id), steps=5, guidance=GUIDANCE)
    assert float((wrong - torch.from_numpy(expected).permute(2, 0, 1)).abs().max()) > 2 * close


def test_windows_of_a_multistep_solver_run_unchanged_and_one_is_direct_sampling(folder: Path) -> None:
    backbone = pixart_sigma(model=str(folder))
    knobs = {"steps": 4, "guidance": GUIDANCE}
    wide = multidiffusion.fn(backbone, BOAT, Canvas(96, 32), Noise(0, "boat"), stride=4, **knobs)
    assert (wide.shape, backbone.meter.nfe) == ((3, 32, 96), 2 * 4 * 5)
    one, plain = (run.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "boat"), **knobs) for run in (multidiffusion, direct))
    torch.testing.assert_close(one, plain, atol=sampled(backbone, 4, GUIDANCE), rtol=0)


@pytest.mark.parametrize(("words", "flags"), [(40, []), (70, ["prompt-truncated"])])
def test_cut_prompts_are_flagged(folder: Path, words: int, flags: list[str]) -> None:
    backbone = pixart_sigma(model=str(folder))
    backbone.condition("boat " * words)  # a token a letter and one a space; T5 reads 300
    assert backbone.meter.flags == flags


def test_a_folder_round_trips_and_a_partial_one_is_refused_in_one_error(folder: Path, tmp_path: Path) -> None:
    assert pixart_sigma.describe(model=str(folder)).weights_digest == folder_digest(folder, LAYOUT)
    saved = Path(shutil.copytree(folder, tmp_path / "pixart"))
    config = json.loads((saved / "transformer/config.json").read_text())
    older = {**config, "_class_name": "Transformer2DModel"}  # the name in the first releases
    (saved / "transformer/config.json").write_text(json.dumps(older))
    assert torch.equal(ours(saved), ours(folder))
    (saved / "transformer/config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"}))
    (saved / "text_encoder/model.safetensors").rename(saved / "text_encoder/pytorch_model.bin")
    with pytest.raises(UsageError) as caught:
        pixart_sigma(model=str(saved))
    for part in ("transformer is a UNet2DConditionModel", "text_encoder has no *.safetensors (pickled"):
        assert part in str(caught.value)


def test_half_precision_keeps_the_decoder_in_float32(folder: Path) -> None:
    backbone = pixart_sigma(model=str(folder), precision="bf16")
    assert backbone.transformer.dtype == backbone.parts["text_encoder"].dtype == torch.bfloat16
    assert backbone.vae.dtype == torch.float32
    assert direct.fn(backbone, BOAT, CANVAS, Noise(0, "boat"), steps=2, guidance=4.5).isfinite().all()


# The published sizes of the released networks.
SIZES = {"transformer": 610_856_096, "vae": 83_653_863, "text_encoder": 4_762_310_656}


def test_the_full_size_passes_on_the_meta_device() -> None:
    backbone, canvas = pixart_sigma.skeleton(precision="bf16"), Canvas(4096, 1024)
    backbone.condition = cache(backbone.condition)  # one text, encoded once
    modules = {k: m for k, m in backbone.parts.items() if hasattr(m, "parameters")}
    assert {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()} == SIZES
    shallow(*backbone.parts.values())
    for run, knobs in ((direct, {}), (multidiffusion, {"stride": backbone.window})):
        picture = run.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=2, **knobs)
        assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
