"""Methods on a GPU that is not there: nothing mixes devices, and no step waits for numbers to come to the host."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import extractors
from bench.noise import Noise
from bench.registry import find
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.backbones.tiny.llamagen import write_tiny_llamagen
from methods.backbones.tiny.stable_diffusion import tiny_clip
from methods.shared import windows
from tests.support import tiny_pipelines
from tests.support.fakecuda import pretended

PLACE = "cuda:1"
PROMPT = Prompt("boat", "a boat under one moon", "")
LATENT: dict[str, dict[str, Any]] = {
    "direct": {}, "multidiffusion": {"stride": 2}, "mad": {"stride": 2}, "spotdiffusion": {},
    "twindiffusion": {"stride": 2}, "tileddiffusion": {}, "bld": {}, "gvcf": {"stride": 2},
    "elasticdiffusion": {"resamplings": 1}, "streammultidiffusion": {"t_index_list": "0,12"},
    "syncdiffusion": {"window": 16, "loss": "world-lpips", "threshold": 1}, "msd": {"stride": 2}, "demofusion": {},
}  # fmt: skip
SHAPE = {"syncdiffusion": (8, 4), "msd": (2, 2)}  # in squares: what LPIPS can look at; two rows
OTHERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "sdxl": [("direct", {})], "flux-dev": [("direct", {})], "sd35-medium": [("direct", {})],
    "pixart-sigma": [("direct", {})], "wan-1.3b": [("direct-video", {}), ("scrollscape", {"alignment": "none"})],
    "llamagen": [("direct-tokens", {}), ("panollama", {})],
}  # fmt: skip
WRITERS = {
    "sdxl": tiny_pipelines.write_sdxl, "flux-dev": tiny_pipelines.write_flux, "sd35-medium": tiny_pipelines.write_sd3,
    "pixart-sigma": tiny_pipelines.write_pixart, "wan-1.3b": tiny_pipelines.write_wan, "llamagen": write_tiny_llamagen,
}  # fmt: skip
SQUARES = {"flux-dev": {"window": 8}, "wan-1.3b": {"native": (2, 2, 4)}}  # of networks whose config names no size
SIZES = {  # of methods that are not about squares; an extension of PanoLlama is three columns of 2 px
    "direct-video": Canvas(96, 16), "scrollscape": Canvas(96, 16), "direct-tokens": Canvas(8, 8),
    "panollama": Canvas(14, 8),
}  # fmt: skip
TRAINED = 100  # steps of the schedule, not 1000: ElasticDiffusion goes back over them one by one


def write_least_sd(folder: Path, guided: int | None = None) -> Path:
    """A Stable Diffusion of one block a part, squares of 4 cells, 2 px a cell: each operation costs a dispatch.

    Of ``guided`` numbers is the embedded guidance of a latent consistency model.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), mid_block_type=None,
        cross_attention_dim=16, attention_head_dim=2, time_cond_proj_dim=guided,
    )  # fmt: skip
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        TRAINED, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    if guided is not None:
        scheduler = LCMScheduler(original_inference_steps=50)
    tokenizer, text = tiny_clip()
    return tiny_pipelines.save(
        StableDiffusionPipeline(
            vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        ), folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_least_sd(tmp_path_factory.mktemp("least"))


def drawn(mode: Any, backbone: Any, name: str, knobs: dict[str, Any], canvas: Canvas) -> Counter[Any]:
    """What the host did in the stage ``denoise`` of a picture."""
    mode.stage = lambda: (backbone.meter._stack or [""])[-1]
    mode.counts.clear()
    use = find("methods", name)
    few = {"steps": 2} if "steps" in use.params else {}
    picture = use.fn(backbone, PROMPT, canvas, Noise(0, "boat"), **use.resolve(few | knobs))
    assert (str(picture.device), tuple(picture.shape)) == (PLACE, (3, canvas.height, canvas.width))
    return Counter({what: n for (at, what), n in mode.counts.items() if at == "denoise"})


def on_squares(mode: Any, backbone: Any, name: str, knobs: dict[str, Any], shape: tuple[int, int]) -> Counter[Any]:
    return drawn(mode, backbone, name, knobs, Canvas(*(n * backbone.window * backbone.factor for n in shape)))


@pytest.fixture(scope="module")
def latent(folder: Path) -> dict[str, Any]:
    """What the host did for every latent method, or what went wrong; one network for all."""
    found: dict[str, Any] = {}
    with pretended() as mode:
        backbone = from_pretrained(model=str(folder), device=PLACE, precision="fp16")
        backbone.condition = cache(backbone.condition)  # type: ignore[method-assign]
        for name, knobs in LATENT.items():
            try:
                found[name] = on_squares(mode, backbone, name, knobs, SHAPE.get(name, (2, 1)))
            except Exception as error:  # each method's own test tells of it
                found[name] = error
    return found


@pytest.mark.parametrize("name", LATENT)
def test_a_latent_method_stays_on_its_device_and_brings_nothing_home(name: str, latent: dict[str, Any]) -> None:
    counts = latent[name]
    assert isinstance(counts, Counter), repr(counts)
    assert counts["launch"] > 0
    assert counts["to_host"] == 0


@pytest.mark.parametrize("name", OTHERS)
def test_methods_on_other_networks_stay_on_their_device(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path)
    with pretended() as mode:
        backbone = find("backbones", name)(model=str(folder), device=PLACE, precision="bf16")
        for attribute, value in SQUARES.get(name, {}).items():
            setattr(backbone, attribute, value)
        for method, knobs in OTHERS[name]:
            if method in SIZES:
                counts = drawn(mode, backbone, method, knobs, SIZES[method])
            else:
                counts = on_squares(mode, backbone, method, knobs | {"steps": 1}, (2, 1))
            assert (method, counts["launch"] > 0, counts["to_host"]) == (method, True, 0)


def test_a_consistency_model_that_is_offloaded_computes_on_the_device_and_starts_it(tmp_path: Path) -> None:
    folder = write_least_sd(tmp_path / "lcm", guided=8)
    with pretended() as mode:
        options = {"device": PLACE, "precision": "fp16", "offload": "model", "sampler": "checkpoint"}
        backbone = find("backbones", "sd15")(model=str(folder), **options)
        assert mode.counts["", "init"] == 1
        assert backbone.unet.device.type == "cpu"
        assert on_squares(mode, backbone, "mad", {"stride": 2}, (2, 1))["launch"] > 0


@pytest.mark.parametrize(("name", "copies"), [("world-vit", 1), ("world-clip", 1), ("world-lpips", 4 * 7)])
def test_extractors_look_on_their_device_and_bring_home_what_they_saw(name: str, copies: int) -> None:
    """LPIPS brings home a row of distances for every picture and layer."""
    grey = [np.full((32, 32, 3), 127, np.uint8)] * 4
    with pretended() as mode:
        network = extractors.load(name, PLACE)
        mode.counts.clear()
        seen = (network.distances if "distances" in extractors.protocol.asked(network.role) else network.embed)(grey)
        assert len(seen) == 4
        assert (mode.counts["", "launch"] > 0, mode.counts["", "to_host"]) == (True, copies)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_numbers_of_16_bits_stay_finite(precision: str, folder: Path) -> None:
    """Real ones, on the CPU, where fp16 is otherwise refused for being slow."""
    backbone = from_pretrained(model=str(folder), precision="bf16")
    backbone.unet.to(torch.float16 if precision == "fp16" else torch.bfloat16)
    side = backbone.window * backbone.factor
    for name, knobs in LATENT.items():
        use, (width, height) = find("methods", name), SHAPE.get(name, (2, 1))
        few = {"steps": 2} if "steps" in use.params else {}
        made = use.fn(
            backbone, PROMPT, Canvas(width * side, height * side), Noise(0, "boat"), **use.resolve(few | knobs)
        )
        assert (name, bool(made.isfinite().all()), float(made.std()) > 0) == (name, True, True)


def test_a_tensor_left_on_the_cpu_and_a_copy_to_the_host_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, gather = windows.merge, windows.gather
    with pretended() as mode:
        backbone = from_pretrained(model=str(folder), device=PLACE, precision="fp16")
        home = lambda views, *at: merge(views + 0 * views.cpu().to(views.device), *at)  # noqa: E731
        monkeypatch.setattr("methods.multidiffusion.merge", home)
        assert on_squares(mode, backbone, "multidiffusion", {"stride": 2}, (2, 1))["to_host"] == 2  # one a step
        monkeypatch.setattr("methods.multidiffusion.gather", lambda x, at: gather(x, at) + torch.ones(1))
        with pytest.raises(RuntimeError, match=r"(?s)device.*(cpu|cuda:1)"):
            on_squares(mode, backbone, "multidiffusion", {"stride": 2}, (2, 1))


def test_mad_launches_a_tenth_of_what_cutting_and_averaging_window_by_window_takes() -> None:
    """On one layer of 37 windows, as 5120x512 px have."""
    size, side = (16, 160), 16
    cut = windows.grid(*size, side, 4)
    with pretended() as mode:
        hidden = torch.empty(len(cut), side * side, 8, device=PLACE, dtype=torch.float16)
        places = windows.Places(cut, size, torch.device(PLACE))
        mode.counts.clear()
        places.gather(places.merge(hidden))
        ours, waits = mode.counts["", "launch"], mode.counts["", "to_host"] + mode.counts["", "to_device"]
        mode.counts.clear()
        views = hidden.transpose(1, 2).reshape(len(cut), -1, side, side)
        windows.gather(windows.merge(views, cut, size), cut)
    assert len(cut) == 37
    assert (ours <= 8, waits) == (True, 0)
    assert mode.counts["", "launch"] > 10 * ours
