"""ElasticDiffusion: its parts by hand, and the identities it must obey. No numbers of the original are at hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from close import sampled
from tiny_pipelines import write_sdxl

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.schedules import make_scheduler
from methods.backbones.sdxl import sdxl
from methods.backbones.stable_diffusion import from_pretrained
from methods.direct import direct
from methods.elasticdiffusion import (
    elasticdiffusion,
    elasticdiffusion_latents,
    even_ratio,
    filled,
    kept,
    patches,
    pick,
    reference_size,
    weight_at,
)

BOAT = Prompt("boat", "a boat under one moon", "blurry")
OFF = {"resamplings": 0, "weight": 0.0, "repaint": False}  # what is left on a native square is direct sampling
DDIM = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}


def test_the_reference_has_the_canvas_shape_and_the_native_longest_side() -> None:
    assert reference_size(256, 256, 128) == (128, 128)
    assert reference_size(64, 128, 64) == (32, 64)
    assert reference_size(64, 96, 64) == (42, 64)
    assert reference_size(48, 64, 64) == (48, 64)


def test_ratios_are_of_even_numbers_up_to_thirty_two() -> None:
    assert even_ratio(64, 64) == (2, 2)
    assert even_ratio(32, 64) == (2, 4)
    assert even_ratio(42, 64) == (4, 6)  # 21/32 is odd: the nearest with 16 at most is 2/3
    assert all(n % 2 == d % 2 == 0 and d <= 32 for n, d in (even_ratio(a, 97) for a in range(12, 97)))


@pytest.mark.parametrize(("length", "wanted"), [(64, 32), (128, 64), (96, 64), (64, 42), (64, 64), (256, 64), (8, 2)])
def test_what_is_kept_of_an_axis_is_even_over_it(length: int, wanted: int) -> None:
    found = kept(length, wanted)
    assert len(found) == 2 * wanted
    assert found == sorted(set(found))
    assert found[-1] < 2 * length
    centres = np.array(found).reshape(-1, 2).mean(1) / 2
    even = (np.arange(wanted) + 0.5) * length / wanted
    assert float(np.abs(centres - even).max()) <= 4


def test_halving_keeps_one_half_of_every_cell() -> None:
    assert kept(4, 2) == [0, 3, 4, 7]
    assert kept(3, 3) == [0, 1, 2, 3, 4, 5]


def test_picks_begin_at_the_corner_and_take_what_was_not_taken_yet() -> None:
    used = np.zeros((500, 4), dtype=bool)
    dice = np.random.default_rng(0)
    first = pick(used, None, 1.0, dice)
    assert not first.any()
    passes = [first]
    for _ in range(3):
        passes.append(pick(used, passes[-1], 1.0, dice))
    assert used.all()
    assert all(len(set(group)) == 4 for group in zip(*passes, strict=True))
    assert len(set(pick(used, passes[-1], 1.0, dice).tolist())) == 4  # all taken: any will do


def test_the_share_of_new_picks_is_new_p() -> None:
    used = np.zeros((4000, 4), dtype=bool)
    dice = np.random.default_rng(0)
    before = pick(used, None, 0.3, dice)
    assert (pick(used.copy(), before, 0.0, dice) == before).all()
    assert float((pick(used, before, 0.3, dice) != before).mean()) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(("weight", "power", "last"), [(1000, 3, 27), (4000, 10, 18), (1000, 10, 16)])
def test_the_reduced_resolution_guidance_ends_where_published(weight: float, power: float, last: int) -> None:
    on = [i for i in range(50) if weight_at(i, 50, weight, power, 0.2)]
    assert on == list(range(last + 1))
    assert weight_at(0, 50, weight, power, 0.2) == weight


def test_patches_cover_the_canvas_and_the_network_always_sees_a_native_square() -> None:
    found = patches(16, 20, 8)
    assert len(found) == 4 * 5
    count = np.zeros((16, 20))
    for v, seen in found:
        count[v.y : v.y + v.height, v.x : v.x + v.width] += 1
        assert (seen.height, seen.width) == (8, 8)
        assert 0 <= seen.y <= v.y
        assert v.x + v.width <= seen.x + 8 <= 20
    assert (count == 1).all()
    assert found[6][1][:2] == (2, 2)  # a patch inside has as much on all sides
    assert [v[:2] for v, _ in patches(8, 18, 8)] == [(0, 0), (0, 4), (0, 8), (0, 12), (0, 14)]


def test_padding_is_centred_and_cut_off_again() -> None:
    asked: list[torch.Tensor] = []

    def background(side: str, size: tuple[int, int], t: Any) -> torch.Tensor:
        return torch.full((1, 1, *size), {"l": 1.0, "r": 2.0, "t": 3.0, "b": 4.0}[side])

    def call(z: torch.Tensor) -> torch.Tensor:
        asked.append(z)
        return 10 * z

    x = torch.arange(1.0, 7.0).reshape(1, 1, 2, 3).repeat(2, 1, 1, 1)
    assert torch.equal(filled(call, x, 5, torch.tensor(1), background), 10 * x)
    assert asked[0][0, 0].tolist() == [
        [3, 3, 3, 3, 3], [1, 1, 2, 3, 2], [1, 4, 5, 6, 2], [4, 4, 4, 4, 4], [4, 4, 4, 4, 4],
    ]  # fmt: skip
    assert torch.equal(filled(call, x, 2, torch.tensor(1), background), 10 * x)  # larger than asked for: as it is


def test_on_a_native_square_without_its_extras_it_is_direct_sampling(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd), precision="fp64")
    canvas, noise = Canvas(16, 16), Noise(0, BOAT.id)
    plain = direct.fn(backbone, BOAT, canvas, noise, steps=4)

    def off(**knobs: Any) -> float:
        made = elasticdiffusion.fn(backbone, BOAT, canvas, noise, steps=4, **{"guidance": 7.5, **OFF, **knobs})
        return float((made - plain).abs().max())

    assert off() < 1e-9
    assert off(guidance=7.0) > 1e-4
    assert off(repaint=True, resamplings=1) > 1e-4
    assert off(resamplings=3) < 1e-9  # all cells of a native square are the reference, whatever is picked


def run(x: torch.Tensor, **knobs: Any) -> torch.Tensor:
    """A network without neighbours: unconditional 0.1 x, direction 0.2."""
    return elasticdiffusion_latents(
        lambda z, t: (0.1 * z, 0.1 * z + 0.2),
        lambda z, t: 0.1 * z,
        make_scheduler(DDIM, 4, double=True),
        x,
        8,
        lambda side, size, t: torch.zeros(1, x.shape[1], *size, dtype=x.dtype),
        np.random.default_rng(0),
        lambda i, n: torch.randn(n, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(i)),
        **knobs,
    )


@pytest.mark.parametrize("resamplings", [0, 2])
def test_a_network_that_looks_at_single_cells_gives_the_closed_form(resamplings: int) -> None:
    x = torch.randn(1, 2, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = run(x, guidance=3.0, resamplings=resamplings, weight=0.0, repaint=False)
    expected, scheduler = x, make_scheduler(DDIM, 4, double=True)
    for t in scheduler.timesteps:
        expected = scheduler.step(0.1 * expected + 0.6, t, expected).prev_sample
    assert float((found - expected).abs().max()) < 1e-12
    assert float((run(x, guidance=2.9, resamplings=0, weight=0.0, repaint=False) - found).abs().max()) > 1e-3


def test_a_repeated_step_takes_a_third_of_the_guidance_from_the_noised_again_canvas() -> None:
    x = torch.randn(1, 2, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = run(x, guidance=3.0, resamplings=1, weight=0.0)
    scheduler: Any = make_scheduler(DDIM, 4, double=True)
    expected = x
    for i, t in enumerate(scheduler.timesteps):
        after = scheduler.step(0.1 * expected + 0.6, t, expected).prev_sample
        if i < 3:
            noises = torch.randn(250, *x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(i))
            for j in range(250):
                beta = float(scheduler.betas[scheduler.timesteps[i + 1] + j])
                after = (1 - beta) ** 0.5 * after + beta**0.5 * noises[j]
            after = scheduler.step(0.1 * after + 0.2, t, after).prev_sample
        expected = after
    assert float((found - expected).abs().max()) < 1e-9


def test_the_reduced_resolution_guidance_pulls_towards_the_reference() -> None:
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    knobs = {"guidance": 3.0, "resamplings": 0, "repaint": False}
    first: list[torch.Tensor] = []
    run(x, **knobs, weight=1000.0, after_step=lambda i, z: first.append(z))
    run(x, **knobs, weight=0.0, after_step=lambda i, z: first.append(z))
    moved = first[0] - first[4]
    scheduler: Any = make_scheduler(DDIM, 4, double=True)
    t = scheduler.timesteps[0]
    clean = scheduler.step(0.1 * x + 0.6, t, x).pred_original_sample
    rows = [i // 2 for i in kept(16, 8)][::2]
    small = clean[:, :, rows][..., rows]  # as the network looks at single cells, this is the reference's own end
    aim = torch.nn.functional.interpolate(small, size=(16, 16), mode="nearest")
    torch.testing.assert_close(moved, 2 * 1000.0 / x.numel() * (aim - clean))


def test_evaluations_are_references_in_pairs_and_patches_alone(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))
    elasticdiffusion.fn(backbone, BOAT, Canvas(32, 32), Noise(0, "a"), steps=3, resamplings=10)
    step = 11 * 2 + 16
    assert backbone.meter.cost().nfe == 3 * step + 2 * (2 + 16)  # all but the last are repeated
    assert backbone.meter.flags == []


def test_the_same_picture_comes_twice_and_batches_do_not_matter(tiny_sd: Path) -> None:
    backbone = from_pretrained(model=str(tiny_sd))

    def make(seed: int = 0, **knobs: Any) -> torch.Tensor:
        given = {"steps": 3, "resamplings": 2, **knobs}
        return elasticdiffusion.fn(backbone, BOAT, Canvas(48, 32), Noise(seed, BOAT.id), **given)

    first = make()
    assert torch.equal(first, make())
    for other in (make(1), make(resamplings=1), make(new_p=1.0), make(weight=0.0), make(repaint=False)):
        assert not torch.equal(first, other)
    backbone.batch = 1
    assert float((make() - first).abs().max()) < sampled(backbone, 3 * (1 + 2), 10.0)  # each step and two resamplings
    assert "beyond-2-native-sides" in backbone.meter.flags


def test_sdxl_is_told_four_times_the_size_and_samples_by_ddim(tmp_path: Path) -> None:
    backbone = sdxl(model=str(write_sdxl(tmp_path / "sdxl")))
    seen: list[list[float]] = []
    predict = backbone.predict

    def watched(x: Any, t: Any, embeds: Any, added: Any = None) -> Any:
        seen.extend(added["time_ids"].tolist())
        assert x.shape[-2:] == (4, 4)
        return predict(x, t, embeds, added)

    backbone.predict = watched
    made = elasticdiffusion.fn(backbone, BOAT, Canvas(32, 16), Noise(0, "a"), steps=2, resamplings=1)
    assert made.isfinite().all()
    assert {tuple(row) for row in seen} == {(64.0, 128.0, 0.0, 0.0, 64.0, 128.0)}


@pytest.mark.parametrize(
    ("canvas", "knobs", "message"),
    [
        (Canvas(128, 16), {}, r"up to 4 native sides \(64 px on idle\); at 128x16"),
        (Canvas(32, 32, loop=True), {}, "elasticdiffusion cannot make a loop"),
        (Canvas(30, 32), {}, "width must be a multiple of 4"),
        (Canvas(32, 32), {"resamplings": -1}, "resamplings must be 0 or more"),
        (Canvas(32, 32), {"new_p": 1.5}, "new_p must be 0 to 1"),
        (Canvas(32, 32), {"stop": 1.0}, "stop must be 0 to 0.99"),
    ],
)
def test_what_the_method_cannot_do_is_refused_before_the_network_is_asked(
    canvas: Canvas, knobs: dict[str, Any], message: str
) -> None:
    idle: Any = SimpleNamespace(name="idle", factor=4, patch=1, window=4)  # anything else of a backbone would raise
    with pytest.raises(UsageError, match=message):
        elasticdiffusion.fn(idle, BOAT, canvas, Noise(0, "a"), **knobs)


def test_presets_are_the_function_the_command_line_and_the_readme() -> None:
    assert elasticdiffusion.resolve({}, "official") == {
        "steps": 50, "guidance": 10.0, "resamplings": 20, "new_p": 0.3, "weight": 1000.0, "power": 3.0, "stop": 0.2,
        "repaint": True,
    }  # fmt: skip
    cli = elasticdiffusion.resolve({}, "cli")
    assert (cli["resamplings"], cli["weight"], cli["power"]) == (10, 4000.0, 10.0)
    assert elasticdiffusion.resolve({}, "readme")["resamplings"] == 7
