"""Variants in 16 bits load by name, from folders that hold nothing else, too; single files are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.catalogue.needs import needed
from bench.errors import UsageError
from bench.extractors.weights import variants
from bench.extractors.weights.manifest import load_manifest
from methods.backbones.stable_diffusion import from_pretrained
from tests.support.small import SUITE, small


@pytest.fixture
def both(tiny_sd: Path, tmp_path: Path, caches: Path) -> Path:
    """A pipeline whose U-Net lies there in full and, with other numbers, as a variant in 16 bits."""
    folder = tmp_path / "both"
    shutil.copytree(tiny_sd, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = {k: (v + 0.5).half() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    save_file(state, weights.with_name("diffusion_pytorch_model.fp16.safetensors"), metadata={"format": "pt"})
    return folder


def test_a_variant_takes_the_place_of_the_plain_file_and_is_another_identity(both: Path) -> None:
    plain, half = from_pretrained(model=str(both)), from_pretrained(model=str(both), variant="fp16")
    assert torch.allclose(half.unet.conv_in.weight, plain.unet.conv_in.weight + 0.5, atol=1e-3)
    assert torch.equal(half.vae.post_quant_conv.weight, plain.vae.post_quant_conv.weight)
    info = from_pretrained.describe(model=str(both), variant="fp16")
    assert (half.weights, info.source) == (info.weights_digest, f"{both} (fp16)")
    assert half.weights != plain.weights


def test_a_folder_of_nothing_but_variants_loads_and_without_the_option_says_how(both: Path) -> None:
    known = from_pretrained.describe(model=str(both), variant="fp16").weights_digest
    (both / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert from_pretrained(model=str(both), variant="fp16").weights == known  # the plain one was never part of it
    for look in (from_pretrained, from_pretrained.describe):
        with pytest.raises(UsageError, match=r'backbone_options = \{ variant = "fp16" \}'):
            look(model=str(both))


def test_a_variant_that_is_not_there_is_refused(tiny_sd: Path, caches: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no variant 'fp16': no file there is named \*.fp16.safetensors"):
        from_pretrained(model=str(tiny_sd), variant="fp16")
    with pytest.raises(UsageError, match="no variant 'fp8' that is known here; did you mean 'fp16'"):
        variants.of(load_manifest()["sd-2.0-base"], "fp8")


@pytest.mark.parametrize("name", ["v1-5-pruned.safetensors", "models/old.ckpt"])
def test_a_checkpoint_of_one_file_is_refused_with_diffusers_own_way(name: str) -> None:
    with pytest.raises(UsageError, match=r"single-file checkpoint(.|\n)*from_single_file"):
        from_pretrained(model=name)


def test_a_suite_needs_the_files_of_the_precision_it_runs_and_no_others(tmp_path: Path) -> None:
    said = "backbone_options = {{ {} }}\n" + SUITE.replace('"plugins.py@fake"', '"sd20"')
    whole = needed(small(tmp_path / "whole", said.format('precision = "fp16"')))
    half = needed(small(tmp_path / "half", said.format('precision = "fp16", variant = "fp16"')))
    assert [m.name for m in whole] == [m.name for m in half] == ["sd-2.0-base"]
    assert (whole[0].size_gb, half[0].size_gb) == (5.16, 3.43)
    assert [f for f in half[0].files if f.startswith("unet/")] == [
        "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
    ]  # fmt: skip
    assert "vae/diffusion_pytorch_model.safetensors" in half[0].files  # decoders run in full precision


def test_every_variant_names_files_of_its_model() -> None:
    for name, known in variants._table().items():
        for variant in known:
            model = load_manifest()[name]
            changed = variants.of(model, variant)
            assert changed.size_gb < model.size_gb
            assert sum(a != b for a, b in zip(changed.files, model.files, strict=True)) == len(known[variant]["files"])
