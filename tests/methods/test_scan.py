"""Scans: Wan's own positions wherever a frame stands, the camera's way, and what each frame counts for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from methods.shared.positions import grid, plain, rotary
from methods.shared.scan import Scan, agreed, lay, ramp, shares
from tests.support.close import UNIT, rounding

WAN = (21, 30, 52)  # the native clip of Wan 2.1, in tokens
DIMS = (44, 42, 42)  # of a head's 128 channels: time, rows, columns
RULES = [plain()] * 3


def wan_rope() -> Any:
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

    rope = WanRotaryPosEmbed(128, (1, 2, 2), 1024)
    assert (rope.t_dim, rope.h_dim, rope.w_dim) == DIMS
    return rope


def test_tokens_on_one_point_of_the_canvas_differ_in_time_alone_on_wans_real_table() -> None:
    scan, rope = lay((30, 240), WAN), wan_rope()
    assert scan == Scan((30, 52), 10, (1, 20))
    for own, ours in zip((rope.freqs_cos, rope.freqs_sin), rotary(scan.positions(), DIMS, RULES)):
        time, rows, columns = own.split(DIMS, dim=1)
        frames = [t.view(20, 30, 52, -1) for t in ours.split(DIMS, dim=1)]
        for t in (0, 3, 19):
            assert torch.equal(frames[0][t], time[t].expand(30, 52, -1))
            assert torch.equal(frames[1][t], rows[:30, None].expand(-1, 52, -1))
            assert torch.equal(frames[2][t], columns[10 * t : 10 * t + 52].expand(30, -1, -1))
        for axis, same in zip(frames, (False, True, True)):  # 25 + 3 * 10 = 5 + 5 * 10
            assert torch.equal(axis[3, :, 25], axis[5, :, 5]) is same
        without = rotary(grid((20, 30, 52)), DIMS, RULES)[0].view(20, 30, 52, -1)
        assert not torch.equal(without[3, :, 25, 86:], without[5, :, 5, 86:])  # the control: positions in the frame


def test_one_frame_at_the_corner_is_wans_own_embedding() -> None:
    scan = lay((30, 52), WAN)
    assert scan.stops == (1, 1)
    own = wan_rope()(torch.zeros(1, 16, 1, 60, 104))
    ours = rotary(scan.positions(), DIMS, RULES)
    assert all(torch.equal(a[None, :, None], b) for a, b in zip(ours, own))
    moved = rotary(scan.positions() + torch.tensor([0.0, 0.0, 1.0]), DIMS, RULES)
    assert not torch.equal(moved[0][None, :, None], own[0])


@pytest.mark.parametrize("place", [(20, 1_030, 5_000), (700, 12_345, 1_000_003)])
def test_positions_far_beyond_the_table_are_exact(place: tuple[int, int, int]) -> None:
    cos, sin = rotary(torch.tensor([place]), DIMS, RULES)
    angles = [
        np.longdouble(p) * np.longdouble(10_000) ** (-np.arange(0, d, 2, dtype=np.longdouble) / d)
        for p, d in zip(place, DIMS)
    ]
    exact = np.concatenate(angles).repeat(2)
    for found, function in ((cos, np.cos), (sin, np.sin)):
        off = np.abs(found[0].numpy() - function(exact)).max()
        assert off < UNIT["float32"]  # numbers below 1, rounded once
        single = function(np.concatenate(angles).repeat(2).astype(np.float32)).astype(np.float64)
        assert np.abs(single - function(exact)).max() > 100 * UNIT["float32"]  # the control: angles in float32


def test_a_snake_visits_every_place_once_each_beside_the_one_before() -> None:
    scan = lay((64, 512), WAN, "snake")
    assert scan == Scan((30, 52), 15, (4, 32))
    assert sorted(scan.places) == [(i, j) for i in range(4) for j in range(32)]
    anchors = torch.tensor(scan.anchors)
    assert scan.anchors[0] == (0, 0)
    assert (anchors.diff(dim=0).abs().sum(dim=1) == 15).all()  # delta, in one direction
    assert (scan.anchors[31], scan.anchors[32], scan.anchors[33]) == ((0, 465), (15, 465), (15, 450))
    raster = 15 * torch.tensor(sorted(scan.places))
    assert int(raster.diff(dim=0).abs().sum(dim=1).max()) > 15  # the control: line by line from the left


@pytest.mark.parametrize("mode", ["auto", "right", "down", "snake"])
def test_frames_cover_the_canvas_and_overlap_by_half(mode: str) -> None:
    for size in ((30, 240), (32, 256), (240, 30), (64, 512), (1, 2048), (7, 9), (53, 53), (30, 53)):
        scan = lay(size, WAN, mode)
        for whole, far, side in zip(scan.covered, size, scan.frame):
            assert 0 <= whole - far < scan.step
            assert side <= far
            assert whole == far == side or scan.step <= max(1, side // 2)
        assert len(scan.anchors) == scan.stops[0] * scan.stops[1]
        assert scan.positions().shape == (len(scan.anchors) * scan.frame[0] * scan.frame[1], 3)


@pytest.mark.parametrize(
    ("size", "frame", "stops"),
    [
        ((30, 240), (30, 52), (1, 20)),  # 3840x480
        ((240, 30), (52, 30), (20, 1)),
        ((32, 256), (32, 52), (1, 20)),  # 4096x512
        ((52, 60), (52, 52), (1, 9)),  # the shorter side is no longer than a native frame's longer one
        ((53, 60), (30, 52), (3, 2)),
        ((20, 40), (20, 40), (1, 1)),  # smaller than native: one frame
    ],
)
def test_a_camera_pans_along_the_longer_side_and_goes_in_lines_where_frames_would_grow(
    size: tuple[int, int], frame: tuple[int, int], stops: tuple[int, int]
) -> None:
    scan = lay(size, WAN)
    assert (scan.frame, scan.stops) == (frame, stops)


def test_a_pan_of_the_miniatures_size_has_its_studied_frames() -> None:
    """Frames of 8 cells, 4 tokens, half a frame apart: 15 over 256 px."""
    assert lay((4, 32), (15, 4, 4)) == Scan((4, 4), 2, (1, 15))
    assert lay((4, 32), (15, 4, 4), step=1) == Scan((4, 4), 1, (1, 29))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mode": "snail"}, "unknown scan 'snail'; did you mean 'snake'"),
        ({"frame": (None, 61)}, "frame_width is 1 to 60 tokens, the canvas's width; got 61; nearest: 60"),
        ({"frame": (0, None)}, "frame_height is 1 to 8 tokens, the canvas's height; got 0; nearest: 1"),
        ({"frame": (4, None)}, "scan=right shows the whole height .* 8 tokens, and frame_height is 4: .*scan=snake"),
        ({"frame": (None, 4), "mode": "down"}, "scan=down shows the whole width"),
        ({"step": 53}, r"step is 1 to 52 tokens, or gaps stay empty .*52x8 tokens; got 53; nearest: 52"),
        ({"step": 0}, "got 0; nearest: 1"),
        ({"step": 5, "mode": "snake", "frame": (4, 4)}, "step is 1 to 4 tokens"),
    ],
)
def test_scans_that_cannot_be_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lay((8, 60), WAN, **more)


# -- shares


@pytest.mark.parametrize(("stops", "length", "step"), [(1, 7, 3), (2, 8, 8), (5, 8, 3), (20, 832, 160)])
def test_the_frames_shares_of_every_place_sum_to_one(stops: int, length: int, step: int) -> None:
    ours, own = shares(stops, length, step), ramp(length)
    sums, plain_ = (torch.zeros((stops - 1) * step + length, dtype=torch.float64) for _ in range(2))
    for i, share in enumerate(ours):
        sums[i * step : i * step + length] += share
        plain_[i * step : i * step + length] += own
    assert float((sums - 1).abs().max()) < rounding(1.0, stops, "float64")
    assert float((plain_ - 1).abs().max()) > 0.1  # the control: ramps alone
    assert (ours > 0).all()


def test_a_frame_alone_has_shares_of_exactly_one_and_ramps_fall_off_to_both_edges() -> None:
    assert torch.equal(shares(1, 9, 4), torch.ones(1, 9, dtype=torch.float64))
    assert (3 * ramp(5)).round().tolist() == [1, 2, 3, 2, 1]
    assert ramp(4).tolist() == [0.4, 0.8, 0.8, 0.4]


def test_frames_that_are_brought_to_agree_have_the_mean_of_all_that_show_a_cell() -> None:
    windows = lay((2, 6), (3, 2, 2), step=1).windows(1)
    clip = torch.randn(1, 3, len(windows), 2, 2, generator=torch.Generator().manual_seed(0))
    ours = agreed(clip, windows)
    expected = (clip[:, :, 0, :, 1] + clip[:, :, 1, :, 0]) / 2
    for frame, column in ((0, 1), (1, 0)):
        torch.testing.assert_close(ours[:, :, frame, :, column], expected, atol=rounding(4.0, 2), rtol=0)
    assert torch.equal(ours[:, :, 0, :, 0], clip[:, :, 0, :, 0])  # shown by one frame
    torch.testing.assert_close(agreed(ours, windows), ours, atol=rounding(4.0, 2), rtol=0)
    assert float((ours - clip).abs().max()) > 0.1
