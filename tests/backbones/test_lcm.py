"""Stable Diffusion with LCM-LoRA merged in is the network that its rows name, or it does not load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bench.errors import PrerequisiteError, UsageError
from bench.noise import Noise
from bench.types import Canvas, Prompt
from methods.backbones.lcm import sd15_lcm
from methods.backbones.stable_diffusion import from_pretrained
from methods.streammultidiffusion import streammultidiffusion

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "conv_in"


def pairs(unet: Any, rank: int = 2, alpha: float = 3.0) -> dict[str, torch.Tensor]:
    """A random pair for a linear layer and one for a convolution, spelt as the released file spells them."""
    generator, made = torch.Generator().manual_seed(0), {}
    for name in (ATTENTION, CONVOLUTION):
        out, inner, *kernel = unet.get_submodule(name).weight.shape
        spelt = f"lora_unet_{name.replace('.', '_')}"
        made[f"{spelt}.lora_down.weight"] = torch.randn(rank, inner, *kernel, generator=generator)
        made[f"{spelt}.lora_up.weight"] = torch.randn(out, rank, *(1 for _ in kernel), generator=generator)
        made[f"{spelt}.alpha"] = torch.tensor(alpha)
    return made


@pytest.fixture(scope="module")
def plain(tiny_sd: Path) -> Any:
    return from_pretrained(model=str(tiny_sd))


@pytest.fixture(scope="module")
def lora(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lora") / "pytorch_lora_weights.safetensors"
    save_file(pairs(plain.unet), file)
    return file


def test_weights_are_the_plain_ones_and_alpha_over_rank_times_up_times_down(
    plain: Any, tiny_sd: Path, lora: Path
) -> None:
    merged = sd15_lcm(model=str(tiny_sd), lora=str(lora))
    added = pairs(plain.unet)
    for name in (ATTENTION, CONVOLUTION):
        spelt = f"lora_unet_{name.replace('.', '_')}"
        down, up = (added[f"{spelt}.lora_{side}.weight"] for side in ("down", "up"))
        # Of convolutions what one after the other does to a picture.
        expected = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down) if down.dim() == 4 else up @ down
        change = merged.unet.get_submodule(name).weight - plain.unet.get_submodule(name).weight
        assert torch.allclose(change, 1.5 * expected, atol=1e-5)
        assert not torch.allclose(change, expected, atol=1e-2)  # alpha counts
    same = [n for n, p in merged.unet.named_parameters() if torch.equal(p, plain.unet.get_parameter(n))]
    assert len(same) == sum(1 for _ in plain.unet.parameters()) - 2


def test_it_is_another_network_of_another_name_that_steps_as_a_consistency_model(
    plain: Any, tiny_sd: Path, lora: Path
) -> None:
    merged, info = sd15_lcm(model=str(tiny_sd), lora=str(lora)), sd15_lcm.describe(model=str(tiny_sd), lora=str(lora))
    assert (info.name, info.weights_digest) == ("sd15-lcm", merged.weights)
    assert merged.weights != plain.weights
    assert info.source == f"{tiny_sd} with {lora}"
    assert type(merged.scheduler(4)).__name__ == "LCMScheduler"
    side = merged.window * merged.factor
    streammultidiffusion.fn(merged, Prompt("a", "a sea"), Canvas(2 * side, side), Noise(0, "a"), t_index_list="0,25")
    assert merged.meter.flags == []


def test_a_lora_of_another_network_is_refused(plain: Any, tiny_sd: Path, tmp_path: Path) -> None:
    good = pairs(plain.unet)
    spelt = f"lora_unet_{CONVOLUTION}"
    foreign = {k.replace(CONVOLUTION, "conv_elsewhere"): v for k, v in good.items()}
    wide = {**good, f"{spelt}.lora_down.weight": torch.zeros(2, 99, 3, 3)}
    half = {k: v for k, v in good.items() if k != f"{spelt}.lora_up.weight"}
    for wrong in (foreign, wide, half, {"unet.conv_in.lora_A.weight": torch.zeros(2, 4)}):
        save_file(wrong, tmp_path / "lora.safetensors")
        with pytest.raises(UsageError, match=r"is no LoRA of this network: 1 of \d pairs do not fit"):
            sd15_lcm(model=str(tiny_sd), lora=str(tmp_path / "lora.safetensors"))


def test_without_the_lora_nothing_is_drawn_and_the_command_that_fetches_it_is_named(
    tiny_sd: Path, caches: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="scrollbench weights fetch lcm-lora-sdv1-5"):
        sd15_lcm.describe(model=str(tiny_sd))


def test_the_full_size_is_known_without_weights() -> None:
    blank = sd15_lcm.skeleton(precision="fp16", device="cuda")
    assert blank.name == "sd15-lcm"
    assert type(blank.scheduler(4)).__name__ == "LCMScheduler"
