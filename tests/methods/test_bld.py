"""Extrapolation by Blended Latent Diffusion: against the procedure written out, and the identities it must obey."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.schedules import make_scheduler
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained
from methods.bld import bld, bld_latents
from methods.direct import direct
from methods.shared.windows import grid
from tests.support.tiny_pipelines import write_sdxl

BOAT = Prompt("boat", "a boat under one moon", "blurry")
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def scheduler() -> Any:
    return make_scheduler({**CONFIG, "_class_name": "DDIMScheduler"}, 4, double=True)


def fresh(window: int, step: int) -> torch.Tensor:
    dice = torch.Generator().manual_seed(10 * window + step)
    return torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=dice)


def network(z: torch.Tensor, t: Any) -> torch.Tensor:
    return 0.4 * z - 0.2 * z.mean(-1, keepdim=True)


def run(canvas: torch.Tensor, stride: int = 2, blend: str = "current", **more: Any) -> torch.Tensor:
    windows = grid(4, canvas.shape[-1], 4, stride)
    return bld_latents(more.pop("network", network), scheduler, canvas, windows, fresh, blend=blend, **more)


@pytest.fixture
def canvas() -> torch.Tensor:
    return torch.randn(1, 2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("blend", "late"), [("current", 0), ("previous", 1)])
def test_it_is_the_procedure_written_out(canvas: torch.Tensor, blend: str, late: int) -> None:
    made: list[torch.Tensor] = []
    for k in range(3):
        sampler = scheduler()
        x = canvas[..., 2 * k : 2 * k + 4]
        for i, t in enumerate(sampler.timesteps):
            x = sampler.step(network(x, t), t, x).prev_sample
            if k:
                source, noise = torch.cat(made, dim=-1)[..., -2:], fresh(k, i)[..., :2]
                if i + late < 4:
                    source = sampler.add_noise(source, noise, sampler.timesteps[i + late])
                x = torch.cat([source, x[..., 2:]], dim=-1)
        made.append(x if k == 0 else x[..., 2:])
    expected = torch.cat(made, dim=-1)
    assert float((run(canvas, blend=blend) - expected).abs().max()) < 1e-6
    other = "previous" if blend == "current" else "current"
    assert float((run(canvas, blend=other) - expected).abs().max()) > 1e-3


def test_the_first_look_is_pure_noise_and_later_ones_hold_the_noised_source(canvas: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []

    def watched(z: torch.Tensor, t: Any) -> torch.Tensor:
        seen.append(z.clone())
        return network(z, t)

    final = run(canvas, network=watched)
    assert torch.equal(seen[4], canvas[..., 2:6])
    sampler = scheduler()
    known = sampler.add_noise(final[..., 2:4], fresh(1, 0)[..., :2], sampler.timesteps[0])
    assert float((seen[5][..., :2] - known).abs().max()) < 1e-6
    assert float((seen[5][..., 2:] - known).abs().max()) > 1e-2


def test_cells_once_written_are_never_changed(canvas: torch.Tensor) -> None:
    found: list[torch.Tensor] = []
    final = run(canvas, after_window=lambda k, x: found.append(x.clone()))
    for k, x in enumerate(found):
        assert torch.equal(x[..., : 2 * k + 4], final[..., : 2 * k + 4])
    other = canvas.clone()
    other[..., 6:] += 1  # what lies further right does not matter to the left
    assert torch.equal(run(other)[..., :6], final[..., :6])
    assert not torch.equal(run(other)[..., 6:], final[..., 6:])


def test_windows_that_only_touch_know_nothing_of_each_other(canvas: torch.Tensor) -> None:
    found = run(canvas, stride=4)
    assert torch.equal(found[..., :4], run(canvas[..., :4]))
    assert torch.equal(found[..., 4:], run(canvas[..., 4:]))


def test_one_window_is_direct_sampling(tiny_sd: Path, tmp_path: Path) -> None:
    for backbone in (from_pretrained(model=str(tiny_sd)), sdxl(model=str(write_sdxl(tmp_path / "sdxl")))):
        noise = Noise(0, BOAT.id)
        made = bld.fn(backbone, BOAT, Canvas(16, 16), noise, steps=4)
        assert torch.equal(made, direct.fn(backbone, BOAT, Canvas(16, 16), noise, steps=4))
        assert not torch.equal(made, direct.fn(backbone, BOAT, Canvas(16, 16), noise, steps=5))
        wide = bld.fn(backbone, BOAT, Canvas(32, 16), noise, steps=4)
        plain = direct.fn(backbone, BOAT, Canvas(32, 16), noise, steps=4)
        assert float((wide - plain).abs().max()) > 1e-3


def test_the_same_picture_comes_twice_and_seeds_and_knobs_matter(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))

    def make(seed: int = 0, **knobs: Any) -> torch.Tensor:
        return bld.fn(backbone, BOAT, Canvas(40, 16), Noise(seed, BOAT.id), steps=3, **knobs)

    first = make()
    assert torch.equal(first, make())
    others = (make(1), make(stride=3), make(blend="previous"))
    assert all(not torch.equal(first, other) for other in others)


def test_evaluations_are_steps_times_windows_times_two_and_eleven_windows_make_six_to_one(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    bld.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=3)
    assert backbone.meter.cost().nfe == 3 * 3 * 2
    assert len(grid(64, 384, 64, 32)) == 11


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(32, 32), {}, "one window of 16 px high; got a height of 32 px"),
        (Canvas(36, 16), {}, "leave 4 of the 36 px of width over"),
        (Canvas(32, 16, loop=True), {}, "bld cannot make a loop"),
        (Canvas(32, 16), {"blend": "prev"}, "did you mean 'previous'"),
        (Canvas(32, 16), {"remainder": "zero"}, "unknown remainder 'zero'"),
        (Canvas(32, 16), {"stride": 5}, "stride must be 1 to 4"),
    ],
)
def test_a_canvas_that_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        bld.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_a_clamped_last_window_only_adds_what_is_missing(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    made = bld.fn(backbone, BOAT, Canvas(36, 16), Noise(0, "a"), steps=2, remainder="clamp")
    assert made.shape == (3, 16, 36)


def test_a_sampler_with_a_memory_is_refused(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    backbone.scheduler = lambda steps, size=None: SimpleNamespace()
    with pytest.raises(UsageError, match=r"needs Euler or DDIM.*SimpleNamespace"):
        bld.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"))


def test_presets_say_which_noise_level_is_put_back() -> None:
    assert bld.resolve({}, "official")["blend"] == "current"
    assert bld.resolve({}, "matched")["blend"] == "previous"
