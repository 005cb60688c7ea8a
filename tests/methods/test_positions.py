"""Rotary tables against diffusers', rules at their limits, and networks that turn by them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.flux import flux_dev
from methods.backbones.pixart import pixart_sigma
from methods.backbones.sd3 import sd35_medium
from methods.backbones.stable_diffusion import from_pretrained
from methods.backbones.wan import wan_small
from methods.direct import direct
from methods.direct_video import direct_video
from methods.shared.positions import Axis, Rule, axes_of, grid, linear, ntk, placed, plain, rotary, yarn
from tests.support.close import products, rounding
from tests.support.tiny_pipelines import write_flux, write_pixart, write_sd3, write_wan

DIMS = (16, 56, 56)  # FLUX's
BOAT = Prompt("boat", "a boat under one moon")


def frequencies(rule: Rule, dim: int = 56) -> torch.Tensor:
    """w_j of an axis."""
    return rule(torch.arange(0, dim, 2, dtype=torch.float64) / dim)[0]


def test_plain_tables_are_those_of_flux_to_the_last_bit() -> None:
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    ids = grid((1, 20, 300))
    expected = FluxPosEmbed(10_000, list(DIMS))(ids)
    assert all(torch.equal(a, b) for a, b in zip(rotary(ids, DIMS, [plain()] * 3), expected))
    assert not torch.equal(rotary(ids, DIMS, [plain(100_000.0)] * 3)[0], expected[0])  # Scale-DiT's base


def test_plain_tables_are_those_of_wan_at_any_offset() -> None:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    rope = WanRotaryPosEmbed(128, (1, 2, 2), 64)
    dims = (rope.t_dim, rope.h_dim, rope.w_dim)
    for offset, sizes in (((0, 0, 0), (3, 4, 5)), ((1, 2, 7), (2, 2, 5))):
        whole = [t.view(3, 4, 12, 128) for t in rope(torch.zeros(1, 16, 3, 8, 24))]
        part = tuple(slice(first, first + n) for first, n in zip(offset, sizes))
        found = rotary(grid(sizes, offset), dims, [plain()] * 3)
        assert all(torch.equal(a, b[part].reshape(-1, 128)) for a, b in zip(found, whole))
        elsewhere = rotary(grid(sizes, (1, 2, 6)), dims, [plain()] * 3)
        assert not torch.equal(elsewhere[0], found[0])


def test_a_grid_counts_in_steps_from_its_offset_in_raster_order() -> None:
    assert grid((2, 2), (0, -1), step=4.0).tolist() == [[0, -1], [0, 3], [4, -1], [4, 3]]
    assert grid((3,)).tolist() == [[0], [1], [2]]


def test_anchors_further_apart_meet_the_positions_they_stand_for() -> None:
    coarse, fine = (rotary(grid((8 // r, 8 // r), step=r), (8, 8), [plain()] * 2)[0] for r in (4, 1))
    assert torch.equal(coarse.view(2, 2, 16), fine.view(8, 8, 16)[::4, ::4])


def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest() -> None:
    ratio = frequencies(plain()) / frequencies(ntk(4.0))
    assert float(ratio[0]) == 1.0
    assert float(ratio[-1]) == pytest.approx(4.0, rel=1e-12)  # float64, a few roundings
    assert (ratio.diff() > 0).all()
    assert torch.equal(frequencies(ntk(4.0, power=0.0)), frequencies(plain()))
    assert torch.equal(frequencies(ntk(4.0), dim=2), frequencies(plain(), dim=2))  # one frequency: no base to change


def test_yarn_keeps_fast_pairs_divides_slow_ones_and_lies_between() -> None:
    found, base = frequencies(yarn(4.0, 64)), frequencies(plain())
    turns = 64 * base / math.tau  # on the native axis
    assert float(found[0]) == float(base[0])
    slow = turns < 0.5  # the thresholds, rounded outwards to whole pairs
    torch.testing.assert_close(found[slow], frequencies(linear(4.0))[slow], rtol=1e-12, atol=0)
    close = 1 + 1e-12  # float64, a few roundings
    assert ((found <= base) & (found * close >= base / 4)).all()
    assert yarn(4.0, 64)(torch.zeros(28))[1] == pytest.approx(1.138629436, abs=1e-9)  # 0.1 ln 4 + 1
    faster = frequencies(yarn(4.0, 64, kept=(4.0, 0.5), interpolated=(0.3, 0.2)))
    assert (faster >= found).all()
    assert (faster > found).any()


def test_yarn_whose_thresholds_are_never_reached_keeps_every_frequency() -> None:
    low = 1e-9
    far = yarn(4.0, 64, interpolated=(1.25 * low, 0.75 * low), kept=(16 * low, 2 * low))
    assert torch.equal(frequencies(far), frequencies(plain()))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return flux_dev(model=str(write_flux(tmp_path_factory.mktemp("flux"))))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return wan_small(model=str(write_wan(tmp_path_factory.mktemp("wan"))))


def test_the_axes_of_a_network_and_what_they_were_trained_on(flux: Any, wan: Any) -> None:
    assert axes_of(flux, "x") == (Axis(4, 10_000, 1), Axis(4, 10_000, 64), Axis(8, 10_000, 64))
    assert axes_of(wan, "x") == (Axis(4, 10_000, 21), Axis(4, 10_000, 30), Axis(4, 10_000, 52))


def test_networks_without_rotary_positions_are_refused_by_name(tiny_sd: Path, tmp_path: Path) -> None:
    others = (
        from_pretrained(model=str(tiny_sd)),
        sd35_medium(model=str(write_sd3(tmp_path / "sd3"))),
        pixart_sigma(model=str(write_pixart(tmp_path / "pixart"))),
    )
    for backbone in others:
        with pytest.raises(UsageError, match=f"dype changes rotary positions, and backbone {backbone.name} has none"):
            axes_of(backbone, "dype")


def sample(backbone: Any) -> torch.Tensor:
    if backbone.family == "video":
        return direct_video.fn(backbone, BOAT, Canvas(48, 32), Noise(0, "boat"), steps=2)
    return direct.fn(backbone, BOAT, Canvas(48, 16), Noise(0, "boat"), steps=2)


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_plain_rules_in_a_networks_place_change_no_bit_and_others_do(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    before, axes = sample(backbone), axes_of(backbone, "x")
    with placed(backbone, axes) as table:
        assert torch.equal(sample(backbone), before)
        table.rules = [ntk(3.0)] * 3
        assert not torch.equal(sample(backbone), before)
    assert torch.equal(sample(backbone), before)  # and its own table is back


def test_what_decides_on_wan_is_distance_between_tokens_not_where_they_begin(wan: Any) -> None:
    x = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    told = wan.condition("a boat")
    with placed(wan, axes_of(wan, "x")) as table:
        plain_ = wan.predict(x, 500.0, told.embeds[1:])
        table.offset = (5.0, 0.0, 9.0)
        shifted = wan.predict(x, 500.0, told.embeds[1:])
        table.rules = [plain(3.0)] * 3
        other = wan.predict(x, 500.0, told.embeds[1:])
    close = rounding(float(plain_.abs().max()), products(wan.network))
    assert 0 < float((shifted - plain_).abs().max()) < close < float((other - plain_).abs().max()) / 2


def test_the_networks_own_table_comes_back_after_an_error(flux: Any) -> None:
    own = flux.transformer.pos_embed

    def one_rule_of_three() -> None:
        with placed(flux, axes_of(flux, "x")) as table:
            table.rules = [plain()]
            sample(flux)

    with pytest.raises(ValueError, match="zip"):
        one_rule_of_three()
    assert flux.transformer.pos_embed is own
