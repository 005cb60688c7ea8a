"""Sparse attention against the whole table of scores; the GPU kernel's block mask against the table of pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.pipeline.meta import counting
from methods.shared import sparse_attention
from methods.shared.orders import ORDERS
from methods.shared.sparse_attention import block_mask, choose, tables
from methods.shared.token_layout import BLOCK, HIGH, Layout, blocks, pairs
from tests.methods.test_token_layout import LAYOUTS, RULES, mask

WITHIN = 1e-5


def numbers(layout: Layout, heads: int = 2, width: int = 8) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, heads, layout.length, width, generator=generator) for _ in range(3))


def dense(layout: Layout, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The reference: every score, then minus infinity where a pair is not allowed."""
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~mask(layout), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_gather_is_the_dense_reference_on_any_canvas(order: str, rule: dict[str, Any]) -> None:
    for layout in LAYOUTS:
        case = replace(layout, order=order, **rule)
        given = numbers(case)
        off = choose(case, "cpu").attend(*given) - dense(case, *given)
        assert float(off.abs().max()) < WITHIN


@pytest.mark.parametrize("changes", [{"radius": 3}, {"neighbours": "raster"}, {"low_text": True}, {"order": "raster"}])
def test_another_layout_is_no_rounding(changes: dict[str, Any]) -> None:
    layout = LAYOUTS[0]
    given = numbers(layout)
    assert float((choose(replace(layout, **changes), "cpu").attend(*given) - dense(layout, *given)).abs().max()) > 0.01


def test_a_gather_in_pieces_is_the_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    given = numbers(LAYOUTS[0])
    whole = choose(LAYOUTS[0], "cpu").attend(*given)
    monkeypatch.setattr(sparse_attention, "ROOM", 1)
    assert float((choose(LAYOUTS[0], "cpu").attend(*given) - whole).abs().max()) < WITHIN


def test_tiles_of_one_token_compute_allowed_products_only_and_others_little_more() -> None:
    for radius, surplus in ((2, 1.0), (8, 20**2 / 17**2)):
        layout = Layout((64, 64), 0, 0, 2 * radius, radius)
        table, _ = tables(layout)[HIGH]
        assert table is not None
        inside = [i for i, q in enumerate(table.queries) if table.seen[i].any(0).all()]  # away from the edges
        assert table.seen[inside].numel() / int(table.seen[inside].sum()) == pytest.approx(surplus, abs=1e-9)
        assert int(table.seen.sum()) == pairs(layout)


def test_gradients_are_those_of_the_dense_reference() -> None:
    layout = LAYOUTS[0]
    grads = []
    for attend in (choose(layout, "cpu").attend, lambda q, k, v: dense(layout, q, k, v)):
        given = [t.requires_grad_() for t in numbers(layout)]
        grads.append(torch.autograd.grad(attend(*given).square().sum(), given))
    assert all(float((a - b).abs().max()) < WITHIN for a, b in zip(*grads))
    assert float(grads[0][0].abs().max()) > 0.1


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("order", ["window", "hilbert"])
def test_the_kernels_block_mask_holds_the_blocks_and_its_rule_the_pairs(order: str) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    layout = Layout((16, 32), 40, 4, 8, 4, 1, order)
    made = block_mask(layout)
    some, full = blocks(layout)
    assert torch.equal(made.to_dense()[0, 0].bool(), some)
    assert int(made.full_kv_num_blocks.sum()) == int(full.sum())
    given = numbers(layout)
    off = flex_attention(*given, block_mask=made) - dense(layout, *given)  # not compiled: the rule alone decides
    assert float(off.abs().max()) < WITHIN
    other = flex_attention(*given, block_mask=block_mask(replace(layout, radius=3)))
    assert float((other - dense(layout, *given)).abs().max()) > 0.01


def test_one_function_chooses_by_device_and_says_what() -> None:
    layout = LAYOUTS[0]
    assert choose(layout, "cpu").name == "gather"
    assert choose(layout, "meta").name == "counted"
    assert choose(replace(layout, ratio=0, radius=None), "cpu").name == "sdpa"


def test_on_the_meta_device_the_products_of_whole_blocks_are_counted() -> None:
    layout = Layout((64, 64), 512, 4)
    q = torch.empty(1, 3, layout.length, 16, device="meta")
    attend = choose(layout, "meta").attend
    with counting() as tally:
        assert attend(q, q, q).shape == q.shape
    products = int(blocks(layout)[0].sum()) * BLOCK**2
    assert tally.attention == 4 * 3 * 16 * products
    assert pairs(layout) < products < layout.length**2
