"""Counting on the meta device: operations by hand, live memory, and adding up from memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.pipeline.meta import counting, remembered

META = torch.device("meta")


def test_products_and_convolutions_count_two_operations_each() -> None:
    linear = torch.nn.Linear(30, 50, device=META)
    conv = torch.nn.Conv2d(4, 8, 3, padding=1, device=META)
    with counting() as tally, torch.no_grad():
        linear(torch.empty(7, 30, device=META))
        conv(torch.empty(2, 4, 10, 20, device=META))
    assert tally.other == 2 * 7 * 30 * 50 + 2 * (2 * 10 * 20) * 8 * (4 * 9)
    assert tally.attention == 0


def test_attention_is_counted_apart_and_keeps_no_score_matrix() -> None:
    q = torch.empty(2, 3, 1000, 16, device=META)
    k = torch.empty(2, 3, 500, 16, device=META)
    with counting() as tally, torch.no_grad():
        out = scaled_dot_product_attention(q, k, k)
        fused = tally.attention
        assert tally.peak == out.numel() * 4
        torch.matmul(q, k.transpose(-1, -2))
    assert out.shape == q.shape
    assert fused == 4 * 2 * 3 * 1000 * 500 * 16
    assert tally.attention == fused * 3 // 2  # written out, a product of a batch counts as attention too
    assert tally.peak >= 2 * 3 * 1000 * 500 * 4


def test_a_layer_whose_weight_is_spread_to_a_batch_is_no_attention() -> None:
    layer = torch.nn.Linear(16, 8, bias=False, device=META)
    with counting() as tally, torch.no_grad():
        layer(torch.empty(2, 16, 100, device=META).transpose(1, 2))
    assert (tally.attention, tally.other) == (0, 2 * 2 * 100 * 16 * 8)


def test_gradients_through_attention_cost_five_more_products() -> None:
    q = torch.empty(1, 1, 10, 4, device=META, requires_grad=True)
    with counting() as tally:
        scaled_dot_product_attention(q, q, q).sum().backward()
    assert tally.attention == (2 + 5) * 2 * 10 * 10 * 4
    assert q.grad is not None


def test_numbers_off_the_meta_device_are_computed_as_ever() -> None:
    q = torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = scaled_dot_product_attention(q, q, q)
    with counting() as tally:
        assert torch.equal(scaled_dot_product_attention(q, q, q), expected)
    assert tally.attention == 0


def test_memory_is_given_back_when_tensors_go() -> None:
    with counting() as tally:
        first = torch.empty(1000, device=META)
        second = first + first
        view = second[:10]
        assert tally.live == 8000
        del first, second
        assert tally.live == 4000  # the view keeps it
        del view
        assert (tally.live, tally.peak) == (0, 8000)


def test_remembered_calls_add_up_like_real_ones() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).to(META)
    meter = SimpleNamespace(nfe=0)
    calls = []

    def call(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        meter.nfe += len(x)
        return net(x)

    def run(wrap: bool) -> Any:
        meter.nfe = 0
        with counting() as tally, torch.no_grad():
            for p in net.parameters():
                tally.track(p)
            f = remembered(call, tally, meter) if wrap else call
            held = [f(torch.empty(n, 8, device=META)) for n in (4, 6, 4, 4)]
        assert [len(h) for h in held] == [4, 6, 4, 4]
        return tally.other, tally.attention, tally.peak, meter.nfe

    plain = run(wrap=False)
    assert len(calls) == 4
    assert run(wrap=True) == plain
    assert len(calls) == 6


def test_a_remembered_call_may_answer_with_several_tensors() -> None:
    """As a ControlNet does: one for every skip, and one for the middle block."""
    calls = []

    def call(x: torch.Tensor) -> Any:
        calls.append(len(x))
        return [x @ x.T, x.half()], x + 1

    with counting() as tally, torch.no_grad():
        f = remembered(call, tally, SimpleNamespace(nfe=0))
        for n in (4, 6, 4):
            (square, half), more = f(torch.empty(n, 8, device=META))
            assert (square.shape, half.dtype, more.shape) == ((n, n), torch.float16, (n, 8))
    assert calls == [4, 6]
    assert tally.other == 2 * 8 * (4 * 4 + 6 * 6 + 4 * 4)


def test_calls_that_record_gradients_add_up_forward_and_backward() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).to(META)
    net.requires_grad_(False)
    meter = SimpleNamespace(nfe=0)
    calls = []

    def call(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        meter.nfe += len(x)
        return net(x)

    def run(wrap: bool) -> Any:
        meter.nfe = 0
        with counting() as tally:
            for p in net.parameters():
                tally.track(p)
            f = remembered(call, tally, meter) if wrap else call
            for _ in range(3):
                x = torch.empty(100, 8, device=META, requires_grad=True)
                (slope,) = torch.autograd.grad((f(x) + f(x)).sum(), x)
                assert slope.shape == x.shape
                del slope
        return tally.other, meter.nfe, tally.peak

    other, nfe, peak = run(wrap=False)
    assert len(calls) == 6
    found = run(wrap=True)
    assert len(calls) == 7
    assert found[:2] == (other, nfe)
    assert found[2] == pytest.approx(peak, rel=0.25)  # held bytes are one block instead of many


def test_a_sampler_that_changes_the_network_says_so() -> None:
    net, meter = torch.nn.Linear(4, 4, bias=False, device=META), SimpleNamespace(nfe=0, phase="")
    calls = []
    with counting() as tally, torch.no_grad():
        f = remembered(lambda x: calls.append(1) or net(x), tally, meter)
        for meter.phase in ("", "", "merged", ""):
            f(torch.empty(3, 4, device=META))
    assert len(calls) == 2


@pytest.mark.parametrize("n", [1, 2])
def test_other_shapes_are_other_calls(n: int) -> None:
    net, meter = torch.nn.Linear(4, 4, bias=False, device=META), SimpleNamespace(nfe=0)
    with counting() as tally, torch.no_grad():
        f = remembered(net, tally, meter)
        f(torch.empty(3, 4, device=META))
        f(torch.empty(3 * n, 4, device=META))
    assert tally.other == 2 * 4 * 4 * 3 * (1 + n)
