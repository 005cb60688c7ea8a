"""Multi-Scale Diffusion, of which no code was released: closed forms written out by hand, and identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import Case

from bench.errors import UsageError
from bench.meta import counting
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods import msd as module
from methods.backbones.stable_diffusion import from_pretrained, sd20
from methods.canvas import start
from methods.direct import direct
from methods.msd import halve, msd, msd_latents
from methods.multidiffusion import multidiffusion, multidiffusion_latents
from methods.windows import Window, grid

BOAT = Prompt("boat", "a boat under one moon")
FINE, COARSE = (8, 16), (4, 8)
SCALES = [grid(*COARSE, 4, 2), grid(*FINE, 4, 2)]


def drawn(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def schedule(steps: int) -> Any:
    """DDIM in float64, and its noise levels abar, one more than steps."""
    return Case("md_window16_wide").backbone.scheduler(steps)


def levels(scheduler: Any) -> list[float]:
    return [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]


def run(guided: Callable[..., torch.Tensor], canvas: torch.Tensor, steps: int = 5, **knobs: Any) -> np.ndarray:
    scales = knobs.pop("scales", SCALES)
    with torch.no_grad():
        return msd_latents(guided, schedule(steps), canvas, scales, **knobs).numpy()[0]


def down(x: np.ndarray) -> np.ndarray:
    c, h, w = x.shape
    return x.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))


def up(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, 1).repeat(2, 2)


def average(canvas: np.ndarray, windows: list[Window], change: Callable[..., np.ndarray]) -> np.ndarray:
    total, count = np.zeros_like(canvas), np.zeros(canvas.shape[1:])
    for v in windows:
        total[:, v.y : v.y + 4, v.x : v.x + 4] += change(canvas[:, v.y : v.y + 4, v.x : v.x + 4], v)
        count[v.y : v.y + 4, v.x : v.x + 4] += 1
    return total / count


@pytest.mark.parametrize(("norm", "weight"), [("sum", 0.8), ("mean", 30.0), ("polyak", 1.0)])
def test_a_linear_denoiser_gives_the_closed_form(norm: str, weight: float) -> None:
    """With noise prediction P over every window Phi is x -> a x + b P, so that the gradient is a/2 up(residual).

    ds is the mean of 2 x 2 cells, its transpose a quarter of what repeats cells.
    """
    pattern, canvas = drawn(4, 4, 4, seed=1), drawn(1, 4, *FINE)
    expected = canvas.numpy()[0]
    for i, (now, then) in enumerate(pairwise(levels(schedule(5)))):
        a = (then / now) ** 0.5
        b = (1 - then) ** 0.5 - a * (1 - now) ** 0.5

        def step(x: np.ndarray, a: float = a, b: float = b) -> np.ndarray:
            return a * x + b * pattern.numpy()

        low = average(down(expected), SCALES[0], lambda x, v, step=step: step(x))
        decay = (1 + math.cos(math.pi * i / 5)) / 2

        def moved(x: Any, v: Window, step: Any = step, a: float = a, low: Any = low, decay: float = decay) -> Any:
            residual = down(step(x)) - low[:, v.y // 2 : v.y // 2 + 2, v.x // 2 : v.x // 2 + 2]
            gradient = a / 2 * up(residual)
            length = {
                "sum": weight * decay,
                "mean": weight * decay / residual.size,
                "polyak": decay * (residual**2).sum() / (gradient**2).sum(),
            }[norm]
            return step(x - length * gradient)

        expected = average(expected, SCALES[1], moved if i < 3 else lambda x, v, step=step: step(x))
    found = run(lambda x, t: pattern.expand_as(x), canvas, weight=weight, norm=norm, until=0.4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    late = run(lambda x, t: pattern.expand_as(x), canvas, weight=weight, norm=norm, until=0.2)
    assert np.abs(late - expected).max() > 1e-3


@pytest.mark.parametrize(("weight", "left"), [(1.0, 0.5), (2.0, 0.0), (10.0, -4.0)])
def test_a_sum_multiplies_the_residual_by_one_minus_half_the_weight(weight: float, left: float) -> None:
    """As a network that predicts nothing has Phi = a x with a > 1, the factor is 1 - a^2 w / 2."""
    z, target = drawn(1, 4, 4, 4, seed=1), 5.0
    seen: list[torch.Tensor] = []

    def nothing(x: torch.Tensor, t: Any) -> torch.Tensor:
        seen.append(x.detach())
        return torch.zeros_like(x) if len(seen) > 1 else torch.full_like(x, target)  # first come the coarse windows

    scheduler = schedule(2)
    now, then, _ = levels(scheduler)
    a2 = then / now
    with torch.no_grad():
        msd_latents(nothing, scheduler, torch.cat([z] * 2, -1).repeat(1, 1, 2, 1), [[Window(0, 0, 4, 4)],
                    [Window(y, x, 4, 4) for y in (0, 4) for x in (0, 4)]], weight=weight / a2, until=0.5)  # fmt: skip
    before, after = seen[1], seen[2]
    a = a2**0.5
    low = a * halve(torch.cat([z] * 2, -1).repeat(1, 1, 2, 1)) + ((1 - then) ** 0.5 - a * (1 - now) ** 0.5) * target
    wanted = torch.cat([low[..., y : y + 2, x : x + 2] for y in (0, 2) for x in (0, 2)])
    torch.testing.assert_close(halve(a * after) - wanted, left * (halve(a * before) - wanted), atol=1e-9, rtol=1e-9)


def test_on_a_network_polyak_steps_lower_the_residual_where_a_small_weight_does_next_to_nothing(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    conditioning, scheduler = backbone.condition(BOAT.text), backbone.scheduler(10)
    canvas = drawn(1, 4, *FINE)

    def residuals(norm: str, weight: float) -> tuple[float, float]:
        """Of the first step, before and after the windows moved."""
        seen: list[torch.Tensor] = []

        def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
            seen.append(x.detach())
            return backbone.guided(x, t, conditioning, 2.0)

        made: list[torch.Tensor] = []
        with torch.no_grad():
            msd_latents(guided, scheduler, canvas, SCALES, weight=weight, norm=norm, until=0.9, chunk=1000)
            t = scheduler.timesteps[0]
            low = multidiffusion_latents(
                lambda x, t: backbone.guided(x, t, conditioning, 2.0), _first(scheduler), halve(canvas), SCALES[0]
            )
            for x in (seen[1], seen[2]):
                stepped = scheduler.step(backbone.guided(x, t, conditioning, 2.0), t, x).prev_sample
                wanted = torch.cat([low[..., v.y // 2 : v.y // 2 + 2, v.x // 2 : v.x // 2 + 2] for v in SCALES[1]])
                made.append((halve(stepped) - wanted).square().sum())
        return float(made[0]), float(made[1])

    before, after = residuals("polyak", 10.0)
    assert 0.1 < after / before < 0.5
    before, after = residuals("sum", 0.001)
    assert 0.95 < after / before < 1


def _first(scheduler: Any) -> Any:
    """The same schedule, its first step only."""
    return SimpleNamespace(
        timesteps=scheduler.timesteps[:1], step=scheduler.step, scale_model_input=scheduler.scale_model_input
    )


@pytest.mark.parametrize("knobs", [{"weight": 0.0}, {"until": 1.0}, {"scales": SCALES[1:]}])
def test_no_weight_no_time_or_one_scale_is_multidiffusion(knobs: dict[str, Any]) -> None:
    def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(x) * 0.5

    canvas = drawn(1, 4, *FINE)
    with torch.no_grad():
        plain = multidiffusion_latents(guided, schedule(5), canvas, SCALES[1]).numpy()[0]
    assert np.array_equal(run(guided, canvas, **knobs), plain)
    assert np.abs(run(guided, canvas, weight=1.0) - plain).max() > 1e-3


def test_results_do_not_depend_on_the_order_or_number_of_windows_in_memory() -> None:
    def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(x) * 0.5

    canvas = drawn(1, 4, *FINE)
    straight = run(guided, canvas, weight=1.0)
    for changes in ({"scales": [s[::-1] for s in SCALES]}, {"chunk": 1}, {"chunk": 4}):
        np.testing.assert_allclose(run(guided, canvas, weight=1.0, **changes), straight, rtol=0, atol=1e-11)


def test_three_scales_guide_from_the_coarsest_up() -> None:
    """Sizes seen in a guided step: 4 x 8 cells, then 8 x 16 twice, then 16 x 32 twice."""
    scales = [grid(4, 8, 4, 2), grid(8, 16, 4, 2), grid(16, 32, 4, 2)]
    calls: list[int] = []

    def guided(x: torch.Tensor, t: Any) -> torch.Tensor:
        calls.append(len(x))
        return torch.tanh(x) * 0.5

    canvas = drawn(1, 4, 16, 32)
    three = run(guided, canvas, steps=2, scales=scales, weight=1.0, until=0.5, chunk=1000)
    low, middle, high = (len(s) for s in scales)
    assert calls == [low, middle, middle, high, high, high]
    assert np.abs(three - run(guided, canvas, steps=2, scales=scales[1:], weight=1.0, until=0.5)).max() > 1e-6


def test_renormalised_noise_reaches_the_coarse_network_in_full_and_leaves_with_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that knows the noise of nothing but noise takes exactly it out, so that nothing is left to guide."""
    scheduler = schedule(4)
    sigma = {int(t): (1 - abar) ** 0.5 for t, abar in zip(scheduler.timesteps, levels(scheduler))}
    canvas, fine = drawn(1, 4, 32, 64), grid(32, 64, 16, 8)
    scales = [grid(16, 32, 16, 8), fine]
    seen: list[float] = []

    def knows(x: torch.Tensor, t: Any) -> torch.Tensor:
        seen.append(float(x.detach().std()))
        return x / sigma[int(t)]

    canvas = canvas * sigma[int(scheduler.timesteps[0])]
    with torch.no_grad():
        plain = multidiffusion_latents(knows, schedule(4), canvas, fine).numpy()[0]
    seen.clear()
    kept = run(knows, canvas, steps=4, scales=scales)
    assert seen[0] == pytest.approx(0.5, abs=0.05)
    seen.clear()
    full = run(knows, canvas, steps=4, scales=scales, extra=[drawn(1, 4, 16, 32, seed=9)])
    assert seen[0] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(kept, plain, rtol=0, atol=1e-9)
    np.testing.assert_allclose(full, plain, rtol=0, atol=1e-9)
    monkeypatch.setattr(module, "_missing", lambda *of, real=module._missing: (real(*of)[0], 0.0))
    stays = run(knows, canvas, steps=4, scales=scales, extra=[drawn(1, 4, 16, 32, seed=9)])
    assert np.abs(stays - plain).max() > 1e-3  # what is not taken out guides


