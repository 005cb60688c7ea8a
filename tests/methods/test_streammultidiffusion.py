"""StreamMultiDiffusion's panorama sampler against the authors' numbers, and the identities it must obey."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.shared.canvas import picture, start
from methods.shared.windows import Window, add_up
from methods.streammultidiffusion import lcm_schedule, streammultidiffusion, streammultidiffusion_latents, tiling
from tests.support.golden_cases import BOUND, Case

CASES = ["stream_wide", "stream_truncated_tile"]
BOAT = Prompt("boat", "a boat under one moon")


def replay(
    case: Case, tiles: list[Window] | None = None, weights: list[torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    plain = tiling(*case.size, case.side)
    with torch.no_grad():
        scheduler = lcm_schedule(case.backbone, case.settings["t_index_list"])
        assert torch.equal(scheduler.timesteps, case.arrays["schedule_timesteps"])
        found["final_latent"] = streammultidiffusion_latents(
            case.guided,
            scheduler,
            case.arrays["canvas"],
            plain[0] if tiles is None else tiles,
            plain[1] if weights is None else weights,
            lambda i: case.arrays["step_noises"][i],
            after_step=lambda i, x: found.__setitem__(f"latent_after_step_{i + 1}", x),
        )
    return found


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    off = case.off(replay(case))
    assert off < BOUND
    assert off < case.entry["suggested_tolerance"]


@pytest.mark.parametrize("name", CASES)
def test_tiles_and_weights_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    tiles, weights = tiling(*case.size, case.side)
    assert [[v.y, v.y + v.height, v.x, v.x + v.width] for v in tiles] == case.arrays["views"].tolist()
    stored = case.arrays["tile_weights"]
    spread = torch.cat([add_up([w[None]], [v], case.size)[0] for v, w in zip(tiles, weights)])
    assert float((spread - stored).abs().max()) < 1e-12
    assert float((spread.square() - stored).abs().max()) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_uniform_weights_are_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    tiles, weights = tiling(*case.size, case.side)
    count = add_up([torch.ones_like(w)[None] for w in weights], tiles, case.size)[0, 0]
    even = [1 / count[v.y : v.y + v.height, v.x : v.x + v.width] for v in tiles]
    off = case.final_off(replay(case, weights=even))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("uniform tile weights"), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 19), st.integers(0, 40), st.integers(0, 40))
def test_weights_add_up_to_one_over_every_cell(side: int, down: int, along: int) -> None:
    size = (side + down, side + along)
    tiles, weights = tiling(*size, side)
    assert all(
        w.shape == v[2:] and v.x + v.width <= size[1] and v.y + v.height <= size[0] for v, w in zip(tiles, weights)
    )
    assert float((add_up([w[None] for w in weights], tiles, size) - 1).abs().max()) < 1e-12
    if len(tiles) > 1:
        assert float((add_up([w[None] for w in weights[1:]], tiles[1:], size) - 1).abs().max()) > 0.1


def test_the_boundary_scalings_are_the_released_code_s() -> None:
    case = Case("stream_wide")
    scheduler = lcm_schedule(case.backbone, case.settings["t_index_list"])
    for t, skip, out in zip(scheduler.timesteps, case.arrays["c_skip"], case.arrays["c_out"]):
        found = scheduler.get_scalings_for_boundary_condition_discrete(int(t))
        assert found == pytest.approx((float(skip), float(out)), rel=1e-9)
        assert found != pytest.approx((2 * float(skip), float(out)), rel=1e-9)


@pytest.mark.parametrize("told", [None, 4])
def test_one_tile_is_plain_few_step_sampling_with_the_tables_of_the_list(told: int | None) -> None:
    """By the formulas. The released function's step count changes what the network is told, not the tables."""
    case = Case("stream_wide")
    table, asked = [999, 919, 759, 499, 259], [999, 759, 499, 259] if told else [999, 919, 759, 499, 259]
    torch.manual_seed(0)
    canvas, noises = torch.randn(1, 4, 16, 16, dtype=torch.float64), torch.randn(4, 1, 4, 16, 16, dtype=torch.float64)

    def formula(table: list[int]) -> torch.Tensor:
        kept = case.backbone.scheduler(1).alphas_cumprod  # type: ignore[attr-defined]
        x = canvas
        for i, t in enumerate(asked):
            now, s = float(kept[table[i]]), 10.0 * table[i]
            clean = (x - (1 - now) ** 0.5 * case.guided(x, torch.tensor(t))) / now**0.5
            x = s / (s * s + 0.25) ** 0.5 * clean + 0.25 / (s * s + 0.25) * x
            if i < len(asked) - 1:
                then = float(kept[table[i + 1]])
                x = then**0.5 * x + (1 - then) ** 0.5 * noises[i]
        return x

    with torch.no_grad():
        found = streammultidiffusion_latents(
            case.guided,
            lcm_schedule(case.backbone, [0, 4, 12, 25, 37]),
            canvas,
            *tiling(16, 16, 16),
            noise=lambda i: noises[i],
            told=torch.tensor(asked) if told else None,
        )
        assert float((found - formula(table)).abs().max()) < 1e-9
        wrong = asked if told else [999, 899, 759, 499, 259]
        assert float((found - formula(wrong)).abs().max()) > 1e-3


