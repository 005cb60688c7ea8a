"""Tiled Diffusion as a chain of tiles: against the procedure written out, and the identities it must obey."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from close import sampled

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.schedules import make_scheduler
from methods.backbones.stable_diffusion import from_pretrained
from methods.direct import direct_latents
from methods.tileddiffusion import Tile, tileddiffusion, tileddiffusion_latents, tiles

BOAT = Prompt("boat", "a boat under one moon", "blurry")
DDPM = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1,
    "timestep_spacing": "leading",
}  # fmt: skip


def scheduler(steps: int) -> Any:
    config = {**DDPM, "_class_name": "DDIMScheduler", "set_alpha_to_one": True}
    return make_scheduler(config, steps, double=True)


def network(z: torch.Tensor, t: Any) -> torch.Tensor:
    """Looks three cells to both sides, as far as its view goes."""
    spread = torch.nn.functional.avg_pool2d(z, (1, 7), stride=1, padding=(0, 3), count_include_pad=False)
    return 0.3 * z - 0.5 * spread + 0.001 * float(t) * spread.roll(1, 1)


def noise_of(shape: tuple[int, ...]) -> Any:
    return lambda i: torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + i))


def by_the_book(canvas: torch.Tensor, side: int, w: int, loop: bool, eta: float, steps: int) -> torch.Tensor:
    """Every tile an array of its own with its context, contexts overwritten before each step and after the last."""
    from diffusers import DDIMScheduler

    count = canvas.shape[-1] // side
    own = [canvas[..., i * side : (i + 1) * side] for i in range(count)]
    sampler = DDIMScheduler(**DDPM, set_alpha_to_one=True)
    sampler.alphas_cumprod = sampler.alphas_cumprod.double()
    sampler.set_timesteps(steps)

    def joined() -> list[torch.Tensor]:
        found = []
        for i, tile in enumerate(own):
            before, after = own[i - 1][..., side - w :], own[(i + 1) % count][..., :w]
            parts = [before] * (loop or i > 0) + [tile] + [after] * (loop or i < count - 1)
            found.append(torch.cat(parts, dim=-1))
        return found

    for k, t in enumerate(sampler.timesteps):
        fresh = noise_of(tuple(canvas.shape))(k)
        after = []
        for i, tile in enumerate(joined()):
            at = w if loop or i > 0 else 0
            noise = torch.zeros_like(tile)  # what contexts get is thrown away
            noise[..., at : at + side] = fresh[..., i * side : (i + 1) * side]
            stepped = sampler.step(network(tile, t), t, tile, eta=eta, variance_noise=noise).prev_sample
            after.append(stepped[..., at : at + side])
        own = after
    return torch.cat(own, dim=-1)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_it_is_the_procedure_with_contexts_overwritten_tile_by_tile(loop: bool, count: int, eta: float) -> None:
    canvas = torch.randn(1, 2, 6, 6 * count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fresh = noise_of(tuple(canvas.shape))
    found = tileddiffusion_latents(network, scheduler(4), canvas, tiles(6, 6 * count, 6, 3, loop), fresh, eta=eta)
    assert float((found - by_the_book(canvas, 6, 3, loop, eta, 4)).abs().max()) < 1e-9
    if count > 1 or loop:
        assert float((found - by_the_book(canvas, 6, 2, loop, eta, 4)).abs().max()) > 1e-3


def test_full_noise_is_ddpm_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    canvas = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain: Any = DDPMScheduler(**DDPM)
    plain.alphas_cumprod = plain.alphas_cumprod.double()
    plain.set_timesteps(4)
    expected, dice = canvas, torch.Generator().manual_seed(5)
    for t in plain.timesteps:
        expected = plain.step(network(expected, t), t, expected, generator=dice).prev_sample
    dice = torch.Generator().manual_seed(5)
    noises = [torch.randn(canvas.shape, dtype=torch.float64, generator=dice) for _ in range(4)]

    def run(eta: float) -> float:
        row = tiles(6, 6, 6, 3)
        found = tileddiffusion_latents(network, scheduler(4), canvas, row, lambda i: noises[i], eta=eta)
        return float((found - expected).abs().max())

    assert run(1.0) < 1e-5
    assert run(0.9) > 1e-2


def test_one_tile_without_noise_is_direct_sampling() -> None:
    canvas = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = direct_latents(network, scheduler(4), canvas)
    for loop, same in ((False, True), (True, False)):
        row = tiles(6, 6, 6, 3, loop)
        found = tileddiffusion_latents(network, scheduler(4), canvas, row, noise_of((1, 2, 6, 6)), eta=0.0)
        assert torch.equal(found, expected) is same


def test_the_order_of_tiles_does_not_matter_and_a_turned_loop_gives_a_turned_picture() -> None:
    canvas = torch.randn(1, 2, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    row = tiles(6, 24, 6, 2, loop=True)

    def run(x: torch.Tensor, tiles: list[Tile]) -> torch.Tensor:
        return tileddiffusion_latents(network, scheduler(3), x, tiles, noise_of((1, 2, 6, 24)), eta=0.0)

    plain = run(canvas, row)
    assert float((run(canvas, row[::-1]) - plain).abs().max()) < 1e-12
    assert float((run(canvas.roll(12, -1), row) - plain.roll(12, -1)).abs().max()) < 1e-12
    assert float((run(canvas.roll(1, -1), row) - plain.roll(1, -1)).abs().max()) > 1e-3


def test_a_context_as_wide_as_the_network_looks_leaves_no_seams() -> None:
    canvas = torch.randn(1, 2, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def round_about(z: torch.Tensor, t: Any) -> torch.Tensor:
        return network(torch.cat([z[..., -3:], z, z[..., :3]], dim=-1), t)[..., 3:-3]

    whole = direct_latents(round_about, scheduler(3), canvas)

    def off(context: int) -> float:
        row = tiles(6, 24, 6, context, loop=True)
        found = tileddiffusion_latents(network, scheduler(3), canvas, row, noise_of((1, 2, 6, 24)), eta=0.0)
        return float((found - whole).abs().max())

    assert off(3) < 1e-12
    assert off(2) > 1e-3


def test_without_context_tiles_know_nothing_of_each_other() -> None:
    canvas = torch.randn(1, 2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def left(x: torch.Tensor, context: int) -> torch.Tensor:
        row = tiles(6, 12, 6, context)
        return tileddiffusion_latents(network, scheduler(3), x, row, noise_of((1, 2, 6, 12)), eta=0.0)[..., :6]

    other = canvas.clone()
    other[..., 6:] += 1
    assert torch.equal(left(canvas, 0), left(other, 0))
    assert not torch.equal(left(canvas, 3), left(other, 3))


def test_tiles_at_open_ends_see_one_neighbour() -> None:
    assert tiles(8, 24, 8, 4) == [Tile(0, 8, 0, 4), Tile(8, 8, 4, 4), Tile(16, 8, 4, 0)]
    assert tiles(8, 16, 8, 8, loop=True) == [Tile(0, 8, 8, 8), Tile(8, 8, 8, 8)]
    x = torch.arange(16.0).reshape(1, 1, 1, 16)
    assert Tile(8, 8, 2, 3).seen(x).flatten().tolist() == [6, 7, *range(8, 16), 0, 1, 2]
    assert Tile(8, 8, 2, 3).core(Tile(8, 8, 2, 3).seen(x)).flatten().tolist() == list(range(8, 16))


def test_tiles_are_said_in_cells_where_nobody_says_what_a_cell_is() -> None:
    with pytest.raises(UsageError, match="square tiles of 8 cells in one row; got 20x8 cells, ask for 16x8 or 24x8"):
        tiles(8, 20, 8, 4)
    with pytest.raises(UsageError, match="square tiles of 64 px in one row; got 160x64 px, ask for 128x64 or 192x64"):
        tiles(8, 20, 8, 4, factor=8)


def test_the_same_picture_comes_twice_and_knobs_seeds_and_loops_matter(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))

    def make(seed: int = 0, loop: bool = False, **knobs: Any) -> torch.Tensor:
        return tileddiffusion.fn(backbone, BOAT, Canvas(48, 16, loop), Noise(seed, BOAT.id), steps=3, **knobs)

    first = make()
    assert torch.equal(first, make())
    assert all(not torch.equal(first, x) for x in (make(1), make(loop=True), make(eta=0.0), make(context=1)))
    backbone.batch = 1
    assert float((make() - first).abs().max()) < sampled(backbone, 3, 7.5)


def test_evaluations_are_steps_times_tiles_times_two(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    tileddiffusion.fn(backbone, BOAT, Canvas(64, 16), Noise(0, "a"), steps=3)
    assert backbone.meter.cost().nfe == 3 * 4 * 2


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(64, 32), {}, "square tiles of 16 px in one row; got 64x32 px, ask for 64x16 or 80x16"),
        (Canvas(56, 16), {}, "got 56x16 px, ask for 48x16 or 64x16"),
        (Canvas(64, 16), {"context": 5}, "0 to 4 cells, got 5"),
        (Canvas(64, 16), {"tile": 0}, "at least one cell"),
        (Canvas(64, 16), {"eta": -0.1}, "eta must be 0 to 1"),
    ],
)
def test_a_canvas_that_does_not_fit_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        tileddiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_presets_are_the_released_scripts() -> None:
    official = tileddiffusion.resolve({}, "official")
    assert (official["steps"], official["guidance"], official["eta"]) == (40, 7.5, 1.0)
    assert tileddiffusion.resolve({}, "sdxl")["guidance"] == 7.0
