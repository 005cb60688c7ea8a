"""Which models of the manifest a suite needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.catalogue.needs import choose, needed
from bench.errors import UsageError
from bench.extractors.catalogue import models
from bench.extractors.weights import manifest as weights_manifest
from bench.extractors.weights.manifest import load_manifest
from tests.support.fakehub import model
from tests.support.small import PLUGINS, SUITE, small

FULL = SUITE.replace('tier = "miniature"', 'tier = "full"')


def names(tmp_path: Path, text: str) -> list[str]:
    return [m.name for m in needed(small(tmp_path, suite=text))]


def test_the_miniature_needs_no_model_from_outside() -> None:
    assert choose(["miniature", "miniature-width"]) == []


def test_extractors_bring_their_models(tmp_path: Path) -> None:
    text = FULL + '[[metrics]]\nref = "gsd-dino"\n[[metrics]]\nref = "clip-score"\n'
    assert names(tmp_path, text) == ["dinov2-vitb14", "clip-vit-b-16"]
    assert names(tmp_path, text.replace('"full"', '"miniature"')) == []
    told = text.replace('ref = "gsd-dino"', 'ref = "gsd-dino"\nextractor = "dinov2-vits14"')
    assert names(tmp_path, told) == ["dinov2-vits14", "clip-vit-b-16"]
    assert names(tmp_path, told.replace('"full"', '"miniature"')) == ["dinov2-vits14"]


def test_an_extractor_made_of_several_models_brings_them_all(tmp_path: Path) -> None:
    assert [m.name for m in models("aesthetic-v2")] == ["aesthetic-v2", "clip-vit-l-14"]
    assert [m.name for m in models("image-reward")] == ["image-reward", "bert-base-uncased"]


def test_methods_and_metrics_without_an_extractor_bring_what_names_them_and_no_backbone_of_a_paper(
    tmp_path: Path, manifest: Callable[..., None]
) -> None:
    manifest(
        model("head", needed_by=["brightness"]),
        model("lora", role="adapter", needed_by=["latent-grain"]),
        model("base", role="backbone", needed_by=["latent-grain", "brightness"]),
        model("told", role="controlnet", needed_by=["somebody"]),
        model("planned", needed_by=["tomorrow"]),
    )
    text = FULL + '[[metrics]]\nref = "tomorrow"\nplanned = true\n'
    assert names(tmp_path, text) == ["head", "lora"]
    assert names(tmp_path, text.replace('"full"', '"miniature"')) == []
    knob = text.replace('label = "latent"', 'label = "latent"\n[methods.set]\ncontrol = "someone/told"')
    assert names(tmp_path, knob) == ["head", "lora", "told"]


def test_a_method_brings_the_one_upscaler_that_its_knobs_name_by_default_or_by_choice(tmp_path: Path) -> None:
    text = FULL.replace('ref = "plugins.py@latent-grain"', 'ref = "upscale"')
    assert names(tmp_path, text) == ["real-esrgan-x4plus"]
    told = text.replace('ref = "upscale"', 'ref = "upscale"\nset = { model = "real-esrgan-x2plus" }')
    assert names(tmp_path, told) == ["real-esrgan-x2plus"]
    for asked, name in (('set = { model = "flashvsr-v1" }', "flashvsr-v1"), ('preset = "flashvsr"', "flashvsr-v1.1")):
        told = text.replace('ref = "upscale"', f'ref = "upscale"\n{asked}')
        assert names(tmp_path, told) == [name, "flashvsr-prompt"]  # which does not work alone


def test_the_ablation_with_an_ip_adapter_brings_it_and_the_other_rows_their_controlnet() -> None:
    assert {"controlnet-canny-sdxl", "ip-adapter-sdxl"} <= {m.name for m in choose(["drspo-table2"])}
    assert "ip-adapter-sdxl" not in {m.name for m in choose(["drspo-table1"])}


def test_a_backbone_brings_the_model_it_is_told_at_the_revision_it_is_told(tmp_path: Path) -> None:
    told = f'backbone_options = {{ model = "black-forest-labs/FLUX.1-dev", revision = "{"b" * 40}" }}\n'
    text = told + FULL.replace('"plugins.py@fake"', '"diffusers"')
    (flux,) = needed(small(tmp_path, suite=text))
    assert (flux.name, flux.revision, flux.pinned) == ("flux.1-dev", "b" * 40, True)
    assert weights_manifest.command(flux).startswith(f"hf download black-forest-labs/FLUX.1-dev --revision {'b' * 40}")
    assert weights_manifest.command(load_manifest()["flux.1-dev"]) == "scrollbench weights fetch flux.1-dev"


def test_a_backbone_of_a_method_and_a_backbones_own_default_are_seen(tmp_path: Path) -> None:
    own = FULL.replace('label = "latent"', 'label = "latent"\nbackbone = "sdxl"')
    assert names(tmp_path, own) == ["sdxl-base"]
    assert names(tmp_path, FULL.replace('"plugins.py@fake"', '"sdxl"')) == ["sdxl-base"]


def test_a_folder_made_of_released_files_asks_for_them_until_it_is_there(tmp_path: Path) -> None:
    text = f'backbone_options = {{ model = "{tmp_path / "made"}" }}\n' + FULL
    plugins = PLUGINS + '\nfake.name, fake.options = "llamagen", {"model": object(), "device": "cpu"}\n'
    assert [m.name for m in needed(small(tmp_path, suite=text, plugins=plugins))] == ["llamagen-t2i", "flan-t5-xl"]
    (tmp_path / "made").mkdir()
    assert needed(small(tmp_path, suite=text, plugins=plugins)) == []


def test_an_unknown_name_is_answered_with_near_misses() -> None:
    with pytest.raises(UsageError, match="did you mean 'dinov2-vitb14'"):
        choose(["dinov2-vitb4"])
