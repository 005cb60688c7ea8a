"""DemoFusion against the numbers of diffusers' community pipeline, and the identities it must obey."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_cases import Case
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import write_sdxl

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods import demofusion as module
from methods.backbones import Conditioning
from methods.backbones.schedules import make_scheduler
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained, sd20
from methods.demofusion import (
    blurred,
    demofusion,
    demofusion_latents,
    jitter_range,
    jittered,
    phase_sizes,
    tiled_picture,
)
from methods.direct import direct
from methods.sampling import sized
from methods.windows import Window

NAMES = ["demofusion_square_2x_vb1", "demofusion_square_2x_vb16"]
BOUND = 1e-4  # of the manifest: Euler rounds samples to float32 in every step
BOAT = Prompt("boat", "a boat under one moon", "blurry")


@pytest.fixture(scope="module")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(tmp_path_factory.mktemp("sdxl"))


def replay(case: Case, batch: int | None = None, **changes: Any) -> dict[str, torch.Tensor]:
    """The canvases of a case under the names it stores them by."""
    s, a = case.settings, case.arrays
    config = {**case.entry["scheduler"]["config"], "_class_name": case.entry["scheduler"]["class_name"]}
    scheduler = make_scheduler(config, s["steps"])
    assert torch.equal(scheduler.timesteps, a["timesteps"])
    conditioning = Conditioning(
        torch.cat([a["negative_prompt_embeds"], a["prompt_embeds"]]),
        {"text_embeds": torch.cat([a["negative_pooled_prompt_embeds"], a["pooled_prompt_embeds"]])},
    )
    f, window = s["latent_factor"], s["window_latents"]
    sizes = phase_sizes(s["height_px"] // f, s["width_px"] // f, window)
    assert len(sizes) == s["phases"]
    reach = jitter_range(window, s["stride_latents"])
    assert reach == s["jitter_range"]
    found: dict[str, torch.Tensor] = {}

    def guided(x: torch.Tensor, t: Any, corners: Sequence[tuple[int, int]]) -> torch.Tensor:
        told = sized(conditioning, corners, sizes[-1], f)
        return case.backbone.guided(x, t, told, s["guidance_scale"])

    def note(phase: int, i: int, x: torch.Tensor) -> None:
        if i == 0:
            found[f"phase{phase}_after_step_1"] = x
        if phase == 1 and i == s["steps"] - 1:
            found["phase1_final"] = x

    stored = a["phase2_views"].tolist()
    with torch.no_grad():
        found["phase2_final"] = found["final_latent"] = demofusion_latents(
            guided,
            scheduler,
            a["canvas"],
            sizes,
            {2: a["phase2_noise"]},
            {2: [[Window(v[0], v[2], v[1] - v[0], v[3] - v[2]) for v in step] for step in stored]},
            reach=reach,
            scales=tuple(s["cosine_scales"]),
            sigma=s["sigma"],
            view_batch=batch or s["view_batch_size"],
            after_step=note,
            **changes,
        )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_stored_canvas_equals_that_of_the_released_code(name: str) -> None:
    case = Case(name)
    found = replay(case)
    names = [n for n in case.arrays if n.startswith("phase") and n.endswith(("final", "after_step_1"))]
    assert len(names) == 4
    for key in [*names, "final_latent"]:
        off = float((found[key] - case.arrays[key]).abs().max())
        assert off < BOUND <= case.entry["suggested_tolerance"], key
        assert off < 1e-5, key


@pytest.mark.parametrize("name", NAMES)
def test_scaling_with_the_right_sigma_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    off = case.final_off(replay(case, compat_scaling=False))
    assert off == pytest.approx(case.mistake("input scaling always"), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_stepping_the_blurred_canvas_is_caught_and_off_by_as_much_as_expected(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(name)
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(module, "blurred", lambda x, size, sigma: kept.append(x) or x.copy_(blurred(x, size, sigma)))
    off = case.final_off(replay(case))
    assert len(kept) == case.settings["steps"]
    assert off == pytest.approx(case.mistake("stepping the filtered"), rel=1e-4)


def test_the_batch_of_views_decides_pixels_with_the_originals_scaling_and_not_without() -> None:
    one = Case(NAMES[0])
    assert one.final_off(replay(one, batch=16)) > 1e-2
    right = replay(one, compat_scaling=False)["final_latent"]
    other = replay(one, batch=4, compat_scaling=False)["final_latent"]
    assert float((right - other).abs().max()) < BOUND


def released_sizes(height: int, width: int, native: int, factor: int = 8) -> list[tuple[int, int]]:
    """Sides of all phases in cells as the released pipeline comes to them, in pixels and floating point."""
    phases = int(max(height / native, width / native))
    ratio = min(height / native, width / native) / max(height / native, width / native)
    sizes = [(height // phases // factor, width // phases // factor)]
    for phase in range(2, phases + 1):
        longer, shorter = native * phase, int(native * phase * ratio)
        rows, columns = (longer, shorter) if height > width else (shorter, longer)
        sizes.append((int(rows / factor), int(columns / factor)))
    return sizes


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([512, 1024]), st.integers(1, 6), st.floats(0.5, 1), st.booleans())
def test_phases_have_the_released_sizes_whatever_the_ratio(native: int, phases: int, ratio: float, high: bool) -> None:
    longer = native * phases
    shorter = -int(-longer * ratio // 8) * 8
    height, width = (longer, shorter) if high else (shorter, longer)
    found = phase_sizes(height // 8, width // 8, native // 8, 8)
    assert found == released_sizes(height, width, native)
    assert found[-1] == (height // 8, width // 8)


def test_three_to_two_is_made_of_phases_whose_sides_are_rounded_down(tiny_sdxl: Path) -> None:
    assert phase_sizes(256, 384, 128, 8) == [(85, 128), (170, 256), (256, 384)]  # 3072 x 2048 px on SDXL
    assert [round(p * 256 / 3) for p in (1, 2, 3)] == [85, 171, 256]  # rounded to nearest they would be others
    backbone = sdxl(model=str(tiny_sdxl))
    shapes: list[tuple[int, ...]] = []
    predict = backbone.predict

    def watched(x: Any, *given: Any) -> Any:
        shapes.append(tuple(x.shape[-2:]))
        return predict(x, *given)

    backbone.predict = watched
    made = demofusion.fn(backbone, BOAT, Canvas(48, 32), Noise(0, "a"), steps=1, guidance=1.0)
    assert made.shape == (3, 32, 48)
    assert made.isfinite().all()
    assert shapes == [(2, 4), (4, 4), (3, 4), (4, 4), (3, 4)]  # then windows and subsamples of 5 x 8 and 8 x 12 cells


def test_sizes_are_said_in_cells_where_nobody_says_what_a_cell_is() -> None:
    with pytest.raises(UsageError, match="whole native sides of 4 cells; got 10 cells, nearest: 8 or 12 cells"):
        phase_sizes(8, 10, 4)
    with pytest.raises(UsageError, match="whole native sides of 32 px; got 80 px, nearest: 64 or 96 px"):
        phase_sizes(8, 10, 4, 8)


def test_stored_jitter_keeps_the_rules_of_ours() -> None:
    stored = Case(NAMES[0]).arrays["phase2_views"]
    calls: list[tuple[int, int]] = []

    def draw(low: int, high: int) -> int:
        calls.append((low, high))
        return 0

    plain = jittered((32, 32), 16, 8, draw)
    assert len(plain) == stored.shape[1] == 9
    assert calls[:6] == [(-2, 0), (-2, 0), (-2, 2), (-2, 0), (0, 2), (-2, 0)]  # columns before rows
    limits = list(zip(calls[::2], calls[1::2], strict=True))
    for step in stored.tolist():
        for (y, y_end, x, x_end), v, (columns, rows) in zip(step, plain, limits, strict=True):
            assert (y_end - y, x_end - x) == (16, 16)
            assert rows[0] <= y - v.y <= rows[1]
            assert columns[0] <= x - v.x <= columns[1]
    spanned = jittered((16, 32), 16, 8, lambda low, high: high)
    assert [v.y for v in spanned] == [2, 2, 2]
    assert all(v.x >= 0 and v.x + 16 <= 36 for v in spanned)


def test_blur_keeps_mean_and_deviation_and_of_one_cell_is_none() -> None:
    x = 3 + 2 * torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    soft = blurred(x, 5, 1.0)
    assert float(soft.mean()) == pytest.approx(float(x.mean()))
    assert float(soft.std()) == pytest.approx(float(x.std()))
    assert float((soft - x).abs().max()) > 0.1
    assert float((blurred(x, 1, 1.0) - x).abs().max()) < 1e-12


@pytest.mark.parametrize("size", [(16, 16), (16, 8)])
def test_one_phase_is_direct_sampling(tiny_sdxl: Path, size: tuple[int, int]) -> None:
    backbone = sdxl(model=str(tiny_sdxl))
    canvas, noise = Canvas(*size), Noise(0, BOAT.id)
    made = demofusion.fn(backbone, BOAT, canvas, noise, steps=4)
    assert torch.equal(made, direct.fn(backbone, BOAT, canvas, noise, steps=4, guidance=5.0))
    assert not torch.equal(made, direct.fn(backbone, BOAT, canvas, noise, steps=4, guidance=4.0))


def test_two_phases_are_not_direct_sampling(tiny_sdxl: Path) -> None:
    backbone = sdxl(model=str(tiny_sdxl))
    made = demofusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=3)
    plain = direct.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=3, guidance=5.0)
    assert float((made - plain).abs().max()) > 1e-3


def test_network_calls_follow_the_cost_model_for_a_square_of_four_native_sides() -> None:
    asked: list[int] = []

    def guided(x: torch.Tensor, t: Any, corners: Sequence[tuple[int, int]]) -> torch.Tensor:
        assert len(corners) == x.shape[0] <= 16
        assert x.shape[-2:] == (4, 4)
        asked.append(x.shape[0])
        return x

    config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    sizes = phase_sizes(16, 16, 4)
    draw = jittered
    views = {p: [draw(sizes[p - 1], 4, 2, lambda a, b: 0)] * 50 for p in (2, 3, 4)}
    noises = {p: torch.ones(1, 1, *sizes[p - 1]) for p in (2, 3, 4)}
    canvas = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    demofusion_latents(guided, make_scheduler(config, 50), canvas, sizes, noises, views, reach=jitter_range(4, 2))
    assert sum(asked) == 5650


def test_the_meter_counts_them_at_full_size_on_the_meta_device() -> None:
    backbone = sd20.skeleton(precision="bf16")
    made = demofusion.fn(backbone, BOAT, Canvas(1024, 512), Noise(0, "a"), steps=1, decoder="whole")
    assert made.shape == (3, 512, 1024)
    assert backbone.meter.cost().nfe == 2 * (1 + 3 + 4)  # 256 x 512, then 3 windows and 4 subsamples


def test_size_conditioning_is_the_final_size_and_the_windows_corner(tiny_sdxl: Path) -> None:
    backbone = sdxl(model=str(tiny_sdxl))
    seen: list[list[float]] = []
    predict = backbone.predict

    def watched(x: Any, t: Any, embeds: Any, added: Any = None) -> Any:
        seen.extend(added["time_ids"].tolist())
        return predict(x, t, embeds, added)

    backbone.predict = watched
    demofusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=1, guidance=1.0)
    assert {(r[0], r[1], r[4], r[5]) for r in seen} == {(32.0, 32.0, 32.0, 32.0)}
    at = (0, 8, 16)  # no jitter at windows of 4 cells
    assert [r[2:4] for r in seen[1:10]] == [[y, x] for y in at for x in at]
    assert all(r[2:4] == [0, 0] for r in [seen[0], *seen[10:]])


def test_tiles_decode_to_the_whole_picture_where_the_decoder_sees_no_further(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    backbone.decode = lambda z: torch.nn.functional.interpolate(z[:, :3], scale_factor=4, mode="nearest")
    latents = torch.randn(1, 4, 8, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tiled_picture(backbone, latents), backbone.decode(latents)[0])


def test_the_same_picture_comes_twice_and_seeds_and_knobs_matter(tiny_sdxl: Path) -> None:
    backbone = sdxl(model=str(tiny_sdxl))

    def make(seed: int = 0, **knobs: Any) -> torch.Tensor:
        return demofusion.fn(backbone, BOAT, Canvas(32, 16), Noise(seed, BOAT.id), steps=3, **knobs)

    first = make()
    others = [make(1), make(skip=1.0), make(dilation=3.0), make(blur=3.0), make(sigma=0.5), make(compat_scaling=False)]
    assert all(not torch.equal(first, other) for other in [*others, make(decoder="whole"), make(stride=1)])
    assert torch.equal(first, make())


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16), {}, "at most 2:1; got 64x16 px.*at least 32 px"),
        (Canvas(16, 64), {}, "at most 2:1; got 16x64 px"),
        (Canvas(40, 32), {}, "whole native sides of 16 px; got 40 px, nearest: 32 or 48 px"),
        (Canvas(8, 8), {}, "nearest: 16 or 32 px"),
        (Canvas(32, 32, loop=True), {}, "demofusion cannot make a loop"),
        (Canvas(32, 32), {"stride": 5}, "stride must be 1 to 4"),
        (Canvas(32, 32), {"view_batch": 0}, "view_batch must be at least 1"),
        (Canvas(32, 32), {"sigma": 0.0}, "sigma must be above 0"),
        (Canvas(32, 32), {"decoder": "tile"}, "did you mean 'tiled'"),
    ],
)
def test_what_the_method_cannot_do_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        demofusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_sampler_with_a_memory_is_refused(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    backbone.scheduler = lambda steps, size=None: SimpleNamespace()
    with pytest.raises(UsageError, match=r"needs Euler or DDIM.*SimpleNamespace"):
        demofusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"))


def test_presets_are_the_released_code_its_readme_and_the_paper() -> None:
    official = demofusion.resolve({}, "official")
    assert official == demofusion.resolve({})
    assert (official["guidance"], official["sigma"], official["view_batch"]) == (5.0, 1.0, 16)
    readme = demofusion.resolve({}, "readme")
    assert (readme["guidance"], readme["sigma"]) == (7.5, 0.8)
    assert demofusion.resolve({}, "paper")["compat_scaling"] is False