# -- the method on a backbone


def test_one_window_is_direct_sampling(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    one = msd.fn(backbone, BOAT, Canvas(16, 16), Noise(0, "a"), steps=4, scales=1)
    assert torch.equal(one, direct.fn(backbone, BOAT, Canvas(16, 16), Noise(0, "a"), steps=4))
    assert not torch.equal(one, direct.fn(backbone, BOAT, Canvas(16, 16), Noise(0, "a"), steps=5))


@pytest.mark.parametrize("canvas", [Canvas(64, 32), Canvas(32, 64), Canvas(32, 32)])
def test_weight_zero_is_multidiffusion_on_every_kind_of_canvas(tiny_sd: Path, canvas: Canvas) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    plain = multidiffusion.fn(backbone, BOAT, canvas, Noise(0, "a"), steps=3, stride=2)
    assert torch.equal(plain, msd.fn(backbone, BOAT, canvas, Noise(0, "a"), steps=3, weight=0))
    made = msd.fn(backbone, BOAT, canvas, Noise(0, "a"), steps=3)
    assert made.shape == (3, canvas.height, canvas.width)
    assert not torch.equal(plain, made)
    renormed = msd.fn(backbone, BOAT, canvas, Noise(0, "a"), **msd.resolve({"steps": 3}, "renorm"))
    assert not torch.equal(made, renormed)
    assert torch.equal(renormed, msd.fn(backbone, BOAT, canvas, Noise(0, "a"), **msd.resolve({"steps": 3}, "renorm")))


def test_the_method_is_its_inner_loop_with_the_papers_numbers(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    made = msd.fn(backbone, BOAT, Canvas(64, 32), Noise(7, BOAT.id), steps=4)
    with torch.no_grad():
        scheduler, conditioning = backbone.scheduler(4), backbone.condition(BOAT.text)
        latents = msd_latents(
            lambda x, t: backbone.guided(x, t, conditioning, 7.5), scheduler,
            start(backbone, scheduler, Noise(7, BOAT.id), FINE), SCALES, weight=10, until=0.7, norm="sum", chunk=16,
        )  # fmt: skip
        assert torch.equal(made, backbone.decode(latents)[0])


def test_evaluations_are_those_of_52_windows_early_and_45_later(tiny_sd: Path) -> None:
    """The paper's canvas in windows: 2 x 8 of them at half a window; guided windows are asked twice."""
    backbone = from_pretrained(model=str(tiny_sd))
    msd.fn(backbone, BOAT, Canvas(128, 32), Noise(0, "a"), steps=4)
    assert backbone.meter.cost().nfe == 2 * (1 * (7 + 2 * 45) + 3 * 45)
    assert not backbone.unet.is_gradient_checkpointing


def test_full_size_canvases_fit_a_card_of_24_gb() -> None:
    """SD 2.0 in fp16 at 1024x1024 on shapes, 9 windows with gradients in memory at once."""
    backbone = sd20.skeleton(precision="fp16")
    with counting() as tally:
        for module in (m for m in backbone.parts.values() if hasattr(m, "parameters")):
            for parameter in module.parameters():
                tally.track(parameter)
        made = msd.fn(backbone, BOAT, Canvas(1024, 1024), Noise(0, "a"), steps=1, until=0.4)
    assert made.shape == (3, 1024, 1024)
    assert backbone.meter.nfe == 2 * (1 + 2 * 9)
    assert tally.peak < 12e9


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 32, loop=True), {}, "msd defines no loop"),
        (Canvas(64, 16), {}, "both sides must be at least 32 px, got 64 x 16"),
        (Canvas(64, 32), {"scales": 3}, "both sides must be at least 64 px"),
        (Canvas(64, 32), {"scales": 0}, "scales must be at least 1"),
        (Canvas(64, 32), {"stride": 1}, "window and stride must be even, got 4 and 1"),
        (Canvas(68, 32), {}, "multiples of 8 px"),
        (Canvas(72, 32), {}, "of width over"),
        (Canvas(64, 32), {"remainder": "zero"}, "guide towards zero"),
        (Canvas(64, 32), {"norm": "summ"}, "did you mean 'sum'"),
        (Canvas(64, 32), {"ds_noise": "renormed"}, "did you mean 'renorm'"),
        (Canvas(64, 32), {"weight": -1.0}, "weight must be at least 0"),
        (Canvas(64, 32), {"until": 70.0}, "until from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        msd.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_schedulers_that_keep_state_are_refused() -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, scheduler=lambda *_: SimpleNamespace())
    with pytest.raises(UsageError, match="sampler=ddim"):
        msd.fn(idle, BOAT, Canvas(64, 32), Noise(0, "a"))


def test_presets_are_the_paper_and_our_proposals() -> None:
    paper = msd.resolve({}, "paper")
    assert paper == msd.resolve({})
    assert paper == {
        "steps": 50, "guidance": 7.5, "stride": None, "window": None, "remainder": "refuse", "scales": 2,
        "weight": 10.0, "until": 0.7, "norm": "sum", "ds_noise": "keep",
    }  # fmt: skip
    assert msd.resolve({}, "polyak") == {**paper, "norm": "polyak"}
    assert msd.resolve({}, "renorm") == {**paper, "norm": "polyak", "ds_noise": "renorm"}
