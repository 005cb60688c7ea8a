"""Guided and variance-corrected fusion against the authors' numbers, and the identities they must obey."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import BOUND, Case

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.stable_diffusion import from_pretrained
from methods.canvas import picture, start
from methods.direct import direct
from methods.gvcf import aligned, guidance_map, gvcf, gvcf_latents, posterior
from methods.multidiffusion import multidiffusion_latents
from methods.sampling import reschedule
from methods.windows import Window, grid

CASES = ["gf_wide", "gf_slerp03", "vcf_wide", "gvcf_wide"]
BOAT = Prompt("boat", "a boat under one moon")


def weights_of(case: Case) -> torch.Tensor:
    return torch.ones(16, 16) if case.settings["step_func"] == "vcf" else guidance_map(16)


def replay(
    case: Case, weights: torch.Tensor | None = None, windows: list[Window] | None = None, order: list[int] | None = None
) -> dict[str, torch.Tensor]:
    drawn = case.arrays.get("step_noises")
    noise = None if drawn is None else lambda i: drawn[i] if order is None else drawn[i][order]
    return case.run(
        lambda guided, scheduler, x, after: gvcf_latents(
            guided,
            scheduler,
            x,
            case.grid() if windows is None else windows,
            weights_of(case) if weights is None else weights,
            noise,
            after,
        )
    )


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    found = replay(case)
    case.check(found)
    corner = found["final_latent"][0, :, 0, 0].tolist()
    assert corner == pytest.approx(case.entry["canvas_pixel_0_0_final"], abs=1e-9)


@pytest.mark.parametrize("name", ["gf_wide", "gf_slerp03", "gvcf_wide"])
def test_a_symmetric_map_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    away = torch.arange(16, dtype=torch.float64) - 7.5
    distance = (away[:, None] ** 2 + away**2).sqrt()
    off = case.final_off(replay(case, 1 - distance / distance.max()))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("symmetric weight map"), abs=1e-6)


@pytest.mark.parametrize("name", ["vcf_wide", "gvcf_wide"])
def test_uncorrected_variance_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    drawn = case.arrays["step_noises"]

    def plain(guided: Any, scheduler: Any, x: torch.Tensor, after: Any) -> torch.Tensor:
        steps = iter(range(len(scheduler.timesteps)))

        def step(prediction: torch.Tensor, t: Any, views: torch.Tensor) -> Any:
            i = next(steps)
            mean, deviation = posterior(scheduler, prediction, i, views)
            return SimpleNamespace(prev_sample=mean + deviation * (drawn[i] if i < len(drawn) else 0))

        ancestral = SimpleNamespace(timesteps=scheduler.timesteps, scale_model_input=lambda x, t: x, step=step)
        return gvcf_latents(guided, ancestral, x, case.grid(), weights_of(case), None, after)

    off = case.final_off(case.run(plain))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("no variance correction"), abs=1e-6)


def test_style_alignment_equals_that_of_the_released_code() -> None:
    case = Case("gf_slerp03")
    canvas, patch = case.arrays["slerp_noise_canvas"][None], case.arrays["slerp_noise_patch"][None]
    stored = case.arrays["canvas"]
    assert float((aligned(canvas, patch, 0.3) - stored).abs().max()) < 1e-12
    straight = 0.7 * canvas + 0.3 * patch.tile(1, 1, 1, 2)
    assert float((straight - stored).abs().max()) > 1e-3
    assert float((aligned(canvas, patch, 0.0) - canvas).abs().max()) < 1e-12
    assert float((aligned(canvas, patch, 1.0) - patch.tile(1, 1, 1, 2)).abs().max()) < 1e-12


def test_the_map_falls_from_the_centre_to_nothing_in_the_corner_before_it() -> None:
    w = guidance_map(64)
    assert float(w[0, 0]) == 0
    assert float(w[32, 32]) == 1
    found = [float(w[y, x]) for y, x in ((0, 32), (32, 0), (63, 63), (0, 63), (32, 63))]
    assert found == pytest.approx([0.2929, 0.2929, 0.03125, 0.0155, 0.315], abs=1e-4)
    assert float(w.min()) >= 0
    assert not torch.equal(w, w.flip(0))


def test_guided_fusion_with_equal_weights_is_multidiffusion() -> None:
    case = Case("gf_wide")

    def joint(guided: Any, scheduler: Any, x: torch.Tensor, after: Any) -> torch.Tensor:
        return multidiffusion_latents(guided, scheduler, x, case.grid(), after)

    theirs = case.run(joint)["final_latent"]
    for level in (1.0, 0.37):
        found = replay(case, torch.full((16, 16), level, dtype=torch.float64))["final_latent"]
        assert float((found - theirs).abs().max()) < 1e-9
    assert float((replay(case)["final_latent"] - theirs).abs().max()) > 1e-3


def test_one_window_is_direct_sampling_but_for_the_corner_cell(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd), precision="fp64"), Noise(0, BOAT.id)
    seen: list[torch.Tensor] = []
    decode = backbone.decode
    monkeypatch.setattr(backbone, "decode", lambda latents: seen.append(latents) or decode(latents))
    gvcf.fn(backbone, BOAT, Canvas(16, 16), noise, steps=1, fusion="gf")
    direct.fn(backbone, BOAT, Canvas(16, 16), noise, steps=1)
    guided, plain = seen[0][0], seen[1][0]
    assert (guided[:, 0, 0] == 0).all()
    assert float(plain[:, 0, 0].abs().min()) > 0
    inside = torch.ones(4, 4, dtype=torch.bool)
    inside[0, 0] = False
    assert float((guided - plain)[:, inside].abs().max()) < 1e-9


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_step_is_ddpm_s_as_diffusers_takes_it(kind: str) -> None:
    from diffusers import DDIMScheduler, DDPMScheduler

    config: Any = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": kind}
    ours: Any = DDIMScheduler(clip_sample=False, **config)
    theirs: Any = DDPMScheduler(clip_sample=False, **config)
    torch.manual_seed(0)
    x, prediction = torch.randn(2, 3, 1, 4, 4, 4, dtype=torch.float64).unbind(0)
    for s in (ours, theirs):
        s.set_timesteps(3)
        s.alphas_cumprod = s.alphas_cumprod.double()
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for i, t in enumerate(ours.timesteps):
        generator = torch.Generator().manual_seed(i)
        stepped = theirs.step(prediction[i], t, x[i], generator=generator).prev_sample
        noise = torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        mean, deviation = posterior(ours, prediction[i], i, x[i])
        assert float((mean + deviation * noise - stepped).abs().max()) < 1e-9
        if i < 2:
            assert float((mean - stepped).abs().max()) > 1e-3
        else:
            assert deviation == 0


@pytest.mark.parametrize("weights", [torch.ones(4, 4), guidance_map(4)])
def test_the_noise_of_a_step_keeps_its_variance_under_any_number_of_windows(
    weights: torch.Tensor, tiny_sd: Path
) -> None:
    """What noise adds is linear in each window's draw: the squares of its shares add up to sigma^2, at every cell."""
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    windows, canvas = grid(8, 12, 4, 2), torch.zeros(1, 4, 8, 12, dtype=torch.float64)
    scheduler = reschedule(backbone, "gvcf", "DDIMScheduler", 2, steps_offset=0)
    blank = torch.zeros(len(windows), 4, 4, 4, dtype=torch.float64)
    _, sigma = posterior(scheduler, blank, 0, blank)

    def after_one(draws: torch.Tensor, corrected: bool) -> torch.Tensor:
        plain = SimpleNamespace(
            timesteps=scheduler.timesteps,
            scale_model_input=lambda x, t: x,
            step=lambda prediction, t, views: SimpleNamespace(prev_sample=sigma * draws),
        )
        steps: list[torch.Tensor] = []
        gvcf_latents(
            lambda v, t: torch.zeros_like(v),
            scheduler if corrected else plain,
            canvas,
            windows,
            weights,
            (lambda i: draws) if corrected else None,
            lambda i, x: steps.append(x),
        )
        return steps[0] / sigma

    def variance(corrected: bool) -> torch.Tensor:
        total = torch.zeros_like(canvas)
        for j in range(len(windows)):
            draws = blank.clone()
            draws[j] = 1
            total += after_one(draws, corrected).square()
        return total

    kept, fallen = variance(corrected=True), variance(corrected=False)
    covered = kept > 0
    assert float((kept[covered] - 1).abs().max()) < 1e-9
    assert int((~covered).sum()) == (4 if weights[0, 0] == 0 else 0)  # the corner cell, four channels
    assert float(fallen[..., 2:6, 2:10].max()) < 0.7


