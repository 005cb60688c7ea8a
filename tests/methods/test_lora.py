"""LoRA files on FLUX: diffusers' own numbers, the released layout of 343 layers, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import PrerequisiteError, UsageError
from methods.backbones.flux import flux_dev
from methods.shared import lora
from methods.shared.flux_streams import ADAPTED, NORMS, Inputs, predict
from tests.support.golden_cases import GOLDENS, load_arrays, load_network

ADAPTER = GOLDENS / "weights/flux_lora.safetensors"


@pytest.fixture(scope="module")
def network() -> Any:
    return load_network("weights/flux_lora_base").requires_grad_(False)


@pytest.fixture
def shapes(network: Any) -> dict[str, tuple[int, int]]:
    return lora.layers(network, ADAPTED)


def merged(network: Any, adapter: lora.Adapter) -> Any:
    """A copy with every pair added to its weight."""
    import copy

    made = copy.deepcopy(network)
    for name, pair in adapter.items():
        made.get_submodule(name).weight += pair.scale * (pair.b.double() @ pair.a.double())
    return made


def rotary(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's own positions, text first."""
    from methods.shared.positions import plain
    from methods.shared.positions import rotary as table

    return table(torch.cat([torch.zeros(4, 3), ids]), (2, 2, 4), [plain()] * 3)


def test_a_read_adapter_gives_the_numbers_of_diffusers(network: Any, shapes: dict[str, tuple[int, int]]) -> None:
    entry, arrays = load_arrays("flux_lora_forward")
    lora.check(ADAPTER, shapes, lora.layers(network, NORMS), "flux")
    adapter = lora.load(ADAPTER)
    told = Inputs(
        arrays["hidden"], None, arrays["text"], arrays["pooled"], torch.tensor([0.71]), torch.tensor([3.5])
    )  # fmt: skip
    for net, name in ((merged(network.double(), adapter), "output_lora"), (network.double(), "output_base")):
        attend = torch.nn.functional.scaled_dot_product_attention
        found = predict(net, told, {}, rotary(arrays["img_ids"].float()), attend)
        off = {n: float((found - arrays[n]).abs().max()) for n in ("output_lora", "output_base")}
        assert off.pop(name) < entry["suggested_tolerance"]
        (other,) = off.values()
        assert other == pytest.approx(entry["negative_controls_max_abs"]["adapter off"], abs=1e-3)


def test_the_released_adapter_has_343_layers_and_its_parameters_on_flux() -> None:
    transformer = flux_dev.skeleton(precision="bf16").transformer
    found = lora.layers(transformer, ADAPTED)
    assert len(found) == 343
    assert sum(16 * (a + b) for a, b in found.values()) == 57_951_232
    norms = lora.layers(transformer, NORMS)
    assert 2 * (len(found) - len(norms.keys() & found.keys())) == 572
    assert found["single_transformer_blocks.37.proj_out"] == (15360, 3072)
    assert found["transformer_blocks.0.norm1.linear"] == (3072, 18432)


def test_what_is_saved_is_read_with_its_factor(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    made = lora.fresh(shapes, 4, lambda s: torch.randn(s, generator=generator), scale=0.5)
    assert all(not pair.b.any() for pair in made.values())
    assert float(made["x_embedder"].a.std()) == pytest.approx(0.25, rel=0.5)
    lora.save(made, tmp_path / lora.FILE)
    path = lora.find(str(tmp_path), "make one")
    lora.check(path, shapes, (), "flux")
    read = lora.load(path)
    assert all(torch.equal(read[n].a, made[n].a) and read[n].scale == 0.5 for n in made)


def altered(tmp_path: Path, change: Any) -> Path:
    """The golden adapter with its tensors changed."""
    path = tmp_path / "changed.safetensors"
    save_file(change(load_file(ADAPTER)), path)
    return path


def test_alpha_of_the_file_and_names_of_peft_are_understood(tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        peft = {
            k.replace("transformer.", "base_model.model.", 1).replace(".weight", ".default.weight"): v
            for k, v in tensors.items()
        }
        return {**peft, "base_model.model.x_embedder.alpha": torch.tensor(6.0)}

    read = lora.load(altered(tmp_path, change))
    assert read["x_embedder"].scale == 3.0  # alpha 6 at rank 2
    assert {pair.scale for name, pair in read.items() if name != "x_embedder"} == {1.0}
    assert read.keys() == lora.load(ADAPTER).keys()


def test_a_file_without_the_norms_is_whole_and_one_without_others_is_not(
    tmp_path: Path, network: Any, shapes: dict[str, tuple[int, int]]
) -> None:
    norms = lora.layers(network, NORMS).keys() & shapes.keys()
    path = altered(tmp_path, lambda t: {k: v for k, v in t.items() if "norm" not in k})
    lora.check(path, shapes, norms, "flux")
    assert len(lora.load(path)) == len(shapes) - len(norms)
    path = altered(tmp_path, lambda t: {k: v for k, v in t.items() if "to_q" not in k})
    with pytest.raises(UsageError, match=r"2 missing, first single_transformer_blocks\.0\.attn\.to_q; expected"):
        lora.check(path, shapes, norms, "flux")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "a kohya LoRA"),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "an XLabs LoRA"),
        ("transformer.x_embedder.lora.down.weight", "before 0.25"),
        ("transformer.x_embedder.dora_scale", "DoRA"),
        ("transformer.x_embedder.diff_b", "differences of whole weights"),
        ("transformer.x_embedder.weight", r"expected transformer\.MODULE\.lora_A\.weight"),
    ],
)
def test_another_spelling_is_named(tmp_path: Path, key: str, message: str, shapes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=message):
        lora.check(altered(tmp_path, lambda t: {**t, key: torch.zeros(2, 2)}), shapes, (), "flux")


def test_an_adapter_for_another_network_is_refused_from_its_header(tmp_path: Path, shapes: dict[str, Any]) -> None:
    wide = {**shapes, "x_embedder": (64, 3072)}
    with pytest.raises(
        UsageError, match=r"no adapter for flux-dev: x_embedder has lora_A \[2, 8\].*expected \[r, 64\]"
    ):
        lora.check(ADAPTER, wide, (), "flux-dev")
    more = {**shapes, "transformer_blocks.1.attn.to_q": (16, 16)}
    with pytest.raises(UsageError, match="1 missing"):
        lora.check(ADAPTER, more, (), "flux-dev")
    with pytest.raises(UsageError, match="1 unknown, first x_embedder"):
        lora.check(ADAPTER, {k: v for k, v in shapes.items() if k != "x_embedder"}, (), "flux-dev")


def test_files_that_are_none_are_told(tmp_path: Path, shapes: dict[str, Any]) -> None:
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(UsageError, match="is not a safetensors file that can be read"):
        lora.check(tmp_path / "text.safetensors", shapes, (), "flux")
    with pytest.raises(PrerequisiteError, match=r"no file .*nowhere.*; train one"):
        lora.find(str(tmp_path / "nowhere"), "train one")
    told = {"lora_adapter_metadata": json.dumps([1])}
    save_file(load_file(ADAPTER), tmp_path / "odd.safetensors", metadata=told)
    with pytest.raises(UsageError, match="lora_adapter_metadata cannot be read"):
        lora.check(tmp_path / "odd.safetensors", shapes, (), "flux")
