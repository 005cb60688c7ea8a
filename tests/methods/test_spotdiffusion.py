"""SpotDiffusion against the authors' numbers, and the identities it must obey."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.direct import direct_latents
from methods.multidiffusion import multidiffusion_latents
from methods.shared.canvas import picture, start
from methods.shared.windows import Window, grid
from methods.spotdiffusion import spotdiffusion, spotdiffusion_latents
from tests.support.golden_cases import BOUND, Case

CASES = ["spot_window16", "spot_window16_remainder"]
BOAT = Prompt("boat", "a boat under one moon")


def replay(case: Case, shifts: list[int] | None = None, windows: list[Window] | None = None) -> dict[str, torch.Tensor]:
    turns = case.arrays["shifts"].tolist() if shifts is None else shifts
    views = case.grid() if windows is None else windows
    return case.run(
        lambda guided, scheduler, x, after: spotdiffusion_latents(guided, scheduler, x, views, turns, after)
    )


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    case.check(replay(case))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mistake", ["rolled right", "no roll after the last step", "total shift undone"])
def test_other_turns_are_caught_and_off_by_as_much_as_expected(name: str, mistake: str) -> None:
    case = Case(name)
    turns = case.arrays["shifts"].tolist()
    if mistake == "rolled right":
        found = replay(case, [-c for c in turns])
    elif mistake == "total shift undone":
        found = replay(case)
        found["final_latent"] = found["final_latent"].roll(sum(turns), -1)
    else:
        found = replay(case, [*turns[:-1], 0])
    off = case.final_off(found)
    assert off > BOUND
    assert off == pytest.approx(case.mistake(mistake), abs=1e-6)


def test_without_turns_it_is_multidiffusion_at_a_stride_of_one_window() -> None:
    case = Case("spot_window16")
    still = [0] * case.settings["steps"]

    def joint(guided: Any, scheduler: Any, x: torch.Tensor, after: Any) -> torch.Tensor:
        return multidiffusion_latents(guided, scheduler, x, case.grid(stride=case.side), after)

    theirs = case.run(joint)["final_latent"]
    assert torch.equal(replay(case, still)["final_latent"], theirs)
    assert float((replay(case, [1, *still[1:]])["final_latent"].roll(1, -1) - theirs).abs().max()) > 1e-3


def test_one_window_without_turns_is_direct_sampling() -> None:
    case = Case("spot_window16")
    case.arrays["canvas"] = case.arrays["canvas"][..., : case.side]
    case.size = (case.side, case.side)
    still = [0] * case.settings["steps"]
    theirs = case.run(lambda guided, scheduler, x, after: direct_latents(guided, scheduler, x))["final_latent"]
    assert torch.equal(replay(case, still)["final_latent"], theirs)
    assert not torch.equal(replay(case, [1, *still[1:]])["final_latent"].roll(1, -1), theirs)


def test_a_denoiser_that_looks_at_one_cell_gives_the_canvas_turned_by_the_sum(tiny_sd: Path) -> None:
    """With noise prediction 0.3 x windows do not matter: the canvas shrinks by a known factor."""
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    scheduler: Any = backbone.scheduler(4)
    torch.manual_seed(0)
    canvas = torch.randn(1, 4, 4, 16, dtype=torch.float64)
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]
    factor = 1.0
    for now, then in pairwise(abar):
        factor *= (then / now) ** 0.5 + 0.3 * ((1 - then) ** 0.5 - (then / now) ** 0.5 * (1 - now) ** 0.5)
    found = spotdiffusion_latents(lambda v, t: 0.3 * v, scheduler, canvas, grid(4, 16, 4, 4), [3, 15, 0, 7])
    assert float((found - factor * canvas.roll(-25, -1)).abs().max()) < 1e-9
    assert float((found - factor * canvas).abs().max()) > 1e-3


def test_results_do_not_depend_on_the_order_of_windows() -> None:
    case = Case("spot_window16")
    assert case.off(replay(case, windows=case.grid()[::-1])) < 1e-9


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_results_do_not_depend_on_how_many_windows_share_a_call(batch: int) -> None:
    case = Case("spot_window16")
    case.backbone.batch = batch
    assert case.off(replay(case)) < 1e-9


def test_a_loop_turned_by_whole_windows_gives_the_picture_turned_by_them() -> None:
    case = Case("spot_window16")
    windows = case.grid(loop=True)
    straight = replay(case, windows=windows)["final_latent"]
    case.arrays["canvas"] = case.arrays["canvas"].roll(2 * case.side, -1)
    turned = replay(case, windows=windows)["final_latent"]
    assert float((turned - straight.roll(2 * case.side, -1)).abs().max()) < 1e-9
    case.arrays["canvas"] = case.arrays["canvas"].roll(1, -1)  # windows stand elsewhere
    turned = replay(case, windows=windows)["final_latent"]
    assert float((turned - straight.roll(2 * case.side + 1, -1)).abs().max()) > 1e-3


def test_the_method_is_its_inner_loop_on_the_streams_of_canvas_and_shifts(tiny_sd: Path) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd)), Noise(7, BOAT.id)
    made = spotdiffusion.fn(backbone, BOAT, Canvas(48, 16, loop=True), noise, steps=4, guidance=2.0)
    turns = noise.generator("spot-shifts").integers(0, 12, size=4).tolist()
    assert len(set(turns)) > 1

    def by_hand(turns: list[int], loop: bool) -> torch.Tensor:
        with torch.no_grad():
            scheduler, conditioning = backbone.scheduler(4), backbone.condition(BOAT.text)
            latents = spotdiffusion_latents(
                lambda x, t: backbone.guided(x, t, conditioning, 2.0),
                scheduler,
                start(backbone, scheduler, noise, (4, 12)),
                grid(4, 12, 4, 4),
                turns,
            )
            return picture(backbone, latents, loop)

    assert torch.equal(made, by_hand(turns, loop=True))
    assert not torch.equal(made, by_hand(turns, loop=False))
    assert not torch.equal(made, by_hand([*turns[:-1], turns[-1] + 1], loop=True))
    straight = spotdiffusion.fn(backbone, BOAT, Canvas(48, 16), noise, steps=4, guidance=2.0)
    assert torch.equal(straight, by_hand(turns, loop=False))


def test_rows_never_meet_and_the_record_says_so(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    both = spotdiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=3)
    assert both.shape == (3, 32, 32)
    assert backbone.meter.flags == ["rows-not-joined"]
    assert backbone.meter.cost().nfe == 3 * 4 * 2
    backbone.meter.reset()
    spotdiffusion.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=3)
    assert backbone.meter.flags == []

    case = Case("spot_window16")  # what happens in one row does not reach the other
    case.arrays["canvas"] = torch.cat([case.arrays["canvas"], case.arrays["canvas"].flip(-1)], -2)
    case.size = (2 * case.side, case.size[1])
    case.arrays["final_latent"] = case.arrays["final_latent"].tile(1, 1, 2, 1)
    found = replay(case)["final_latent"] - case.arrays["final_latent"]
    assert float(found[..., : case.side, :].abs().max()) < 1e-9
    assert float(found[..., case.side :, :].abs().max()) > 1e-3


def test_evaluations_are_steps_times_windows_times_two(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    spotdiffusion.fn(backbone, BOAT, Canvas(48, 16), Noise(0, "a"), steps=5)
    assert backbone.meter.cost().nfe == 5 * 3 * 2


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 8), {}, "height is 8 px, a window is 16 px"),
        (Canvas(56, 16), {}, "nearest that fit: 48 or 64 px"),
        (Canvas(56, 16, loop=True), {}, "nearest that fit: 48 or 64 px"),
        (Canvas(64, 16), {"window": 0}, "at least one cell"),
        (Canvas(64, 16), {"remainder": "zeros"}, "did you mean 'zero'"),
    ],
)
def test_a_canvas_that_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        spotdiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_scheduler_with_a_memory_is_refused() -> None:
    from diffusers import DPMSolverMultistepScheduler

    made = DPMSolverMultistepScheduler()
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, scheduler=lambda *_: made)
    with pytest.raises(UsageError, match="DPMSolverMultistepScheduler remembers earlier steps"):
        spotdiffusion.fn(idle, BOAT, Canvas(64, 16), Noise(0, "a"))


def test_presets_are_the_released_code_s_settings() -> None:
    assert spotdiffusion.resolve({}, "official") == {
        "steps": 50, "guidance": 7.5, "window": None, "remainder": "zero",
    }  # fmt: skip
