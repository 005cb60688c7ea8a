"""ControlNet and IP-Adapter beside a U-Net against diffusers' own numbers; weights that are something else."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file, save_file

from bench.errors import PrerequisiteError, UsageError
from bench.registry import find
from methods.backbones import Conditioning
from methods.backbones.stable_diffusion import StableDiffusion
from methods.control import controlnet as control
from methods.control import image_prompt
from methods.control.controlnet import ROWS, active, watched
from methods.direct import direct_latents
from tests.support.golden_cases import GOLDENS, load_arrays, load_network

STEP = load_arrays("controlnet_sd_step")
ADAPTER = GOLDENS / "weights/ip_adapter_sd.safetensors"


def network(name: str) -> Any:
    return load_network(f"weights/{name}").double().eval().requires_grad_(False)


def lines(edges: torch.Tensor) -> torch.Tensor:
    """Edges of 0 and 255 as rows for both halves."""
    return (edges.double() / 255).expand(2, 3, -1, -1)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max())


@torch.no_grad()
def test_a_controlled_step_gives_the_numbers_of_diffusers() -> None:
    entry, arrays = STEP
    unet, net = network("unet_dpo"), network("controlnet_sd")
    scale, t = entry["settings"]["conditioning_scale"], entry["settings"]["t"]

    def call(picture: torch.Tensor | None, factor: float = scale) -> torch.Tensor:
        added = {} if picture is None else {"added_cond_kwargs": {ROWS: picture}}
        with watched(unet, net, lambda: factor):
            return unet(arrays["latents"], t, encoder_hidden_states=arrays["text_embeds"], **added).sample

    drawn = lines(arrays["edges"])
    assert off(call(drawn), arrays["noise_pred"]) < entry["suggested_tolerance"]
    for free in call(None), call(drawn, 0.0):
        assert off(free, arrays["noise_pred_without"]) < entry["suggested_tolerance"]
    mistakes = entry["negative_controls_max_abs"]
    assert off(call(None), arrays["noise_pred"]) == pytest.approx(mistakes["no residuals"], rel=1e-4)
    empty = off(call(torch.zeros_like(drawn)), arrays["noise_pred"])
    assert empty == pytest.approx(mistakes["residuals of an empty edge map"], rel=1e-4)
    assert not unet._forward_pre_hooks


@torch.no_grad()
def test_sdxls_size_conditioning_reaches_the_controlnet() -> None:
    (entry, arrays), there = load_arrays("controlnet_xl_step"), STEP[1]
    unet, net = network("unet_dpo_xl"), network("controlnet_xl")
    for ids, close in (arrays["time_ids"], True), (torch.zeros_like(arrays["time_ids"]), False):

        def ask(*given: Any, added_cond_kwargs: Any, ids: torch.Tensor = ids, **named: Any) -> Any:
            return net(*given, added_cond_kwargs={**added_cond_kwargs, "time_ids": ids}, **named)

        added = {"text_embeds": arrays["pooled"], "time_ids": arrays["time_ids"], ROWS: lines(there["edges"])}
        with watched(unet, net if close else ask, lambda: entry["settings"]["conditioning_scale"]):
            found = unet(
                there["latents"], entry["settings"]["t"], encoder_hidden_states=there["text_embeds"],
                added_cond_kwargs=added,
            ).sample  # fmt: skip
        assert (off(found, arrays["noise_pred"]) < entry["suggested_tolerance"]) is close


@torch.no_grad()
def test_control_from_a_step_to_another_gives_the_pipelines_latents() -> None:
    (entry, arrays), there = load_arrays("controlnet_sd_pipeline"), STEP[1]
    told, steps = entry["settings"], entry["settings"]["steps"]
    parts = {
        "unet": network("unet_dpo"), "vae": load_network("weights/vae_a"), "scheduler": entry["scheduler"]["config"]
    }  # fmt: skip
    backbone = StableDiffusion("golden", "-", parts, precision="fp64")

    def final(begin: float, end: float) -> torch.Tensor:
        at = iter(range(steps))
        asked = Conditioning(there["text_embeds"], {ROWS: lines(there["edges"])})
        scale = {"now": 0.0}

        def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
            scale["now"] = told["conditioning_scale"] * active(next(at), steps, begin, end)
            return backbone.guided(x, t, asked, told["guidance_scale"])

        with watched(backbone.unet, network("controlnet_sd"), lambda: scale["now"]):
            return direct_latents(guided, backbone.scheduler(steps), arrays["canvas"])

    begin, end = told["control_guidance_start"], told["control_guidance_end"]
    assert [active(i, steps, begin, end) for i in range(steps)] == [bool(k) for k in told["keep"]]
    assert off(final(begin, end), arrays["latents"][-1]) < entry["suggested_tolerance"]
    mistakes = entry["negative_controls_max_abs"]
    assert off(final(0, 1), arrays["latents"][-1]) == pytest.approx(mistakes["control in all steps"], rel=1e-4)


@torch.no_grad()
def test_a_picture_beside_the_text_gives_the_numbers_of_diffusers() -> None:
    (entry, arrays), there = load_arrays("ip_adapter_sd_step"), STEP[1]
    unet, told = network("unet_dpo"), entry["settings"]
    own = {name: id(p) for name, p in unet.attn_processors.items()}
    seen = torch.cat([torch.zeros_like(arrays["image_embed"]), arrays["image_embed"]])[:, None]

    def call(scale: float | None) -> torch.Tensor:
        within = nullcontext() if scale is None else image_prompt.adapted(unet, ADAPTER, scale)
        added = {} if scale is None else {"added_cond_kwargs": {image_prompt.ROWS: seen}}
        with within:
            return unet(there["latents"], told["t"], encoder_hidden_states=there["text_embeds"], **added).sample

    plain, before = call(None), torch.get_rng_state()
    assert off(call(told["scale"]), arrays["noise_pred"]) < entry["suggested_tolerance"]
    assert torch.equal(call(0.0), plain)
    assert torch.equal(torch.get_rng_state(), before)  # its layers are new ones every time
    assert torch.equal(call(None), plain)
    assert {name: id(p) for name, p in unet.attn_processors.items()} == own
    mistakes = entry["negative_controls_max_abs"]
    assert off(call(1.0), arrays["noise_pred"]) == pytest.approx(mistakes["scale 1"], rel=1e-4)
    assert off(plain, arrays["noise_pred"]) == pytest.approx(mistakes["no image"], rel=1e-4)


def test_clip_sees_all_of_a_scroll_between_bars_or_squashed_or_its_middle() -> None:
    scroll = torch.zeros(3, 8, 32)
    scroll[:, :, :8] = 1  # what stands at the left end
    seen = {view: image_prompt.shown(scroll, 16, view) for view in image_prompt.VIEWS}
    bars = seen["letterbox"][:, [0, 1, -1]]
    assert torch.equal(bars, torch.zeros_like(bars))
    assert float(seen["letterbox"][:, 8, 0].min()) > 1.5
    assert float(seen["squash"][:, 0, 0].min()) > 1.5
    assert float(seen["centre"].max()) < 0
    with pytest.raises(UsageError, match="unknown adapter_view 'center'"):
        image_prompt.shown(scroll, 16, "center")


# -- weights


def folder_with(path: Path, **changes: Any) -> Path:
    config = json.loads((GOLDENS / "weights/controlnet_sd.config.json").read_text())
    net = ControlNetModel.from_config({**config, **changes})
    net.save_pretrained(path)
    return path


def test_a_controlnet_is_found_by_folder_and_known_by_its_content(tmp_path: Path) -> None:
    found = control.locate(str(folder_with(tmp_path / "a")), "world-sd")
    assert found.folder == tmp_path / "a"
    other = control.locate(str(folder_with(tmp_path / "b")), "world-sd")
    assert other.digest != found.digest  # other random numbers


def test_names_that_stand_for_nothing_say_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"unknown ControlNet 'controlnet-cany-sdxl'; .*controlnet-canny-sdxl"):
        control.locate("controlnet-cany-sdxl", "sdxl")
    with pytest.raises(UsageError, match=r"no Canny ControlNet is known for backbone 'sd20': name a folder"):
        control.locate("", "sd20")
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch controlnet-canny-sdxl"):
        control.locate("", "sdxl")
    with pytest.raises(PrerequisiteError, match=r"hf download somebody/their-net config\.json"):
        control.locate("somebody/their-net", "sdxl")


def test_a_controlnet_of_another_network_is_refused_by_its_config(tmp_path: Path) -> None:
    base = find("backbones", "world-sd").outline()
    with pytest.raises(UsageError, match=r"is no ControlNet for world-sd: in_channels 4, expected 16; .*px a cell 8"):
        control.check(folder_with(tmp_path), base)
    flux = find("backbones", "world-flux").outline()
    with pytest.raises(UsageError, match="beside a U-Net of Stable Diffusion or SDXL; backbone world-flux has none"):
        control.check(tmp_path, flux)


def test_adapters_that_are_not_plain_or_lack_their_encoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no IP-Adapter '' for backbone 'world-sd'.*Or a folder with one adapter"):
        image_prompt.locate("", "world-sd")
    save_file(load_file(ADAPTER), tmp_path / "a.safetensors")
    with pytest.raises(PrerequisiteError, match="needs the CLIP encoder"):
        image_prompt.locate(str(tmp_path), "world-sd")
    (tmp_path / "image_encoder").mkdir()
    (tmp_path / "image_encoder/config.json").write_text("{}")
    assert image_prompt.locate(str(tmp_path), "world-sd").file == tmp_path / "a.safetensors"
    save_file({"image_proj.latents": torch.zeros(1, 16, 8)}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="is no plain IP-Adapter"):
        image_prompt.locate(str(tmp_path), "world-sd")
