"""Weights are fetched from the hub or a mirror; a damaged, partial or gated model never passes for here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakehub
import pytest
from fakehub import FILES, blob_id, cached, mirrored, model, sha256, written

from bench.errors import PrerequisiteError, UsageError
from bench.registry import find
from bench.weights import state
from bench.weights_check import check, digest
from bench.weights_fetch import fetch

SD = [
    "model_index.json", "scheduler/*", "tokenizer/*", "text_encoder/config.json", "text_encoder/model.safetensors",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
UNET = "unet/diffusion_pytorch_model.safetensors"


def test_a_pipeline_is_fetched_resumed_and_checked_and_its_loader_finds_it(
    hub: fakehub.Hub, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("someone/tiny", tiny_sd)
    hub.torn.add(UNET)
    m = model(files=SD, role="backbone", revision=fakehub.COMMIT, pinned=True)
    said: list[str] = []
    (found,) = fetch([m], say=said.append)
    assert [line.split(":")[1].split()[0] for line in said] == ["fetching", "checking"]
    assert (found.state, found.folder.name) == ("present", fakehub.COMMIT)
    assert all(c.state == "sound" for c in check(found))
    kept = (tiny_sd / UNET).stat().st_size // 2 // 1000 * 1000  # whole chunks before the line went dead
    assert [span for method, file, span in hub.asked if (method, file) == ("GET", UNET)] == [None, f"bytes={kept}-"]

    (found.folder / UNET).resolve().unlink()  # interrupted: one file is lost, the others stay
    hub.asked.clear()
    fetch([m])
    assert hub.served() == [UNET]
    hub.asked.clear()
    fetch([m])
    assert hub.asked == []

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    backbone = find("backbones", "diffusers")
    assert backbone.describe(model="someone/tiny").source == f"someone/tiny@{fakehub.COMMIT}"
    assert backbone(model="someone/tiny").condition("a calm sea").embeds.shape == (2, 77, 16)


def test_a_flipped_byte_is_refused_with_file_digests_and_what_to_do(
    hub: fakehub.Hub, tmp_path: Path, manifest: Callable[..., None]
) -> None:
    hub.add("someone/tiny", written(tmp_path / "repo", FILES))
    m = model()
    manifest(m)
    (found,) = fetch([m])
    blob = (found.folder / "model.safetensors").resolve()
    blob.chmod(0o644)
    blob.write_bytes(FILES["model.safetensors"][:-1] + b"\0")
    with pytest.raises(PrerequisiteError) as refused:
        fetch([m])
    text = str(refused.value)
    assert "model.safetensors" in text
    assert blob_id(FILES["model.safetensors"]) in text
    assert digest(blob) in text
    assert text.splitlines()[-1].strip() == f"rm '{blob}' && scrollbench weights fetch tiny"
    blob.unlink()  # what it said
    assert fetch([m])[0].state == "present"


def test_bytes_that_are_not_what_the_manifest_says_are_refused(hub: fakehub.Hub, tmp_path: Path) -> None:
    hub.add("someone/tiny", written(tmp_path / "repo", FILES))
    good = model(digests={"model.safetensors": blob_id(FILES["model.safetensors"])})
    assert fetch([good])[0].state == "present"
    with pytest.raises(PrerequisiteError, match="expected sha256 00000000, got"):
        fetch([model(digests={"model.safetensors": "0" * 8})])


def test_a_gated_model_gives_the_two_steps_and_others_are_fetched_all_the_same(
    hub: fakehub.Hub, tmp_path: Path, manifest: Callable[..., None]
) -> None:
    closed, open_ = model("closed", gated=True), model("open")
    manifest(closed, open_)
    for m in (closed, open_):
        hub.add(m.repository, written(tmp_path / m.name, FILES))
    hub.gated.add("someone/closed")
    with pytest.raises(PrerequisiteError) as refused:
        fetch([closed, open_])
    text = str(refused.value)
    assert "open https://huggingface.co/someone/closed, log in and accept the licence" in text
    assert "hf auth login" in text
    assert text.splitlines()[-1].strip() == "scrollbench weights fetch closed"
    assert (state(closed).state, state(open_).state) == ("missing", "present")
    hub.gated.clear()  # accepted
    assert fetch([closed])[0].state == "present"


def test_a_repository_without_the_files_or_that_is_not_there_is_named(hub: fakehub.Hub, tmp_path: Path) -> None:
    hub.add("someone/tiny", written(tmp_path / "repo", {"config.json": "{}"}))
    with pytest.raises(PrerequisiteError, match=r"someone/tiny at main lacks model.safetensors"):
        fetch([model()])
    with pytest.raises(PrerequisiteError, match=r"has no someone/gone, .* It was withdrawn."):
        fetch([model("gone", notes="It was withdrawn.")])


def test_a_file_from_a_url_is_fetched_and_its_digest_decides(hub: fakehub.Hub, tmp_path: Path) -> None:
    hub.add("files", written(tmp_path / "files", {"net-0.pth": b"weights"}))
    m = model("net", repository=f"{hub.url}/files/net-0.pth", files=["net-0.pth"])
    wrong = m.model_copy(update={"digests": {"net-0.pth": "0" * 8}})
    with pytest.raises(PrerequisiteError, match=r'invalid hash value \(expected "00000000", got'):
        fetch([wrong])
    assert state(m).state == "missing"
    right = m.model_copy(update={"digests": {"net-0.pth": sha256(b"weights")[:8]}})
    assert fetch([right])[0].state == "present"


def test_downloads_are_the_librarys_own(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    asked: list[Any] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)))
    with pytest.raises(PrerequisiteError, match=r"lacks config.json, model.safetensors"):
        fetch([model(revision="b" * 40, pinned=True)])
    wanted = {"revision": "b" * 40, "allow_patterns": ["config.json", "model.safetensors"]}
    assert asked == [(("someone/tiny",), wanted)]  # no progress or resume switched off


def test_a_network_that_is_down_is_told_with_the_command_that_goes_on(
    caches: Path, monkeypatch: pytest.MonkeyPatch, manifest: Callable[..., None]
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def down(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    m = model()
    manifest(m)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", down)
    with pytest.raises(PrerequisiteError, match=r"no route to host.*\n  scrollbench weights fetch tiny"):
        fetch([m])


# -- mirrors


def test_a_mirror_of_plain_files_is_placed_where_every_loader_finds_it_offline(
    caches: Path, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.copytree(tiny_sd, tmp_path / "mirror" / "someone" / "tiny")
    m = model(files=SD, role="backbone")
    (found,) = fetch([m], mirror=tmp_path / "mirror")
    assert found.folder.name.startswith("mirror-")  # which commit it is, nobody knows
    assert all(c.state == "sound" for c in check(found))
    info = find("backbones", "diffusers").describe(model="someone/tiny")
    assert info.source == f"someone/tiny@{found.folder.name}"
    assert find("backbones", "diffusers")(model="someone/tiny").channels == 4
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(caches / "other"))
    with pytest.raises(PrerequisiteError, match="not in the local cache"):
        find("backbones", "diffusers")(model="someone/tiny")


def test_a_mirror_that_was_downloaded_keeps_its_commit_and_is_checked_by_the_hubs_digests(
    caches: Path, tmp_path: Path
) -> None:
    m = model(revision="b" * 40, pinned=True)
    folder = mirrored(tmp_path / "mirror" / "someone" / "tiny", "b" * 40)
    good = FILES["model.safetensors"]
    (folder / "model.safetensors").write_bytes(good[:-1] + b"\0")
    with pytest.raises(PrerequisiteError, match=rf"is damaged or another file: expected {blob_id(good)}, got"):
        fetch([m], mirror=tmp_path / "mirror")
    assert not (caches / "hub").exists()
    (folder / "model.safetensors").write_bytes(good)
    (found,) = fetch([m], mirror=tmp_path / "mirror")
    assert found.folder.name == "b" * 40
    assert state(model()).state == "present"  # a loader that asks for no commit finds it too


def test_a_mirror_of_another_or_an_unknown_commit_is_refused_for_a_pinned_model(caches: Path, tmp_path: Path) -> None:
    m = model(revision="b" * 40, pinned=True)
    folder = mirrored(tmp_path / "mirror" / "someone" / "tiny", "e" * 40)
    with pytest.raises(PrerequisiteError, match=r"holds commit e+, wanted is b+"):
        fetch([m], mirror=tmp_path / "mirror")
    shutil.rmtree(folder / ".cache")
    with pytest.raises(PrerequisiteError, match=r"hf download someone/tiny --revision b+ --local-dir"):
        fetch([m], mirror=tmp_path / "mirror")


def test_a_copied_hub_cache_and_a_plain_file_serve_as_mirrors(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    m, net = model(), model("net", repository="https://example.org/net.pth", files=["net.pth"])
    cached(caches, m, FILES)
    written(caches / "hub", {"net.pth": b"weights"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
    found = fetch([m, net], mirror=caches / "hub")
    assert [f.state for f in found] == ["present", "present"]
    assert found[0].folder == tmp_path / "another" / "models--someone--tiny" / "snapshots" / ("a" * 40)
    told = net.model_copy(update={"digests": {"net.pth": "0" * 8}})
    (found[1].folder / "net.pth").unlink()
    with pytest.raises(PrerequisiteError, match=r"net.pth is damaged or another file: expected 00000000"):
        fetch([told], mirror=caches / "hub")


def test_a_mirror_completes_what_a_branch_has_only_in_part(caches: Path, tmp_path: Path) -> None:
    cached(caches, model(), {"config.json": FILES["config.json"]})
    assert state(model()).state == "partial"
    mirrored(tmp_path / "mirror" / "someone" / "tiny", "b" * 40)
    (found,) = fetch([model()], mirror=tmp_path / "mirror")
    assert (found.state, found.folder.name) == ("present", "b" * 40)


def test_a_mirror_that_lacks_a_file_or_is_no_folder_is_refused(caches: Path, tmp_path: Path) -> None:
    written(tmp_path / "mirror" / "someone" / "tiny", {"config.json": "{}"})
    with pytest.raises(PrerequisiteError, match=r"tiny lacks model.safetensors"):
        fetch([model()], mirror=tmp_path / "mirror")
    with pytest.raises(PrerequisiteError, match=r"neither someone/other/ nor models--someone--other/"):
        fetch([model("other")], mirror=tmp_path / "mirror")
    with pytest.raises(UsageError, match="--mirror takes a folder"):
        fetch([model()], mirror=tmp_path / "nowhere")