def test_a_denoiser_that_looks_at_one_cell_gives_the_closed_form() -> None:
    """With noise prediction 0.3 x and no noise added tiles do not matter: the canvas shrinks by a known factor."""
    case = Case("stream_truncated_tile")
    scheduler = lcm_schedule(case.backbone, [0, 12, 25, 37])
    factor, times = 1.0, [int(t) for t in scheduler.timesteps]
    for i, t in enumerate(times):
        now, s = float(scheduler.alphas_cumprod[t]), 10.0 * t
        factor *= s / (s * s + 0.25) ** 0.5 * (1 - 0.3 * (1 - now) ** 0.5) / now**0.5 + 0.25 / (s * s + 0.25)
        factor *= float(scheduler.alphas_cumprod[times[i + 1]]) ** 0.5 if i < 3 else 1.0
    canvas = case.arrays["canvas"]

    def off(weights: list[torch.Tensor], tiles: list[Window]) -> float:
        fresh = lcm_schedule(case.backbone, [0, 12, 25, 37])
        found = streammultidiffusion_latents(
            lambda v, t: 0.3 * v, fresh, canvas, tiles, weights, lambda i: torch.zeros_like(canvas)
        )
        return float((found / factor - canvas).abs().max())

    tiles, weights = tiling(*case.size, case.side)
    assert off(weights, tiles) < 1e-9
    assert off([torch.ones_like(w) for w in weights], tiles) > 1e-3


def test_results_do_not_depend_on_the_order_of_tiles() -> None:
    case = Case("stream_truncated_tile")
    tiles, weights = tiling(*case.size, case.side)
    assert case.off(replay(case, tiles[::-1], weights[::-1])) < 1e-9
    assert case.off(replay(case, tiles[:-1][::-1] + tiles[-1:], weights)) > BOUND


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_results_do_not_depend_on_how_many_tiles_share_a_call(batch: int) -> None:
    case = Case("stream_truncated_tile")
    case.backbone.batch = batch
    assert case.off(replay(case)) < 1e-9


@pytest.mark.parametrize(("canvas", "side"), [(Canvas(52, 20), 4), (Canvas(20, 52), 4)])
def test_the_method_is_its_inner_loop_on_its_streams(tiny_sd: Path, canvas: Canvas, side: int) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd)), Noise(7, BOAT.id)
    made = streammultidiffusion.fn(backbone, BOAT, canvas, noise, guidance=2.0, t_index_list="0,12,25,37")
    h, w = canvas.height // 4, canvas.width // 4

    def by_hand(stream: str) -> torch.Tensor:
        with torch.no_grad():
            scheduler, conditioning = lcm_schedule(backbone, [0, 12, 25, 37]), backbone.condition(BOAT.text)
            latents = streammultidiffusion_latents(
                lambda x, t: backbone.guided(x, t, conditioning, 2.0),
                scheduler,
                start(backbone, scheduler, noise, (h, w)),
                *tiling(h, w, side),
                noise=lambda i: noise.normal(f"{stream}-{i}", (1, 4, h, w)),
            )
            return picture(backbone, latents)

    assert torch.equal(made, by_hand("stream-step"))
    assert not torch.equal(made, by_hand("another"))


