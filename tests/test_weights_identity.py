"""The identity of a folder of weights: what decides what a network computes, not where it lies or what lies beside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import blob_id, model, sha256, written

from bench import extractors, ids
from bench.errors import UsageError
from bench.extractors import WORLD
from bench.ids import folder_digest
from methods.backbones.stable_diffusion import LAYOUT, from_pretrained

BESIDE = {
    ".cache/huggingface/download/config.json.metadata": "0000\nabc\n1.0\n", ".cache/huggingface/.gitignore": "*",
    ".git/HEAD": "ref", ".gitattributes": "*.bin", ".locks/x": "", "README.md": "a card", "readme.txt": "a card",
    "LICENSE": "MIT", "LICENSE.txt": "MIT", "Notice": "x", "USE_POLICY.md": "x", "card.json": "{}",
    "samples/boat.png": "x", "teaser.JPG": "x", "pytorch_model.bin": "x", "pytorch_model.bin.index.json": "{}",
    "model.fp16.safetensors": "x", "model.fp16-00001-of-00002.safetensors": "x", "tf_model.h5": "x",
    "model.safetensors.index.fp16.json": "{}", "flax_model.msgpack": "x",
}  # fmt: skip
DECIDES = (
    "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "vocab.txt",
    "merges.txt", "spiece.model", "tokenizer_config.json", "preprocessor_config.json", "head.pth", "HPS_v2.pt",
)  # fmt: skip


def as_snapshot(folder: Path, target: Path) -> Path:
    """The folder's files as the hub's cache keeps them: links to blobs."""
    for file in (p for p in folder.rglob("*") if p.is_file()):
        data, link = file.read_bytes(), target / "snapshots" / ("c" * 40) / file.relative_to(folder)
        written(target / "blobs", {blob_id(data): data})
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target / "blobs" / blob_id(data), link.parent))
    return target / "snapshots" / ("c" * 40)


@pytest.fixture(params=["dino@world-vit", "clip@world-clip"])
def extractor(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A role, and a copy of a network of it."""
    role, _, name = request.param.partition("@")
    return role, Path(shutil.copytree(WORLD / name, tmp_path / "there" / name))


def test_what_lies_beside_an_extractors_weights_does_not_change_who_it_is(extractor: tuple[str, Path]) -> None:
    role, folder = extractor
    before = extractors.find(f"{role}@{folder}").digest
    for name, content in BESIDE.items():
        written(folder, {name: content})
        assert extractors.find(f"{role}@{folder}").digest == before, name


def test_another_preprocessing_mean_makes_another_extractor(extractor: tuple[str, Path]) -> None:
    role, folder = extractor
    before = extractors.find(f"{role}@{folder}").digest
    file = next(folder.glob("*config.json"))
    config = json.loads(file.read_text())
    config["preprocess_cfg" if role == "clip" else "pretrained_cfg"]["mean"] = [0.0, 0.0, 0.0]
    file.write_text(json.dumps(config))
    assert extractors.find(f"{role}@{folder}").digest != before


def test_everything_that_decides_counts_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "net", dict.fromkeys(DECIDES, "1"))
    before = folder_digest(folder)
    for name in DECIDES:
        written(folder, {name: "2"})
        assert folder_digest(folder) != before, name
        written(folder, {name: "1"})
        (folder / name).rename(folder / f"other-{name}")
        assert folder_digest(folder) != before, name
        (folder / f"other-{name}").rename(folder / name)
    written(folder, BESIDE)
    assert folder_digest(folder) == before
    monkeypatch.setattr(ids, "_BESIDE", ids.re.compile("nothing"))  # the control
    assert folder_digest(folder) != before


def test_a_snapshot_of_links_and_a_copy_of_it_are_one_pipeline(tiny_sd: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(tiny_sd, tmp_path / "models--a--b")
    copy = Path(shutil.copytree(snapshot, tmp_path / "copy"))
    written(copy, {**BESIDE, "safety_checker/model.safetensors": "x", "all.safetensors": "x", "unet/old.bin": "x"})
    found = {from_pretrained.describe(model=str(f)).weights_digest for f in (tiny_sd, snapshot, copy)}
    assert found == {folder_digest(tiny_sd, LAYOUT)}
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps({**config, "norm_eps": 0.1}))
    assert from_pretrained.describe(model=str(copy)).weights_digest not in found


def test_a_large_file_of_the_cache_is_known_by_its_name_and_a_plain_one_is_read(tiny_sd: Path, tmp_path: Path) -> None:
    """So a plan reads no gigabytes; that the cache tells the truth is what ``weights verify`` checks."""
    snapshot = as_snapshot(tiny_sd, tmp_path / "models--a--b")
    before = from_pretrained.describe(model=str(snapshot)).weights_digest
    unet = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    data = unet.read_bytes()
    assert unet.resolve().name == sha256(data)
    other = data[:-1] + bytes([data[-1] ^ 1])
    unet.unlink()
    unet.write_bytes(other)
    assert from_pretrained.describe(model=str(snapshot)).weights_digest != before
    unet.write_bytes(data)
    assert from_pretrained.describe(model=str(snapshot)).weights_digest == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda unet: unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors")), "variants are not load"),
        (lambda unet: unet.with_name("x.safetensors.index.json").write_text("[]"), "x.safetensors.index.json is unre"),
        (lambda unet: unet.with_name("x.safetensors.index.json").write_text("{"), "x.safetensors.index.json is unrea"),
    ],
)
def test_a_folder_whose_weights_nobody_could_load_is_refused_before(
    change: Callable[[Path], object], said: str, tiny_sd: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "copy"))
    change(folder / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UsageError, match=said):
        from_pretrained.describe(model=str(folder))


def test_another_revision_of_a_model_forgets_the_digests_of_its_own() -> None:
    from bench.weights import at

    pinned = model(digests={"config.json": "0" * 8})
    assert at(pinned, None) == at(pinned, "main") == pinned
    other = at(pinned, "d" * 40)
    assert (other.revision, other.pinned, other.digests) == ("d" * 40, True, {})
