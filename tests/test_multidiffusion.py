"""MultiDiffusion against the authors' numbers, and the identities it must obey."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from close import sampled
from golden_cases import BOUND, Case

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning
from methods.backbones.stable_diffusion import StableDiffusion, from_pretrained
from methods.canvas import picture, start
from methods.direct import direct, direct_latents
from methods.multidiffusion import multidiffusion, multidiffusion_latents
from methods.windows import Window, gather, grid, merge

BOAT = Prompt("boat", "a boat under one moon")


def replay(case: Case, windows: list[Window] | None = None, guided: Any = None) -> dict[str, torch.Tensor]:
    views = case.grid() if windows is None else windows
    return case.run(lambda g, scheduler, x, after: multidiffusion_latents(g, scheduler, x, views, after), guided)


MD = ["md_window16_wide", "md_window16_multirow", "md_window16_remainder", "md_window64_official"]


@pytest.mark.parametrize("name", [*MD, "dpano_ddim_circular"])
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    case.check(replay(case))


@pytest.mark.parametrize("name", ["md_window16_wide", "md_window16_remainder", "dpano_ddim_circular"])
def test_swapped_guidance_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    swapped, scale = Conditioning(case.arrays["text_embeds"].flip(0)), case.settings["guidance_scale"]
    off = case.final_off(replay(case, guided=lambda x, t: case.backbone.guided(x, t, swapped, scale)))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("guidance branches swapped"), abs=1e-6)


@pytest.mark.parametrize("name", ["md_window16_wide", "md_window16_multirow"])
def test_a_doubled_stride_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    off = case.final_off(replay(case, case.grid(stride=2 * case.settings["stride_latents"])))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("stride doubled"), abs=1e-6)


def test_a_clamped_last_window_is_caught_and_off_by_as_much_as_expected() -> None:
    case = Case("md_window16_remainder")
    off = case.final_off(replay(case, case.grid(remainder="clamp")))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("last window clamped to the border"), abs=1e-6)


def test_windows_that_do_not_wrap_are_caught_on_a_loop_and_off_by_as_much_as_expected() -> None:
    case = Case("dpano_ddim_circular")
    off = case.final_off(replay(case, case.grid(loop=False)))
    assert off == pytest.approx(case.mistake("circular_padding off"), abs=1e-6)


def test_loop_windows_stand_where_circular_padding_puts_them() -> None:
    case = Case("dpano_ddim_circular")
    views = [[v.y, v.y + v.height, v.x, v.x + v.width] for v in case.grid()]
    assert views == case.arrays["views"].tolist()


def test_the_uncovered_strip_is_zero_from_the_first_step_on() -> None:
    case = Case("md_window16_remainder")
    found = replay(case)
    strip = case.entry["uncovered"]["cols"]
    assert (found["latent_after_step_1"][..., -strip:] == 0).all()
    assert (found["final_latent"][..., -strip:] == 0).all()
    assert (found["final_latent"][..., -strip - 1] != 0).any()


def test_results_do_not_depend_on_the_order_of_windows() -> None:
    case = Case("md_window16_wide")
    assert case.off(replay(case, case.grid()[::-1])) < 1e-9


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_results_do_not_depend_on_how_many_windows_share_a_call(batch: int) -> None:
    case = Case("md_window16_wide")
    case.backbone.batch = batch
    assert case.off(replay(case)) < 1e-9


def test_a_loop_turned_by_a_stride_gives_the_picture_turned_by_it() -> None:
    case = Case("dpano_ddim_circular")
    turn = 3 * case.settings["stride_latents"]
    straight = replay(case)["final_latent"]
    case.arrays["canvas"] = case.arrays["canvas"].roll(turn, -1)
    assert float((replay(case)["final_latent"] - straight.roll(turn, -1)).abs().max()) < 1e-9
    case.arrays["canvas"] = case.arrays["canvas"].roll(1, -1)  # half a stride is another grid
    assert float((replay(case)["final_latent"] - straight.roll(turn + 1, -1)).abs().max()) > 1e-3


def test_one_window_is_direct_sampling(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas, noise = Canvas(16, 16), Noise(0, BOAT.id)
    joint = multidiffusion.fn(backbone, BOAT, canvas, noise, steps=4)
    assert torch.equal(joint, direct.fn(backbone, BOAT, canvas, noise, steps=4))
    assert not torch.equal(joint, direct.fn(backbone, BOAT, canvas, noise, steps=5))


def test_many_windows_are_not_direct_sampling(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas, noise = Canvas(32, 16), Noise(0, BOAT.id)
    joint = multidiffusion.fn(backbone, BOAT, canvas, noise, steps=4)
    assert float((joint - direct.fn(backbone, BOAT, canvas, noise, steps=4)).abs().max()) > 1e-3


@pytest.mark.parametrize("loop", [False, True])
def test_a_linear_denoiser_gives_the_closed_form(tiny_sd: Path, loop: bool) -> None:
    """With noise prediction P, a fixed pattern over each window, DDIM is x' = a x + b P for known a and b.

    The canvas then follows J' = a J + b M, M being the average of the patterns over each cell.
    """
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    windows = grid(4, 12, 4, 2, loop=loop)
    generator = torch.Generator().manual_seed(3)
    pattern = torch.randn(4, 4, 4, dtype=torch.float64, generator=generator)
    canvas = torch.randn(1, 4, 4, 12, dtype=torch.float64, generator=generator)
    scheduler: Any = backbone.scheduler(5)
    found = multidiffusion_latents(lambda x, t: pattern.expand_as(x), scheduler, canvas, windows)

    mean = np.zeros((4, 4, 12))
    for x in range(12):
        over = [(x - v.x) % 12 for v in windows if (x - v.x) % 12 < 4]
        mean[:, :, x] = sum(pattern[:, :, column].numpy() for column in over) / len(over)
    expected = canvas.numpy()[0]
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]
    for now, then in pairwise(abar):
        scale = (then / now) ** 0.5
        expected = scale * expected + ((1 - then) ** 0.5 - scale * (1 - now) ** 0.5) * mean
    np.testing.assert_allclose(found.numpy()[0], expected, rtol=0, atol=1e-9)


def test_float32_follows_float64_closely() -> None:
    case = Case("md_window16_wide")
    exact = replay(case)["final_latent"]
    case.backbone = StableDiffusion("golden", "-", case.backbone.parts)
    case.arrays = {k: v.float() if v.is_floating_point() else v for k, v in case.arrays.items()}
    off = float((replay(case)["final_latent"].double() - exact).abs().max())
    steps, guidance = case.settings["steps"], case.settings["guidance_scale"]
    assert 0 < off < sampled(case.backbone, steps, guidance) * float(exact.abs().max())


def test_the_same_picture_comes_twice_to_the_bit_whatever_was_made_between(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    canvas = Canvas(48, 16)

    def make(prompt_id: str, seed: int = 0) -> torch.Tensor:
        return multidiffusion.fn(backbone, Prompt(prompt_id, BOAT.text), canvas, Noise(seed, prompt_id), steps=3)

    first = make("boat")
    other = make("harbour")
    assert torch.equal(first, make("boat"))
    assert not torch.equal(first, other)
    assert not torch.equal(first, make("boat", seed=1))


def test_the_method_is_its_inner_loop_on_the_canvas_stream(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    noise = Noise(7, BOAT.id)
    made = multidiffusion.fn(backbone, BOAT, Canvas(32, 16, loop=True), noise, steps=3, guidance=2.0)
    with torch.no_grad():
        scheduler, conditioning = backbone.scheduler(3), backbone.condition(BOAT.text)
        latents = multidiffusion_latents(
            lambda x, t: backbone.guided(x, t, conditioning, 2.0),
            scheduler,
            start(backbone, scheduler, noise, (4, 8)),
            grid(4, 8, 4, 1, loop=True),
        )
        assert torch.equal(made, picture(backbone, latents, loop=True))
        assert not torch.equal(made, picture(backbone, latents, loop=False))


def test_stepping_the_average_prediction_is_the_same_for_ddim() -> None:
    """DDIM without noise is affine, so averaging before or after the step is one and the same."""
    case = Case("md_window16_wide")
    windows, conditioning = case.grid(), Conditioning(case.arrays["text_embeds"])

    def guided(canvas: torch.Tensor, t: Any) -> torch.Tensor:
        views = case.backbone.guided(gather(canvas, windows), t, conditioning, 7.5)
        return merge(views, windows, case.size)

    with torch.no_grad():
        final = direct_latents(guided, case.backbone.scheduler(4), case.arrays["canvas"])
    assert float((final - case.arrays["final_latent"]).abs().max()) < 1e-9


def test_evaluations_are_steps_times_windows_times_two(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    multidiffusion.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=3, stride=2)
    assert backbone.meter.cost().nfe == 3 * 3 * 2
    assert set(backbone.meter.cost().seconds) == {"text", "denoise", "decode"}


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 8), {}, "height is 8 px, a window is 16 px"),
        (Canvas(62, 16), {}, "width must be a multiple of 4, got 62; nearest: 60 or 64"),
        (Canvas(60, 16), {"stride": 2}, "nearest that fit: 56 or 64 px"),
        (Canvas(64, 16), {"stride": 5}, "stride must be 1 to 4"),
        (Canvas(64, 16), {"stride": 0}, "stride must be 1 to 4"),
        (Canvas(64, 16), {"window": 0}, "at least one cell"),
        (Canvas(64, 16), {"remainder": "zeros"}, "did you mean 'zero'"),
    ],
)
def test_a_canvas_that_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        multidiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_presets_are_the_official_code_and_the_later_papers() -> None:
    assert multidiffusion.resolve({}, "official") == {
        "steps": 50, "guidance": 7.5, "stride": None, "window": None, "remainder": "zero",
    }  # fmt: skip
    assert multidiffusion.resolve({}, "stride-16")["stride"] == 16
