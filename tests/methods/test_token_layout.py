"""Orders, masks and positions of Scale-DiT's tokens: against the released numbers and their own definitions."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from methods.shared.bridged import turned
from methods.shared.orders import ORDERS, permutation
from methods.shared.positions import Axis
from methods.shared.token_layout import Layout, Tokens, allowed, blocks, pairs, tokens
from tests.support.golden_cases import load_arrays

ENTRY, ARRAYS = load_arrays("scaledit_1024x1024")
RELEASED = Layout((64, 64), 512, neighbours="raster")
FLUX = tuple(Axis(dim, 10_000.0, native) for dim, native in ((16, 1), (56, 64), (56, 64)))

LAYOUTS = [
    Layout((16, 32), 7, 4, 8, 4, 1), Layout((8, 24), 5, 2, 4, 2, 1), Layout((4, 16), 3, 2, 2, 1, 0),
    Layout((6, 12), 4, 3, 6, 3, 1), Layout((8, 8), 4, 0, 4, 2),
]  # fmt: skip
RULES: list[dict[str, Any]] = [
    {}, {"neighbours": "raster"}, {"low_text": True}, {"low_seen": True, "low_radius": None, "low_text": True},
    {"radius": None},
]  # fmt: skip


def mask(layout: Layout) -> torch.Tensor:
    """The whole table of pairs."""
    every = tokens(layout)
    return allowed(Tokens(*(t[:, None] for t in every)), Tokens(*(t[None] for t in every)), layout)


# -- against the released numbers


def test_the_mask_is_the_released_one_in_every_entry() -> None:
    found = mask(RELEASED)
    packed = hashlib.sha256(np.packbits(found.numpy(), axis=1).tobytes()).hexdigest()
    assert packed == ENTRY["token_mask_sha256_of_packbits"]
    assert int(found.sum()) == ENTRY["token_mask_true_entries"] == pairs(RELEASED)


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [({"neighbours": "plane"}, "two-dimensional"), ({"low_text": True}, "LR tokens may attend")],
)
def test_another_rule_differs_from_the_released_mask_by_as_much_as_stated(
    changes: dict[str, Any], mistake: str
) -> None:
    (stated,) = [v for k, v in ENTRY["negative_controls"].items() if k.startswith(mistake)]
    assert int((mask(replace(RELEASED, **changes)) ^ mask(RELEASED)).sum()) == stated


def test_the_block_mask_is_the_released_one() -> None:
    released = torch.from_numpy(np.unpackbits(ARRAYS["block_mask"].numpy(), axis=1)[:, :76].astype(bool))
    some, full = blocks(RELEASED, 128, 64)
    assert torch.equal(some, released)
    assert int(some.sum()) == ENTRY["block_mask_true_entries"]
    assert not torch.equal(blocks(replace(RELEASED, neighbours="plane"), 128, 64)[0], released)
    assert not (full & ~some).any()


def test_orders_are_the_released_ones() -> None:
    high, low = RELEASED.orders
    assert torch.equal(high, ARRAYS["hr_permutation"].long())
    assert torch.equal(low, ARRAYS["lr_permutation"].long())
    released = ARRAYS["hilbert_window_permutation"].long()
    assert torch.equal(permutation((64, 64), 16, "hilbert-released"), released)
    assert not torch.equal(permutation((64, 64), 16, "hilbert-window"), released)  # which is no Hilbert curve


def test_positions_are_the_released_ones() -> None:
    some = ARRAYS["rope_tokens"].long()
    for ntk, equal in ((10.0, True), (1.0, False)):
        table = turned(RELEASED, FLUX, ntk)
        off = max(float((t[some] - ARRAYS[n]).abs().max()) for t, n in zip(table, ("rope_cos", "rope_sin")))
        assert (off < 1e-6) is equal
    bare = turned(replace(RELEASED, ratio=0), FLUX, 10.0)[0]  # without low tokens the network's own base
    assert torch.equal(bare, turned(replace(RELEASED, ratio=0), FLUX, 1.0)[0])


def test_the_papers_saving_of_attention_at_8192_px_is_all_blocks_over_those_of_the_released_mask() -> None:
    layout = Layout((512, 512), 512, neighbours="raster")
    some, _ = blocks(layout, 128, 64)
    assert round(some.numel() / int(some.sum()), 1) == 130.4
    # Of exact products, beside plain FLUX, which has no low tokens: more.
    assert (layout.high + 512) ** 2 / pairs(layout) == pytest.approx(193.7, abs=0.05)
    assert (layout.high + 512) ** 2 / pairs(replace(layout, neighbours="plane")) == pytest.approx(181.6, abs=0.05)


# -- against their own definitions


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("grid", "window"), [((8, 8), 4), ((16, 64), 16), ((6, 15), 3)])
def test_every_order_is_a_bijection(order: str, grid: tuple[int, int], window: int) -> None:
    assert permutation(grid, window, order).sort().values.tolist() == list(range(grid[0] * grid[1]))


@pytest.mark.parametrize("side", [1, 2, 4, 8, 32])
def test_hilberts_curve_takes_unit_steps_on_squares_of_powers_of_two(side: int) -> None:
    order = permutation((side, side), side, "hilbert")
    steps = (order // side).diff().abs() + (order % side).diff().abs()
    assert (steps == 1).all()
    assert torch.equal(order, permutation((side, side), side, "hilbert-window"))


@pytest.mark.parametrize(("order", "side"), [("hilbert", 6), ("hilbert-released", 4), ("raster", 4), ("window", 4)])
def test_other_grids_and_other_orders_do_not(order: str, side: int) -> None:
    found = permutation((side, side), side, order)
    assert ((found // side).diff().abs() + (found % side).diff().abs()).max() > 1


def test_hilberts_curve_on_other_grids_is_that_of_the_square_around_without_what_lies_outside() -> None:
    whole = permutation((8, 8), 8, "hilbert")
    inside = [(int(i) // 8, int(i) % 8) for i in whole if i // 8 < 5 and i % 8 < 6]
    assert [y * 6 + x for y, x in inside] == permutation((5, 6), 1, "hilbert").tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_counts_and_blocks_are_those_of_the_whole_mask(order: str) -> None:
    for layout in LAYOUTS:
        for rule in RULES:
            case = replace(layout, order=order, **rule)
            table = mask(case)
            assert int(table.sum()) == pairs(case)
            for q, k in ((16, 8), (128, 64)):
                short = torch.nn.functional.pad(table, (0, -case.length % k, 0, -case.length % q))
                cut = short.view(short.shape[0] // q, q, short.shape[1] // k, k).transpose(1, 2).flatten(2)
                some, full = blocks(case, q, k)
                assert torch.equal(some, cut.any(2))
                assert not (full & ~cut.all(2)).any()


def test_the_edge_of_a_row_sees_the_far_end_of_the_next_by_number_only() -> None:
    plane, raster = (mask(replace(RELEASED, neighbours=n, order="raster")) for n in ("plane", "raster"))
    last_of_first_row, low = 512 + 63, 512 + 64 * 64
    beyond = low + 4 * 16  # row 4, column 0: the first window of the second row of windows
    assert (bool(plane[last_of_first_row, beyond]), bool(raster[last_of_first_row, beyond])) == (False, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "hilbrt"}, "unknown order of tokens 'hilbrt'; did you mean 'hilbert'"),
        ({"neighbours": "planes"}, "unknown rule of neighbours 'planes'; did you mean 'plane'"),
        ({"grid": (60, 64)}, "60x64 tokens is not whole windows of 16"),
        ({"ratio": 3}, "not whole low-resolution tokens of 3"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(RELEASED, **changes)