def test_evaluations_are_steps_times_tiles_and_twice_that_with_guidance(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    for guidance, factor in ((1.0, 1), (2.0, 2)):
        backbone.meter.reset()
        streammultidiffusion.fn(backbone, BOAT, Canvas(52, 16), Noise(0, "a"), guidance=guidance)
        assert backbone.meter.cost().nfe == factor * 5 * 6  # ceil((13 - 4) / 2) + 1 tiles
    backbone.meter.reset()
    streammultidiffusion.fn(backbone, BOAT, Canvas(16, 16), Noise(0, "a"), num_inference_steps=4)
    assert backbone.meter.cost().nfe == 4


def test_a_network_without_lcm_weights_is_noted_and_an_lcm_folder_is_not(tiny_sd: Path, tmp_path: Path) -> None:
    plain = from_pretrained(model=str(tiny_sd))
    first = streammultidiffusion.fn(plain, BOAT, Canvas(24, 16), Noise(0, "a"))
    assert plain.meter.flags == ["no-lcm-weights"]

    folder = shutil.copytree(tiny_sd, tmp_path / "lcm")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "LCMScheduler"}))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "LCMScheduler"))
    lcm = from_pretrained(model=str(folder), sampler="checkpoint")
    assert torch.equal(streammultidiffusion.fn(lcm, BOAT, Canvas(24, 16), Noise(0, "a")), first)
    assert lcm.meter.flags == []


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16, loop=True), {}, "streammultidiffusion defines no loop"),
        (Canvas(64, 16), {"t_index_list": "0,12,a"}, "ascending whole numbers from 0 to 49"),
        (Canvas(64, 16), {"t_index_list": "12,4"}, "ascending"),
        (Canvas(64, 16), {"t_index_list": "4,4"}, "ascending"),
        (Canvas(64, 16), {"t_index_list": "0,50"}, "from 0 to 49"),
        (Canvas(64, 16), {"t_index_list": "-1,5"}, "from 0 to 49"),
        (Canvas(64, 16), {"num_inference_steps": 6}, "must be 1 to 5"),
        (Canvas(64, 16), {"num_inference_steps": 0}, "must be 1 to 5"),
        (Canvas(62, 16), {}, "width must be a multiple of 4, got 62"),
        (Canvas(64, 16), {"window": 5}, "fit into the canvas of 16 x 4 cells; got 5"),
        (Canvas(64, 12), {}, "4 cells a side or more"),
    ],
)
def test_what_is_not_defined_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        streammultidiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_networks_that_cannot_sample_so_are_refused() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    about = {"name": "idle", "factor": 4, "patch": 1, "window": 4}
    full: Any = SimpleNamespace(**about, unet=SimpleNamespace(config=SimpleNamespace(time_cond_proj_dim=256)))
    with pytest.raises(UsageError, match="takes its guidance scale as an input"):
        streammultidiffusion.fn(full, BOAT, Canvas(64, 16), Noise(0, "a"))
    flow: Any = SimpleNamespace(**about, scheduler=lambda *_: FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UsageError, match="LCMScheduler, which needs a network trained on a schedule of betas"):
        streammultidiffusion.fn(flow, BOAT, Canvas(64, 16), Noise(0, "a"))
    tokens: Any = SimpleNamespace(**{**about, "patch": 2, "window": 6})
    with pytest.raises(UsageError, match=r"halves of whole tokens \(2 cells\)"):
        streammultidiffusion.fn(tokens, BOAT, Canvas(64, 24), Noise(0, "a"))


def test_presets_are_the_class_s_default_and_the_advice_for_panoramas() -> None:
    assert streammultidiffusion.resolve({}, "official") == {
        "t_index_list": "0,4,12,25,37", "guidance": 1.0, "window": None, "num_inference_steps": None,
    }  # fmt: skip
    assert streammultidiffusion.resolve({}, "panorama")["t_index_list"] == "0,12,25,37"
