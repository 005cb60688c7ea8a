"""LlamaGen from released files to a loaded backbone: conversion, identity, refusals, text, and the full size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import PrerequisiteError, UsageError
from bench.ids import folder_digest
from methods.backbones.llamagen.backbone import LlamaGen, llamagen, skeleton
from methods.backbones.llamagen.convert import convert, main, released
from methods.backbones.llamagen.text import clean
from methods.backbones.tiny.llamagen import SIZES, write_tiny_llamagen
from tests.support.close import products, rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llamagen(tmp_path_factory.mktemp("llamagen"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


class Release:
    """The tiny backbone as the files of a release."""

    def __init__(self, folder: Path, where: Path) -> None:
        self.gpt, self.vq, self.t5, self.out = where / "gpt.pt", where / "vq.pt", folder / "t5", where / "out"
        self.state = {part: load_file(folder / part / "model.safetensors") for part in SIZES}
        self.save("gpt", {"module": self.state["gpt"]})
        self.save("vq", {"model": self.state["vq"], "steps": 7})

    def save(self, part: str, content: Any) -> None:
        torch.save(content, self.gpt if part == "gpt" else self.vq)

    def convert(self, **more: Any) -> list[str]:
        return convert(self.gpt, self.vq, self.t5, self.out, **{"config": SIZES, **more})


@pytest.fixture
def release(folder: Path, tmp_path: Path) -> Release:
    return Release(folder, tmp_path)


def picture(b: LlamaGen) -> torch.Tensor:
    return b.decode(torch.arange(16).view(4, 4))


def test_converted_files_load_as_what_they_were(release: Release, folder: Path) -> None:
    assert release.convert() == ["vq: steps"]
    a, b = llamagen(model=str(release.out)), llamagen(model=str(folder))
    assert torch.equal(picture(a), picture(b))
    assert torch.equal(a.condition("a boat").embeds, b.condition("a boat").embeds)
    for name, tensor in release.state["gpt"].items():
        assert torch.equal(a.gpt.state_dict()[name], tensor)
    other = write_tiny_llamagen(release.out.parent / "other", seed=1)
    assert not torch.equal(picture(llamagen(model=str(other))), picture(b))


def test_the_decoder_of_a_whole_t5_is_left_out(release: Release, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    encoder = llamagen(model=str(folder)).t5
    whole = T5ForConditionalGeneration(encoder.config)
    whole.load_state_dict(encoder.state_dict(), strict=False)
    release.t5 = tmp_path / "whole"
    whole.save_pretrained(release.t5)
    AutoTokenizer.from_pretrained(folder / "t5").save_pretrained(release.t5)
    assert release.convert() == ["vq: steps", "t5: the decoder"]
    assert load_file(release.out / "t5/model.safetensors").keys() == load_file(folder / "t5/model.safetensors").keys()
    a, b = llamagen(model=str(release.out)), llamagen(model=str(folder))
    assert torch.equal(a.condition("a boat").embeds, b.condition("a boat").embeds)


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
def test_tensors_are_found_alone_or_in_any_released_wrapper(release: Release, wrapper: str | None) -> None:
    release.save("gpt", {wrapper: release.state["gpt"]} if wrapper else release.state["gpt"])
    release.convert()
    assert llamagen(model=str(release.out)).codes == 64


def test_missing_surplus_and_misshapen_tensors_are_listed_in_one_error(release: Release) -> None:
    state = dict(release.state["gpt"])
    state.pop("norm.weight")
    state["freqs_cis"] = torch.zeros(3)
    state["output.weight"] = torch.zeros(3, 16)
    release.save("gpt", {"model": state})
    with pytest.raises(UsageError) as caught:
        release.convert()
    for part in ("1 tensors missing: norm.weight", "1 tensors unexpected: freqs_cis", "--drop NAME",
                 "1 tensors of another shape: output.weight (3, 16), expected (64, 16)"):  # fmt: skip
        assert part in str(caught.value)
    assert not release.out.exists()


def test_a_surplus_tensor_is_left_out_only_when_it_is_named(release: Release) -> None:
    release.save("gpt", {"model": {**release.state["gpt"], "freqs_cis": torch.zeros(3)}})
    with pytest.raises(UsageError, match="unexpected: freqs_cis"):
        release.convert()
    assert release.convert(drop=["freqs_cis"])[0] == "gpt: freqs_cis"
    assert "freqs_cis" not in load_file(release.out / "gpt/model.safetensors")


def test_a_pickle_that_needs_more_than_tensors_is_refused(release: Release) -> None:
    release.save("gpt", {"model": release.state["gpt"], "args": Path("somewhere")})
    with pytest.raises(UsageError, match="holds more than tensors"):
        release.convert()
    release.save("gpt", {"model": "weights"})
    with pytest.raises(UsageError, match="no table of tensors"):
        release.convert()
    release.gpt.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="no torch file"):
        release.convert()
    release.gpt.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        release.convert()


def test_a_failed_conversion_leaves_nothing_and_an_existing_folder_is_kept(release: Release) -> None:
    good, release.t5 = release.t5, release.t5.parent / "gpt"
    with pytest.raises(UsageError, match="does not load as a T5 folder"):
        release.convert()
    assert [p.name for p in release.out.parent.iterdir() if p.is_dir()] == []
    release.t5 = good
    release.convert()
    before = folder_digest(release.out)
    with pytest.raises(UsageError, match="is there already"):
        release.convert()
    assert folder_digest(release.out) == before


def test_the_command_line_converts_and_says_what_it_left_out(
    release: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = release.out.parent / "sizes.json"
    sizes.write_text(json.dumps(SIZES))
    given = ["--gpt", release.gpt, "--vq", release.vq, "--t5", release.t5, "--out", release.out]
    assert main([*map(str, given), "--config", str(sizes)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [str(release.out), "left out of vq: steps"]
    assert main(list(map(str, given))) == 2  # there already
    assert "is there already" in capsys.readouterr().err


def test_the_released_sizes_do_not_fit_another_model(release: Release) -> None:
    with pytest.raises(UsageError, match=r"is not the gpt of LlamaGen: .* tensors missing"):
        release.convert(config=None)


def test_a_folder_is_described_by_its_digest_without_importing_torch(folder: Path) -> None:
    info = llamagen.describe(model=str(folder))
    assert (info.name, info.family, info.weights_digest) == ("llamagen", "tokens", folder_digest(folder))
    script = (
        "import sys, methods.direct_tokens; from methods.backbones.llamagen.backbone import llamagen as f;"
        f"print(f.describe(model={str(folder)!r}).weights_digest, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == [info.weights_digest, "False"]


def test_a_loaded_backbone_knows_its_geometry_and_identity(folder: Path) -> None:
    b = llamagen(model=str(folder))
    assert (b.name, b.family, b.side, b.factor, b.codes, b.precision) == ("llamagen", "tokens", 4, 2, 64, "fp32")
    assert b.weights == llamagen.describe(model=str(folder)).weights_digest
    assert not any(p.requires_grad for m in (b.gpt, b.vq, b.t5) for p in m.parameters())


def test_changed_weights_change_the_identity(folder: Path, copy: Path) -> None:
    assert llamagen.describe(model=str(copy)).weights_digest == llamagen.describe(model=str(folder)).weights_digest
    state = load_file(copy / "vq/model.safetensors")
    state["quant_conv.bias"] += 1
    save_file(state, copy / "vq/model.safetensors")
    assert llamagen.describe(model=str(copy)).weights_digest != llamagen.describe(model=str(folder)).weights_digest


@pytest.mark.parametrize(
    ("precision", "network", "rest"), [("bf16", "bfloat16", "float32"), ("fp64", "float64", "float64")]
)
def test_the_image_tokenizer_stays_in_high_precision(folder: Path, precision: str, network: str, rest: str) -> None:
    b = llamagen(model=str(folder), precision=precision)
    assert {p.dtype for m in (b.gpt, b.t5) for p in m.parameters()} == {getattr(torch, network)}
    assert b.dtype == picture(b).dtype == getattr(torch, rest)
    walk = b.walk((4, 4), 2.0)
    assert walk.tell(b.condition("a boat")).dtype == torch.float32
    assert walk.cache.keys[0].dtype == getattr(torch, network)


def test_all_that_is_wrong_with_a_folder_is_said_at_once(copy: Path) -> None:
    shutil.rmtree(copy / "vq")
    (copy / "gpt/model.safetensors").unlink()
    (copy / "t5/config.json").write_text(json.dumps({"architectures": ["CLIPTextModel"]}))
    with pytest.raises(UsageError) as caught:
        llamagen.describe(model=str(copy))
    for part in ("gpt has no *.safetensors", "vq/config.json is missing", "t5 is a CLIPTextModel"):
        assert part in str(caught.value)


@pytest.mark.parametrize("part", ["gpt", "vq", "t5"])
def test_a_partial_or_torn_weights_file_is_refused(copy: Path, part: str) -> None:
    file = copy / part / "model.safetensors"
    state = load_file(file)
    state.pop(sorted(state)[0])
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=rf"{part}.*1 tensors missing"):
        llamagen(model=str(copy))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UsageError, match="not load"):
        llamagen(model=str(copy))


def change(folder: Path, part: str, **values: Any) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_config_that_does_not_fit_its_weights_or_its_neighbours_is_refused(copy: Path) -> None:
    change(copy, "gpt", dim=32)
    with pytest.raises(UsageError, match=r"gpt does not fit its config: .* of another shape"):
        llamagen(model=str(copy))
    change(copy, "gpt", dim=16, colour="red")
    with pytest.raises(UsageError, match=r"gpt config of LlamaGen does not work.*colour"):
        llamagen(model=str(copy))
    shutil.rmtree(copy)
    b = llamagen(model=str(write_tiny_llamagen(copy)))
    b.vq.config = type(b.vq.config)(codebook_size=32)
    with pytest.raises(UsageError, match=r"speaks 64 tokens .* has 32 codes"):
        LlamaGen("x", "", {"gpt": b.gpt, "vq": b.vq, "t5": b.t5, "tokenizer": b.tokenizer})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the option 'model'"),
        ({"model": ".", "precision": "fp8"}, "unknown precision 'fp8'"),
        ({"model": ".", "devise": "cpu"}, "did you mean 'device'"),
    ],
)
def test_wrong_options_are_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        llamagen(**options)


@pytest.mark.parametrize("model", ["./nowhere", "FoundationVision/LlamaGen"])
def test_a_folder_that_is_not_there_must_be_converted_first(model: str) -> None:
    for ask in (llamagen, llamagen.describe):
        with pytest.raises(PrerequisiteError, match=f"(?s)no folder '{model}'.*llamagen\.convert"):
            ask(model=model)


# -- text


def test_a_prompt_lies_at_the_right_end_and_padding_is_zero(folder: Path) -> None:
    b = llamagen(model=str(folder))
    told = b.condition("boat")
    assert told.embeds.shape == (2, 12, 16)
    assert told.added["mask"].tolist() == [[False] * 7 + [True] * 5] * 2  # four letters and the end sign
    assert float(told.embeds[1, :7].abs().max()) == 0
    ids = b.tokenizer("boat", return_tensors="pt")
    alone = b.t5(**ids)[0][0]  # without padding at all
    close = rounding(float(alone.abs().max()), products(b.t5))
    torch.testing.assert_close(told.embeds[1, 7:], alone, atol=close, rtol=0)
    assert float((told.embeds[1, :5] - alone).abs().max()) > 0.1  # which is where it would lie unmoved
    assert torch.equal(told.embeds[0], b.gpt.cls_embedding.uncond_embedding)


def test_a_negative_prompt_takes_the_place_of_the_empty_one_with_its_own_mask(folder: Path) -> None:
    b = llamagen(model=str(folder))
    told, other = b.condition("boat", "sea"), b.condition("sea")
    assert torch.equal(told.embeds[0], other.embeds[1])
    assert told.added["mask"].sum(1).tolist() == [4, 5]


def test_a_prompt_longer_than_its_slots_is_cut_and_flagged(folder: Path) -> None:
    b = llamagen(model=str(folder))
    b.condition("eleven chrs")
    assert b.meter.flags == []
    assert bool(b.condition("twelve chars").added["mask"].all())
    assert b.meter.flags == ["prompt-truncated"]


def test_captions_reach_the_encoder_cleaned(folder: Path) -> None:
    b = llamagen(model=str(folder))
    assert torch.equal(b.condition("A  (Boat)").embeds, b.condition("a boat").embeds)
    assert not torch.equal(b.condition("a boat").embeds, b.condition("aboat").embeds)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("A panorama of Paris, 4K", "a panorama of paris, 4k"),
        ("Sea,sky — and “one” boat…", 'sea, sky - and "one" boat…'),
        ("a+b%20c (old) [mill] #12 #12345 @nick", "a b c old mill"),
        ("see https://example.com/x and www.example.org now", "see and now"),
        ("<b>bold</b> &amp; <script>x</script> R&amp;B &copy; ½", "bold r b"),
        ("one-two_three-four_five", "one two three four five"),
        ("one-two_three-four", "one-two_three-four"),
        ("海 sea 4x4 jc6640 photo.png page 12 free shipping", "sea"),
        ("'quoted'", "quoted"),
        ("...ends with a colon:", "ends with a colon"),
        ("10.5×3 m at 3:45 p.m.", "m at 3:45 p. m."),
        ("mÃ©lange  ’s", "mã lange 's"),
    ],
)
def test_captions_are_cleaned_as_in_training(caption: str, cleaned: str) -> None:
    assert clean(caption) == cleaned


# -- the full size


def test_the_full_size_transformer_has_the_published_parameter_count() -> None:
    b = skeleton()
    count = sum(p.numel() for p in b.gpt.parameters())
    assert count == pytest.approx(775e6, rel=0.01)
    assert (b.side, b.factor, b.codes, b.device.type) == (32, 16, 16384, "meta")
    assert b.gpt.cls_embedding.uncond_embedding.shape == (120, 2048)
    assert sum(p.numel() for p in b.t5.parameters()) == pytest.approx(1.22e9, rel=0.02)  # half of FLAN-T5-XL's 2.85B


def test_a_full_size_pass_over_prompt_and_square_has_the_right_shape() -> None:
    b = llamagen.skeleton(precision="bf16")
    told = b.condition("a boat")
    assert told.embeds.shape == (2, 120, 2048)
    walk = b.walk((32, 32), 7.5)
    assert walk.tell(told).shape == (1, 16384)
    tokens = torch.zeros(1024, dtype=torch.long, device="meta")
    assert walk.feed(tokens, range(1024)).shape == (1, 16384)
    x = torch.cat([b.gpt.cls_embedding(told.embeds), b.gpt.tok_embeddings(tokens).expand(2, -1, -1)], 1)
    slots = torch.arange(1144, device="meta")
    assert b.gpt(x, walk.rotary, slots, walk.mask(slots, 1144), walk.cache).shape == (2, 1144, 16384)
    assert b.decode(tokens.view(32, 32)).shape == (3, 512, 512)


def test_the_packaged_sizes_are_those_of_the_modules_defaults() -> None:
    from methods.backbones.llamagen.gpt import GPTConfig
    from methods.backbones.llamagen.vq import VQConfig

    sizes = released()
    gpt, vq = ({k: v for k, v in sizes[part].items() if k != "_class_name"} for part in ("gpt", "vq"))
    assert GPTConfig(**gpt) == GPTConfig()
    assert VQConfig(**{**vq, "ch_mult": tuple(vq["ch_mult"])}) == VQConfig()
