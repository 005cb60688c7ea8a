"""SD 3.5 against diffusers' own pipeline, its table of positions, and its full size on the meta device."""

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
from methods.backbones.sd3 import LAYOUT, sd35_large, sd35_medium
from methods.direct import direct
from methods.multidiffusion import multidiffusion
from tests.support.close import products, rounding, sampled
from tests.support.shallow import shallow
from tests.support.tiny_pipelines import write_sd3

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CANVAS = Canvas(48, 16)
GUIDANCE = 7.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def close(folder: Path) -> Callable[[float], float]:
    """How far pictures and latents of five steps at a guidance scale may lie apart."""
    backbone = sd35_medium(model=str(folder))
    return lambda guidance: sampled(backbone, 5, guidance)


def by_diffusers(folder: Path, output: str, negative: str | None = BOAT.negative, **changes: Any) -> Any:
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if "shift" in changes:
        pipe.scheduler.set_shift(changes.pop("shift"))
    given = {"guidance_scale": GUIDANCE, "num_inference_steps": 5, **changes}
    return pipe(
        prompt=BOAT.text, negative_prompt=negative, width=CANVAS.width, height=CANVAS.height,
        latents=Noise(0, BOAT.id).normal("canvas", (1, 16, 4, 12)), output_type=output, **given,
    ).images[0]  # fmt: skip


def ours(folder: Path, negative: str = BOAT.negative, steps: int = 5, guidance: float = GUIDANCE) -> torch.Tensor:
    asked = Prompt(BOAT.id, BOAT.text, negative)
    return direct.fn(sd35_medium(model=str(folder)), asked, CANVAS, Noise(0, BOAT.id), steps=steps, guidance=guidance)


@pytest.mark.parametrize(
    ("negative", "official", "guidance"), [("blurry", "blurry", 7.0), ("", None, 7.0), ("blurry", "blurry", 1.0)]
)
def test_direct_is_the_pipelines_picture(
    folder: Path, negative: str, official: str | None, guidance: float, close: Callable[[float], float]
) -> None:
    expected = by_diffusers(folder, "pt", official, guidance_scale=guidance)
    torch.testing.assert_close(ours(folder, negative, guidance=guidance), expected, atol=close(guidance), rtol=0)


def test_final_latents_are_the_pipelines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = sd35_medium(model=str(folder))
    monkeypatch.setattr(backbone, "decode", lambda latents: latents)
    found = direct.fn(backbone, BOAT, CANVAS, Noise(0, BOAT.id), steps=5, guidance=GUIDANCE)
    expected = by_diffusers(folder, "latent")
    close = sampled(backbone, 5, GUIDANCE) * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=close, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 6.5}, {"num_inference_steps": 6}, {"negative": None}, {"shift": 2.5},
        {"max_sequence_length": 128},
    ],
)  # fmt: skip
def test_what_decides_the_picture_is_not_lost_in_the_tolerance(
    folder: Path, changes: dict[str, Any], close: Callable[[float], float]
) -> None:
    assert float((ours(folder) - by_diffusers(folder, "pt", **changes)).abs().max()) > 2 * close(GUIDANCE)


def test_a_scheduler_that_asks_for_dynamic_shifting_gets_the_pipelines(
    folder: Path, tmp_path: Path, close: Callable[[float], float]
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "dynamic"))
    config = json.loads((other / "scheduler/scheduler_config.json").read_text())
    (other / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "use_dynamic_shifting": True}))
    found = ours(other)
    torch.testing.assert_close(found, by_diffusers(other, "pt"), atol=close(GUIDANCE), rtol=0)
    assert float((found - ours(folder)).abs().max()) > 2 * close(GUIDANCE)


def test_windows_run_unchanged_and_one_window_is_direct_sampling(folder: Path) -> None:
    backbone = sd35_medium(model=str(folder))
    knobs = {"steps": 3, "guidance": GUIDANCE}
    wide = multidiffusion.fn(backbone, BOAT, Canvas(96, 32), Noise(0, "boat"), stride=4, **knobs)
    assert (wide.shape, backbone.meter.nfe) == ((3, 32, 96), 2 * 3 * 5)
    one, plain = (run.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "boat"), **knobs) for run in (multidiffusion, direct))
    torch.testing.assert_close(one, plain, atol=sampled(backbone, 3, GUIDANCE), rtol=0)


def test_a_canvas_beyond_the_table_of_positions_is_refused_before_anything_is_computed(folder: Path) -> None:
    backbone = sd35_medium(model=str(folder))  # 24 positions of 8 px
    message = "knows positions for 24 patches a side, that is 192 px; .* asked for 200x16 px .* such as multidiffusion"
    with pytest.raises(UsageError, match=message):
        direct.fn(backbone, BOAT, Canvas(200, 16), Noise(0, "boat"), steps=2)
    assert (backbone.meter.nfe, backbone.meter.seconds) == (0, {})
    with pytest.raises(UsageError, match="24 patches"):
        backbone.predict(torch.zeros(1, 16, 50, 4), 500.0, torch.zeros(1, 8, 48))
    assert direct.fn(backbone, BOAT, Canvas(192, 16), Noise(0, "boat"), steps=1).shape == (3, 16, 192)


