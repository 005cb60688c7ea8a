"""Weights put in for a while: a LoRA, a whole transformer, what is refused, and that nothing is left behind."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.probe import Probe
from methods.backbones.wan import wan_small
from methods.scrollscape import ADAPTED, FEED_FORWARD
from methods.shared import lora, trained
from tests.support.close import products, rounding
from tests.support.tiny_pipelines import write_wan


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return wan_small(model=str(write_wan(tmp_path_factory.mktemp("wan"))))


@pytest.fixture(scope="module")
def adapter(backbone: Any) -> dict[str, lora.Lora]:
    """Random pairs that change much."""
    generator = torch.Generator().manual_seed(0)
    made = lora.fresh(lora.layers(backbone.transformer, ADAPTED), 4, lambda s: torch.randn(s, generator=generator))
    return {n: p._replace(b=torch.randn(p.b.shape, generator=generator) / 4) for n, p in made.items()}


@pytest.fixture
def pairs(adapter: dict[str, lora.Lora], tmp_path: Path) -> Path:
    lora.save(adapter, tmp_path / lora.FILE)
    return tmp_path / lora.FILE


def answer(backbone: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(1, 16, 2, 2, 4, generator=generator), torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        found: torch.Tensor = backbone.predict(x, 500.0, text)
    return found


def other(backbone: Any) -> Any:
    """The same network with other weights."""
    made = copy.deepcopy(backbone.transformer)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    return made


def swapped(backbone: Any, network: Any) -> Any:
    """The backbone around another network."""
    made = copy.copy(backbone)
    made.transformer = network
    return made


def test_a_lora_adds_its_pairs_and_leaves_no_trace(backbone: Any, adapter: dict[str, lora.Lora], pairs: Path) -> None:
    trained.check(pairs, backbone.transformer, ADAPTED, FEED_FORWARD, "wan")
    assert len(adapter) == 2 * 6  # two blocks
    before, probe = answer(backbone), Probe(backbone)
    merged = copy.deepcopy(backbone.transformer)
    for name, pair in adapter.items():
        merged.get_submodule(name).weight += pair.scale * (pair.b @ pair.a)
    expected = answer(swapped(backbone, merged))
    with trained.worn(backbone.transformer, pairs, backbone.device):
        found = answer(backbone)
    size = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=rounding(size, products(merged)), rtol=0)
    assert float((found - before).abs().max()) > 0.01
    assert torch.equal(answer(backbone), before)
    assert probe.changes() == []
    none = {n: p._replace(b=torch.zeros_like(p.b)) for n, p in adapter.items()}
    with trained.adapted(backbone.transformer, none):
        assert torch.equal(answer(backbone), before)


def test_a_whole_transformer_takes_the_place_of_the_networks_and_leaves_no_trace(backbone: Any, tmp_path: Path) -> None:
    changed = other(backbone)
    changed.save_pretrained(tmp_path)
    path = trained.find(str(tmp_path), "train one")
    trained.check(path, backbone.transformer, ADAPTED, FEED_FORWARD, "wan")
    before, probe, expected = answer(backbone), Probe(backbone), answer(swapped(backbone, changed))
    close = rounding(float(expected.abs().max()), products(changed))  # where numbers lie in memory changes roundings
    with trained.worn(backbone.transformer, path, backbone.device):
        torch.testing.assert_close(answer(backbone), expected, atol=close, rtol=0)
        assert float((answer(backbone) - before).abs().max()) > 10 * close
        assert probe.changes() != []  # the control: it sees what stands there now
    assert torch.equal(answer(backbone), before)
    assert probe.changes() == []


def test_the_networks_own_weights_come_back_after_an_error(backbone: Any, pairs: Path, tmp_path: Path) -> None:
    probe = Probe(backbone)
    other(backbone).save_pretrained(tmp_path / "whole")
    for path in (pairs, trained.find(str(tmp_path / "whole"), "")):
        with pytest.raises(ValueError, match="stop"), trained.worn(backbone.transformer, path, backbone.device):
            raise ValueError("stop")
        assert probe.changes() == []


def test_files_that_are_not_for_this_network_are_refused_by_their_header(backbone: Any, tmp_path: Path) -> None:
    def refused(tensors: dict[str, torch.Tensor], message: str) -> None:
        save_file(tensors, tmp_path / "file.safetensors")
        with pytest.raises(UsageError, match=message):
            trained.check(tmp_path / "file.safetensors", backbone.transformer, ADAPTED, FEED_FORWARD, "wan-1.3b")

    whole = {n: p.clone() for n, p in backbone.transformer.named_parameters()}
    name = next(iter(whole))
    part = {n: p for n, p in whole.items() if n != name}
    refused(part, f"no transformer of wan-1.3b: tensors 1 missing, first {name}")
    refused({**whole, "more": torch.zeros(1)}, "1 unknown, first more")
    refused({**whole, name: torch.zeros(3)}, rf"{name} is \(3,\), expected \(")
    layer = "transformer.blocks.0.attn1.to_q"
    pair = {f"{layer}.lora_A.weight": torch.zeros(2, 24), f"{layer}.lora_B.weight": torch.zeros(24, 2)}
    refused(pair, r"no adapter for wan-1.3b: layers \d+ missing")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UsageError, match="not a safetensors file"):
        trained.check(tmp_path / "text.safetensors", backbone.transformer, ADAPTED, FEED_FORWARD, "wan")
    with pytest.raises(PrerequisiteError, match=r"no file .*; train one"):
        trained.find(str(tmp_path / "nowhere"), "train one")


def test_a_lora_of_self_attention_alone_is_whole_on_full_size_wan(tmp_path: Path) -> None:
    network = wan_small.skeleton().transformer
    every, feed = (lora.layers(network, pattern) for pattern in (ADAPTED, FEED_FORWARD))
    assert (len(every), len(feed)) == (30 * 6, 30 * 2)
    some = {n: s for n, s in every.items() if n not in feed}
    lora.save(lora.fresh(some, 1, lambda s: torch.zeros(s, dtype=torch.bfloat16)), tmp_path / lora.FILE)
    trained.check(tmp_path / lora.FILE, network, ADAPTED, FEED_FORWARD, "wan-1.3b")
