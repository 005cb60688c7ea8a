"""TwinDiffusion against the authors' numbers, and the identities it must obey."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods import twindiffusion as module
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained
from methods.direct import direct
from methods.multidiffusion import multidiffusion, multidiffusion_latents
from methods.shared.canvas import picture, start
from methods.shared.windows import Window, grid
from methods.twindiffusion import fuse, twindiffusion, twindiffusion_latents
from tests.support.golden_cases import BOUND, Case
from tests.support.tiny_pipelines import write_sdxl

CASES = ["twin_c2", "twin_c3_lam2", "twin_two_views"]
BOAT = Prompt("boat", "a boat under one moon")


def replay(case: Case, windows: list[Window] | None = None, **changes: Any) -> dict[str, torch.Tensor]:
    s = case.settings
    knobs = {"cross_time": s["cross_time"], "lam": s["lam"], **changes}
    views = case.grid() if windows is None else windows
    return case.run(
        lambda guided, scheduler, x, after: twindiffusion_latents(
            guided, scheduler, x, views, case.stride, after_step=after, **knobs
        )
    )


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_those_of_the_released_code(name: str) -> None:
    case = Case(name)
    case.check(replay(case))


@pytest.mark.parametrize("name", CASES)
def test_fusion_in_all_steps_is_caught_and_off_by_as_much_as_expected(name: str) -> None:
    case = Case(name)
    off = case.final_off(replay(case, fused=1.0))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("fusion also in the second half"), abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_neighbour_always_at_a_stride_is_caught_and_off_by_as_much_as_expected(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(name)
    monkeypatch.setattr(module, "fuse", lambda views, stride, shift, lam: fuse(views, stride, 0, lam))
    off = case.final_off(replay(case))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("neighbour offset always"), abs=1e-6)


@pytest.mark.parametrize("name", CASES[:2])
def test_a_neighbour_not_fused_itself_is_caught_and_off_by_as_much_as_expected(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfused(views: torch.Tensor, stride: int, shift: int, lam: float) -> torch.Tensor:
        made, n, k = views.clone(), len(views), views.shape[-1]
        for j in range(1, n):
            offset = stride + shift * ((j == 1) - (j == n - 1))
            made[j, ..., : k - offset] = (views[j - 1, ..., offset:] + lam * views[j, ..., : k - offset]) / (1 + lam)
        return made

    case = Case(name)
    monkeypatch.setattr(module, "fuse", unfused)
    off = case.final_off(replay(case))
    assert off > BOUND
    assert off == pytest.approx(case.mistake("neighbour taken before its own fusion"), abs=1e-6)


def test_rows_are_walked_as_one_list_as_in_the_released_code() -> None:
    """A second writing of the loop, view by view, on three rows: the first of a row meets the last of the row above."""
    case = Case("twin_c3_lam2")
    torch.manual_seed(0)
    canvas = torch.randn(1, 4, 28, 28, dtype=torch.float64)
    views, lam, k, stride = grid(28, 28, 16, 6), 2.0, 16, 6
    assert len(views) == 9
    with torch.no_grad():
        found = twindiffusion_latents(
            case.guided, case.backbone.scheduler(4), canvas, views, stride, cross_time=1, lam=lam
        )
        scheduler, x = case.backbone.scheduler(4), canvas
        for i, t in enumerate(scheduler.timesteps):
            value, count, before = torch.zeros_like(x), torch.zeros_like(x), torch.empty(0)
            for j, v in enumerate(views):
                crop = x[..., v.y : v.y + k, v.x : v.x + k]
                z = scheduler.step(case.guided(crop, t), t, crop).prev_sample
                if j > 0 and i < 2:
                    z[..., : k - stride] = (before[..., stride:] + lam * z[..., : k - stride]) / (1 + lam)
                value[..., v.y : v.y + k, v.x : v.x + k] += z
                count[..., v.y : v.y + k, v.x : v.x + k] += 1
                before = z
            x = value / count
        rows = multidiffusion_latents(case.guided, case.backbone.scheduler(4), canvas, views)
    assert float((found - x).abs().max()) < 1e-9
    assert float((found - rows).abs().max()) > 1e-3


@pytest.mark.parametrize("off", [{"lam": inf}, {"fused": 0.0}])
def test_without_crossing_and_fusion_it_is_multidiffusion(off: dict[str, float]) -> None:
    case = Case("twin_c2")

    def joint(guided: Any, scheduler: Any, x: torch.Tensor, after: Any) -> torch.Tensor:
        return multidiffusion_latents(guided, scheduler, x, case.grid(), after)

    theirs = case.run(joint)["final_latent"]
    assert torch.equal(replay(case, cross_time=1, **off)["final_latent"], theirs)
    assert float((replay(case, cross_time=1)["final_latent"] - theirs).abs().max()) > 1e-3
    assert float((replay(case, **off)["final_latent"] - theirs).abs().max()) > 1e-3


def test_one_window_is_direct_sampling(tiny_sd: Path) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd)), Noise(0, BOAT.id)
    made = twindiffusion.fn(backbone, BOAT, Canvas(16, 16), noise, steps=4)
    assert torch.equal(made, direct.fn(backbone, BOAT, Canvas(16, 16), noise, steps=4))
    wide = twindiffusion.fn(backbone, BOAT, Canvas(32, 16), noise, steps=4)
    assert not torch.equal(wide, direct.fn(backbone, BOAT, Canvas(32, 16), noise, steps=4))


@pytest.mark.parametrize(("cross_time", "lam"), [(1, 0.0), (2, 1.0), (3, 0.5), (5, 2.0)])
def test_views_that_agree_stay_as_they_are_wherever_they_stand(tiny_sd: Path, cross_time: int, lam: float) -> None:
    """With noise prediction 0.3 x views agree where they overlap: the canvas shrinks by a known factor."""
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    scheduler: Any = backbone.scheduler(6)
    torch.manual_seed(0)
    canvas = torch.randn(1, 4, 12, 42, dtype=torch.float64)
    abar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [float(scheduler.final_alpha_cumprod)]
    factor = 1.0
    for now, then in pairwise(abar):
        factor *= (then / now) ** 0.5 + 0.3 * ((1 - then) ** 0.5 - (then / now) ** 0.5 * (1 - now) ** 0.5)

    def off(width: int) -> float:
        x = canvas[..., :width]
        found = twindiffusion_latents(
            lambda v, t: 0.3 * v, backbone.scheduler(6), x, grid(12, width, 12, 5), 5, cross_time=cross_time, lam=lam
        )
        return float((found - factor * x).abs().max())

    assert off(42) < 1e-9
    if cross_time > 1:  # two views: neither moves, but fusion believes so
        assert off(17) > 1e-3


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_results_do_not_depend_on_how_many_views_share_a_call(batch: int) -> None:
    case = Case("twin_c3_lam2")
    case.backbone.batch = batch
    assert case.off(replay(case)) < 1e-9


def test_the_method_is_its_inner_loop_on_the_canvas_stream(tiny_sd: Path) -> None:
    backbone, noise = from_pretrained(model=str(tiny_sd)), Noise(7, BOAT.id)
    knobs: dict[str, Any] = {"steps": 3, "guidance": 2.0, "stride": 2, "lam": 0.5, "fused": 1.0}
    made = twindiffusion.fn(backbone, BOAT, Canvas(48, 16), noise, **knobs)
    with torch.no_grad():
        scheduler, conditioning = backbone.scheduler(3), backbone.condition(BOAT.text)
        latents = twindiffusion_latents(
            lambda x, t: backbone.guided(x, t, conditioning, 2.0),
            scheduler,
            start(backbone, scheduler, noise, (4, 12)),
            grid(4, 12, 4, 2),
            2,
            lam=0.5,
            fused=1.0,
        )
        assert torch.equal(made, picture(backbone, latents))
    assert not torch.equal(made, twindiffusion.fn(backbone, BOAT, Canvas(48, 16), noise, **{**knobs, "lam": 2.0}))
    joint = multidiffusion.fn(backbone, BOAT, Canvas(48, 16), noise, steps=3, guidance=2.0, stride=2)
    assert not torch.equal(made, joint)


def test_evaluations_are_steps_times_views_times_two(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    twindiffusion.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=3, stride=2)
    assert backbone.meter.cost().nfe == 3 * 3 * 2


def test_sdxl_is_told_the_size_of_the_panorama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = sdxl(model=str(write_sdxl(tmp_path)), sampler="ddim")
    side = backbone.window * backbone.factor
    seen: list[Any] = []
    predict = backbone.predict

    def watched(latents: torch.Tensor, t: Any, embeds: torch.Tensor, added: Any = None) -> torch.Tensor:
        seen.append((latents.shape[0], added["time_ids"]))
        return predict(latents, t, embeds, added)

    monkeypatch.setattr(backbone, "predict", watched)
    made = twindiffusion.fn(backbone, BOAT, Canvas(2 * side, side), Noise(0, "a"), steps=2, guidance=5.0)
    assert made.shape == (3, side, 2 * side)
    for n, ids in seen:
        assert ids.tolist() == [[side, 2 * side, 0, 0, side, 2 * side]] * n


WIDE = {"stride": 2, "window": 4}


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 16, loop=True), {}, "twindiffusion defines no loop"),
        (Canvas(64, 8), {}, "height is 8 px, a window is 16 px"),
        (Canvas(60, 16), WIDE, "nearest that fit: 56 or 64 px"),
        (Canvas(64, 16), {**WIDE, "remainder": "clamp"}, "remainder=clamp breaks them"),
        (Canvas(64, 32), WIDE, "use a canvas 16 px high, or rows=official"),
        (Canvas(64, 32), {**WIDE, "rows": "official"}, "1 cells past the right edge: use cross_time=1"),
        (Canvas(16, 64), WIDE, "use a canvas 16 px high"),
        (Canvas(64, 16), {"rows": "oficial"}, "did you mean 'official'"),
        (Canvas(64, 16), {"stride": 4}, "leave a gap at a stride of 4"),
        (Canvas(64, 16), {"cross_time": 0}, "cross_time must be at least 1"),
        (Canvas(64, 16), {"lam": -1.0}, "lam at least 0"),
        (Canvas(64, 16), {"lam": float("nan")}, "lam at least 0"),
        (Canvas(64, 16), {"fused": 1.5}, "fused from 0 to 1"),
    ],
)
def test_what_is_not_defined_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        twindiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_scheduler_with_a_memory_is_refused() -> None:
    from diffusers import PNDMScheduler

    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4, scheduler=lambda *_: PNDMScheduler())
    with pytest.raises(UsageError, match="PNDMScheduler remembers earlier steps"):
        twindiffusion.fn(idle, BOAT, Canvas(64, 16), Noise(0, "a"))


def test_presets_are_the_released_code_s_settings() -> None:
    assert twindiffusion.resolve({}, "official") == {
        "steps": 50, "guidance": 7.5, "stride": None, "window": None, "remainder": "zero",
        "cross_time": 2, "lam": 1.0, "fused": 0.5, "rows": "official",
    }  # fmt: skip
    assert twindiffusion.resolve({}, "sdxl")["guidance"] == 5.0