@pytest.mark.parametrize(("factory", "most"), [(sd35_large, 3072), (sd35_medium, 6144)])
def test_the_full_size_tables_end_where_the_papers_sizes_do(factory: Any, most: int) -> None:
    backbone = factory.skeleton()
    backbone.scheduler(28, (64, most // 8))
    with pytest.raises(UsageError, match=f"at most {most} px"):
        backbone.scheduler(28, (64, most // 8 + 2))


@pytest.mark.parametrize(("words", "flags"), [(10, []), (20, ["prompt-truncated"])])
def test_cut_prompts_are_flagged(folder: Path, words: int, flags: list[str]) -> None:
    backbone = sd35_medium(model=str(folder))
    backbone.condition("boat " * words)  # a token a letter: CLIP reads 77, T5 256
    assert backbone.meter.flags == flags


def test_a_folder_round_trips_and_a_partial_one_is_refused_in_one_error(folder: Path, tmp_path: Path) -> None:
    assert sd35_medium.describe(model=str(folder)).weights_digest == folder_digest(folder, LAYOUT)
    saved = Path(shutil.copytree(folder, tmp_path / "sd3"))
    backbone = sd35_medium(model=str(saved))
    backbone.transformer.save_pretrained(saved / "transformer", max_shard_size="20KB")
    whole = saved / "transformer/diffusion_pytorch_model.safetensors"
    whole.unlink(missing_ok=True)
    assert torch.equal(ours(saved), ours(folder))
    next(saved.glob("transformer/*-00002-of-*")).unlink()
    shutil.rmtree(saved / "tokenizer_3")
    with pytest.raises(UsageError) as caught:
        sd35_medium(model=str(saved))
    for part in ("transformer lacks 1 of", "tokenizer_3/tokenizer_config.json is missing"):
        assert part in str(caught.value)


def test_attention_backends_that_would_do_nothing_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="SD3Transformer2DModel has no attention 'native'; use sdpa"):
        sd35_medium(model=str(folder), attention="native")


def test_encode_and_decode_undo_scale_and_shift_of_the_latents(folder: Path) -> None:
    backbone = sd35_medium(model=str(folder))
    config, image = backbone.vae.config, torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, raw = backbone.encode(image), backbone.vae.encode(2 * image - 1).latent_dist.mode()
        shown, expected = backbone.decode(found), backbone.vae.decode(raw)[0] / 2 + 0.5
    torch.testing.assert_close(found, (raw - config.shift_factor) * config.scaling_factor)
    torch.testing.assert_close(shown, expected.clamp(0, 1), atol=rounding(1, products(backbone.vae)), rtol=0)
    assert float((found - raw * config.scaling_factor).abs().max()) > 0.05


def test_half_precision_keeps_the_decoder_in_float32(folder: Path) -> None:
    backbone = sd35_medium(model=str(folder), precision="bf16")
    low = {backbone.parts[p].dtype for p in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")}
    assert (low, backbone.vae.dtype) == ({torch.bfloat16}, torch.float32)
    assert direct.fn(backbone, BOAT, CANVAS, Noise(0, "boat"), steps=2, guidance=5.0).isfinite().all()


# Text encoders: published. The transformers' exact numbers follow from their configurations; what is public are 8.06 B
# and, for the medium one with its table of 384 x 384 positions (a buffer, not counted here), 2.47 B.
TEXT = {"text_encoder": 123_650_304, "text_encoder_2": 694_659_840, "text_encoder_3": 4_762_310_656}
SIZES = [
    (sd35_medium, Canvas(3072, 1024), {"transformer": 2_243_171_520, "vae": 83_819_683, **TEXT}),
    (sd35_large, Canvas(2048, 512), {"transformer": 8_056_627_520, "vae": 83_819_683, **TEXT}),
]


@pytest.mark.parametrize(("factory", "canvas", "sizes"), SIZES, ids=[f.name for f, _, _ in SIZES])
def test_the_full_size_passes_on_the_meta_device(factory: Any, canvas: Canvas, sizes: dict[str, int]) -> None:
    backbone = factory.skeleton(precision="bf16")
    backbone.condition = cache(backbone.condition)  # one text, encoded once
    modules = {k: m for k, m in backbone.parts.items() if hasattr(m, "parameters")}
    assert {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()} == sizes
    shallow(*backbone.parts.values())
    picture = direct.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=1)
    assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
    if canvas.height == 1024:
        picture = multidiffusion.fn(backbone, BOAT, canvas, Noise(0, "boat"), steps=1, stride=backbone.window)
        assert (picture.device.type, picture.shape) == ("meta", (3, canvas.height, canvas.width))