@pytest.mark.parametrize("weights", [torch.ones(4, 4), guidance_map(4)])
def test_a_linear_denoiser_gives_the_closed_form(weights: torch.Tensor, tiny_sd: Path) -> None:
    """With noise prediction P, a fixed pattern over each window, a step is x' = a x + b P + sigma noise.

    The canvas then follows J' = a J + b M + sigma rho N with M and N the weighted means of patterns and noises.
    """
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    windows = grid(4, 10, 4, 3)
    generator = torch.Generator().manual_seed(3)
    pattern = torch.randn(4, 4, 4, dtype=torch.float64, generator=generator)
    canvas = torch.randn(1, 4, 4, 10, dtype=torch.float64, generator=generator)
    draws = torch.randn(4, 3, 4, 4, 4, dtype=torch.float64, generator=generator)
    scheduler = reschedule(backbone, "gvcf", "DDIMScheduler", 5, steps_offset=0)
    found = gvcf_latents(lambda x, t: pattern.expand_as(x), scheduler, canvas, windows, weights, lambda i: draws[i])

    def mean(views: list[np.ndarray], squared: bool = False) -> np.ndarray:
        out = np.zeros((4, 4, 10))
        for y in range(4):
            for x in range(10):
                over = [(float(weights[y, x - v.x]), view) for v, view in zip(windows, views) if 0 <= x - v.x < 4]
                at = [x - v.x for v in windows if 0 <= x - v.x < 4]
                norm = sum(w * w for w, _ in over) ** 0.5 if squared else sum(w for w, _ in over)
                if norm:
                    out[:, y, x] = sum(w * view[:, y, c] for (w, view), c in zip(over, at)) / norm
        return out

    times = [int(t) for t in scheduler.timesteps]
    abar = [float(scheduler.alphas_cumprod[t]) for t in times] + [1.0]
    expected, held = canvas.numpy()[0], mean([np.ones((4, 4, 4))] * 3)
    for i, (now, then) in enumerate(pairwise(abar)):
        beta = 1 - now / then
        scale, sigma = (then / now) ** 0.5, ((1 - then) / (1 - now) * beta) ** 0.5
        drift = -beta * scale / (1 - now) ** 0.5
        expected = scale * expected * held + drift * mean([pattern.numpy()] * 3)
        if i < 4:
            expected = expected + sigma * mean(list(draws[i].numpy()), squared=True)
    np.testing.assert_allclose(found.numpy()[0], expected, rtol=0, atol=1e-9)
    still = gvcf_latents(lambda x, t: pattern.expand_as(x), scheduler, canvas, windows, weights, lambda i: 0 * draws[i])
    assert float((found - still).abs().max()) > 1e-3


def test_results_do_not_depend_on_the_order_of_windows() -> None:
    for name in CASES:
        case = Case(name)
        assert case.off(replay(case, windows=case.grid()[::-1], order=[2, 1, 0])) < 1e-9
    assert case.off(replay(case, windows=case.grid()[::-1])) > BOUND  # noises stay with their windows


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_results_do_not_depend_on_how_many_windows_share_a_call(batch: int) -> None:
    case = Case("gvcf_wide")
    case.backbone.batch = batch
    assert case.off(replay(case)) < 1e-9


@pytest.mark.parametrize("fusion", ["gf", "vcf", "gvcf"])
def test_the_method_is_its_inner_loop_on_its_streams(tiny_sd: Path, fusion: str) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd)), Noise(7, BOAT.id)
    knobs: dict[str, Any] = {"fusion": fusion, "steps": 4, "guidance": 2.0, "remainder": "refuse", "slerp": 0.5}
    made = gvcf.fn(backbone, BOAT, Canvas(16, 64), noise, **knobs)

    def by_hand(stream: str, share: float) -> torch.Tensor:
        with torch.no_grad():
            conditioning = backbone.condition(BOAT.text)
            offset = {} if fusion == "gf" else {"steps_offset": 0}
            scheduler = reschedule(backbone, "gvcf", "DDIMScheduler", 4, **offset)
            x = start(backbone, scheduler, noise, (16, 4))
            latents = gvcf_latents(
                lambda v, t: backbone.guided(v, t, conditioning, 2.0),
                scheduler,
                aligned(x, noise.normal("gvcf-style", (1, 4, 4, 4)), share),
                grid(16, 4, 4, 3),
                torch.ones(4, 4) if fusion == "vcf" else guidance_map(4),
                None if fusion == "gf" else lambda i: noise.normal(f"{stream}-{i}", (5, 4, 4, 4)),
            )
            return picture(backbone, latents)

    assert torch.equal(made, by_hand("gvcf-step", 0.5))
    assert torch.equal(made, by_hand("another", 0.5)) == (fusion == "gf")
    assert not torch.equal(made, by_hand("gvcf-step", 0.4))
    assert not torch.equal(made, gvcf.fn(backbone, BOAT, Canvas(16, 64), noise, **{**knobs, "slerp": 0.0}))


def test_evaluations_are_steps_times_windows_times_two_and_defaults_are_the_samplers_own(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    for fusion, steps, each in (("gf", 50, None), ("gvcf", 7, 7)):
        backbone.meter.reset()
        gvcf.fn(backbone, BOAT, Canvas(28, 16), Noise(0, "a"), fusion=fusion, steps=each)
        assert backbone.meter.cost().nfe == steps * 2 * 2
    asked: list[int] = []

    def stop(steps: int, size: Any = None) -> Any:
        asked.append(steps)
        raise UsageError("stop")

    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, scheduler=stop)
    with pytest.raises(UsageError, match="stop"):
        gvcf.fn(idle, BOAT, Canvas(28, 16), Noise(0, "a"), fusion="gf")
    assert asked == [50]
    thousand = reschedule(backbone, "gvcf", "DDIMScheduler", 1000, steps_offset=0)
    assert (int(thousand.timesteps[0]), int(thousand.timesteps[-1]), len(thousand.timesteps)) == (999, 0, 1000)


def test_a_window_moved_to_the_edge_is_noted_in_the_record_and_refused_by_the_presets(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    gvcf.fn(backbone, BOAT, Canvas(28, 16), Noise(0, "a"), steps=2)
    assert backbone.meter.flags == []
    gvcf.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=2)
    assert backbone.meter.flags == ["clamped-window"]
    for preset in ("gf", "vcf", "gvcf"):
        with pytest.raises(UsageError, match="nearest that fit: 28 or 40 px"):
            gvcf.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), **gvcf.resolve({}, preset))


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16, loop=True), {}, "gvcf defines no loop"),
        (Canvas(64, 16), {"fusion": "gcf"}, "did you mean"),
        (Canvas(64, 8), {}, "height is 8 px, a window is 16 px"),
        (Canvas(64, 16), {"slerp": 1.5}, "slerp must be from 0 to 1"),
        (Canvas(56, 16), {"slerp": 0.5}, "must be whole windows of 16 px"),
        (Canvas(64, 16), {"stride": 5}, "stride must be 1 to 4"),
    ],
)
def test_what_is_not_defined_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        gvcf.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_flow_matching_network_has_no_ddpm() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    made = FlowMatchEulerDiscreteScheduler()
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, scheduler=lambda *_: made)
    with pytest.raises(UsageError, match="needs a network trained on a schedule of betas"):
        gvcf.fn(idle, BOAT, Canvas(28, 16), Noise(0, "a"))


def test_presets_are_the_released_code_s_settings() -> None:
    common = {"steps": None, "guidance": 7.5, "stride": None, "window": None, "remainder": "refuse", "slerp": 0.0}
    for name in ("gf", "vcf", "gvcf"):
        assert gvcf.resolve({}, name) == {"fusion": name, **common}


def test_windows_of_the_released_setting_stand_where_the_paper_s_canvas_has_them() -> None:
    windows = grid(64, 448, 64, 48)  # 512 x 3584 px
    assert [v.x for v in windows] == list(range(0, 385, 48))
    assert len(windows) == 9
    with pytest.raises(UsageError):
        grid(64, 384, 64, 48)  # 512 x 3072 px
