"""Weights are listed, fetched and checked by one manifest; a damaged, partial or gated model never passes for here."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fakehub
import pytest
from fakehub import blob_id, sha256
from small import PLUGINS, SUITE, small
from typer.testing import CliRunner

from bench import extractors, weights, weights_suite
from bench.cli import main
from bench.errors import PrerequisiteError, UsageError
from bench.registry import find
from bench.weights import Model, inventory, load_manifest, state
from bench.weights_check import check, digest
from bench.weights_fetch import fetch
from bench.weights_suite import choose, needed, seen_by

ROOT = Path(__file__).parent.parent
SD = [
    "model_index.json", "scheduler/*", "tokenizer/*", "text_encoder/config.json", "text_encoder/model.safetensors",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]  # fmt: skip
UNET = "unet/diffusion_pytorch_model.safetensors"


def model(name: str = "tiny", **fields: Any) -> Model:
    plain = {
        "name": name, "repository": f"someone/{name}", "files": ["config.json", "model.safetensors"], "size_gb": 0.001,
        "size_from": "computed", "licence": "MIT", "role": "scorer", "needed_by": ["gsd-dino"],
    }  # fmt: skip
    return Model.model_validate({**plain, **fields})


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the hub's and of torch's; the folder both are in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def manifest(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts other models into the manifest's place."""

    def put(*models: Model) -> None:
        for module in (weights, weights_suite):
            monkeypatch.setattr(module, "load_manifest", lambda: {m.name: m for m in models})

    return put


@pytest.fixture
def hub(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fakehub.Hub]:
    """A hub that downloads go to, as HF_ENDPOINT makes them."""
    from huggingface_hub import constants

    with fakehub.serve() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(caches / "no-token"))
        yield running


def written(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def cached(caches: Path, found: Model, files: dict[str, bytes], commit: str = "a" * 40) -> Path:
    """A repository in the hub's cache, as the hub writes it; returns the snapshot."""
    folder = caches / "hub" / f"models--{found.repository.replace('/', '--')}"
    written(folder, {"refs/main": commit})
    for name, data in files.items():
        blob = folder / "blobs" / blob_id(data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder / "snapshots" / commit


FILES = {"config.json": b'{"width": 3}', "model.safetensors": bytes(range(256)) * 20}


# -- the manifest


def test_the_manifest_names_every_extractor_that_is_not_shipped_and_what_it_is_made_of() -> None:
    for name, spec in extractors.NAMES.items():
        made = seen_by(name)
        if spec.file:
            assert name.startswith(made[0].name)  # one network may be several extractors: dinov2-vitb14-mean-518
            assert made[0].licence == spec.licence
            assert {(s.repo or s.url) for s in (spec, *spec.also)} == {m.repository for m in made}
        else:
            assert made == []


def test_a_pinned_model_names_a_commit_and_a_digest_in_a_file_name_is_in_the_manifest() -> None:
    for m in load_manifest().values():
        assert m.pinned == bool(re.fullmatch(r"[0-9a-f]{40}", m.revision))
        for file in m.files:
            if said := re.search(r"-([0-9a-f]{8})\.pth$", file):
                assert m.digests[file] == said[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("size_gb = 1.0", "size_gb = -1.0"), "model[0] 'one': size_gb: input should be greater than 0, got -1.0"),
        (("licence", "license"), "model[0] 'one': license: unknown key; did you mean 'licence'"),
        (('name = "one"', ""), "model[0] 'without a name': name: missing"),
        (('"scorer"', '"scorrer"'), "model[0] 'one': role: input should be"),
        (("pinned = false", "pinned = true"), "model[0] 'one': pinned means a revision of 40 hex digits"),
        (("digests = {}", 'digests = { "b.bin" = "00000000" }'), "digests names 'b.bin'"),
        (("digests = {}", 'digests = { "a.bin" = "00" }'), "64, or the first 8, hex digits"),
        (('"a/b"', '"https://example.org/c.pth"'), "files of a URL are the one file it ends in"),
        (("[[model]]", "[[model"), "cannot read the weights manifest"),
    ],
)
def test_a_wrong_entry_is_refused_with_file_entry_and_field(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = """
[[model]]
name = "one"
repository = "a/b"
pinned = false
files = ["a.bin"]
size_gb = 1.0
size_from = "recall"
licence = "MIT"
role = "scorer"
needed_by = ["kid"]
digests = {}
"""
    file = written(tmp_path, {"good.toml": text, "bad.toml": text.replace(*change)})
    assert list(load_manifest(file / "good.toml")) == ["one"]
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        load_manifest(file / "bad.toml")
    assert "bad.toml" in str(refused.value)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    entry = weights.MANIFEST.read_text().partition("\n[[model]]")[2].partition("\n[[model]]")[0]
    (tmp_path / "twice.toml").write_text(f"[[model]]{entry}\n[[model]]{entry}")
    with pytest.raises(UsageError, match=r"model\[1\] 'sd-1.4': name: is there twice"):
        load_manifest(tmp_path / "twice.toml")


# -- what a suite needs


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
    assert [m.name for m in seen_by("aesthetic-v2")] == ["aesthetic-v2", "clip-vit-l-14"]
    assert [m.name for m in seen_by("image-reward")] == ["image-reward", "bert-base-uncased"]


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


def test_a_backbone_brings_the_model_it_is_told_at_the_revision_it_is_told(tmp_path: Path) -> None:
    told = f'backbone_options = {{ model = "black-forest-labs/FLUX.1-dev", revision = "{"b" * 40}" }}\n'
    text = told + FULL.replace('"plugins.py@fake"', '"diffusers"')
    (flux,) = needed(small(tmp_path, suite=text))
    assert (flux.name, flux.revision, flux.pinned) == ("flux.1-dev", "b" * 40, True)
    assert weights.command(flux).startswith(f"hf download black-forest-labs/FLUX.1-dev --revision {'b' * 40}")
    assert weights.command(load_manifest()["flux.1-dev"]) == "scrollbench weights fetch flux.1-dev"


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


# -- what is here


def test_a_model_is_missing_partial_or_present_without_asking_the_network(caches: Path) -> None:
    m = model()
    assert state(m).state == "missing"
    cached(caches, m, {"config.json": FILES["config.json"]})
    assert (state(m).state, state(m).lacking) == ("partial", ("model.safetensors",))
    folder = cached(caches, m, FILES, commit="b" * 40)
    assert (state(m).state, state(m).folder, state(m).files) == ("present", folder, tuple(FILES))
    (folder / "model.safetensors").resolve().unlink()  # a link to nothing is no file
    assert state(m).state == "partial"
    pinned = model(revision="d" * 40, pinned=True)
    assert state(pinned).state == "missing"


def test_a_shard_that_an_index_names_and_that_is_not_here_makes_a_model_partial(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}})
    folder = written(tmp_path, {"unet/m.safetensors.index.json": index, "unet/m-1-of-2.safetensors": b"1"})
    patterns = ["unet/m-*.safetensors", "unet/*.index.json"]
    assert inventory(folder, patterns)[1] == ("unet/m-2-of-2.safetensors",)
    written(folder, {"unet/m-2-of-2.safetensors": b"2"})
    assert inventory(folder, patterns)[1] == ()
    written(folder, {"unet/m.safetensors.index.json": "{"})
    assert inventory(folder, patterns)[1] == ("unet/m.safetensors.index.json (unreadable)",)


def test_a_file_from_a_url_is_looked_for_in_torchs_folder(caches: Path) -> None:
    m = load_manifest()["lpips-alex"]
    assert state(m).state == "missing"
    written(caches / "torch" / "hub" / "checkpoints", {"alexnet-owt-7be5be79.pth": b"not really"})
    assert state(m).state == "present"
    assert state(m).folder == extractors._place(extractors.NAMES["lpips-alex"])[0].parent
    (seen,) = check(state(m))
    assert (seen.state, seen.expected) == ("damaged", "7be5be79")


def test_a_flipped_byte_is_found_in_large_and_in_small_files(caches: Path) -> None:
    m = model()
    folder = cached(caches, m, FILES)
    assert [c.state for c in check(state(m))] == ["sound", "sound"]
    for name in FILES:
        path = (folder / name).resolve()
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        assert [c.state for c in check(state(m)) if c.path.name == name] == ["damaged"]
        path.write_bytes(data)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"])  # no link, no digest
    assert [c.state for c in check(state(m))] == ["sound", "unchecked"]
    told = model(digests={"model.safetensors": "0" * 8})
    assert [c.state for c in check(state(told))] == ["sound", "damaged"]


def test_the_git_id_of_a_file_is_gits(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello\n")
    assert digest(tmp_path / "hello", git=True) == "ce013625030ba8dba906f756967f9e9ca394464a"


# -- fetching


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
    kept = len(hub.repos["someone/tiny"][UNET]) // 2 // 1000 * 1000  # whole chunks before the line went dead
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
    assert backbone.describe(model="someone/tiny").weights_digest == f"someone/tiny@{fakehub.COMMIT}"
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
    assert info.weights_digest == f"someone/tiny@{found.folder.name}"
    assert find("backbones", "diffusers")(model="someone/tiny").channels == 4
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(caches / "other"))
    with pytest.raises(PrerequisiteError, match="not in the local cache"):
        find("backbones", "diffusers")(model="someone/tiny")


def mirrored(folder: Path, commit: str, files: dict[str, bytes] = FILES) -> Path:
    """Plain files with the notes that ``hf download --local-dir`` writes."""
    written(folder, files)
    notes = {f"{name}.metadata": f"{commit}\n{blob_id(data)}\n1.0\n" for name, data in files.items()}
    written(folder / ".cache" / "huggingface" / "download", notes)
    return folder


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


# -- the command line


def call(*args: object) -> Any:
    return CliRunner().invoke(main, ["weights", *map(str, args)])


def test_the_list_says_what_is_here_and_how_to_get_the_rest(caches: Path) -> None:
    here = load_manifest()["dinov2-vits14"]
    cached(caches, here, {"model.safetensors": b"x"}, here.revision)
    rows = {row["name"]: row for row in json.loads(call("list", "--json").stdout)}
    assert set(rows) == set(load_manifest())
    assert (rows["dinov2-vits14"]["state"], rows["dinov2-vits14"]["fix"]) == ("present", "")
    assert rows["flux.1-dev"]["fix"].endswith("2. run `hf auth login`; then scrollbench weights fetch flux.1-dev")
    assert "dinov2-vits14" in call("list").stdout
    only = call("list", "miniature")
    assert (only.exit_code, only.stdout, only.stderr) == (0, "", "miniature needs no models from outside\n")


def test_offline_and_missing_is_exit_code_3_with_the_command(caches: Path) -> None:
    said = call("fetch", "dinov2-vits14")
    assert (said.exit_code, said.stdout) == (3, "")
    assert "HF_HUB_OFFLINE=0 scrollbench weights fetch dinov2-vits14" in said.stderr
    assert call("fetch", "lpips-alex").exit_code == 3
    assert call("fetch", "dino").exit_code == 2


def test_a_dry_run_sums_what_is_absent_and_fetches_nothing(caches: Path) -> None:
    said = call("fetch", "dinov2-vits14", "dinov2-vitl14", "--dry-run", "--json")
    assert [row["name"] for row in json.loads(said.stdout)] == ["dinov2-vits14", "dinov2-vitl14"]
    assert "1.3 GB at most to fetch" in said.stderr
    assert not (caches / "hub").exists()


def test_a_fetch_from_a_mirror_speaks_json(caches: Path, tmp_path: Path, manifest: Callable[..., None]) -> None:
    manifest(model())
    mirrored(tmp_path / "mirror" / "someone" / "tiny", "b" * 40)
    said = call("fetch", "tiny", "--mirror", tmp_path / "mirror", "--json")
    assert said.exit_code == 0, said.stderr
    assert [(row["name"], row["state"]) for row in json.loads(said.stdout)] == [("tiny", "present")]


def test_verify_exits_with_1_on_a_damaged_file_and_3_on_a_missing_one(
    caches: Path, manifest: Callable[..., None]
) -> None:
    m, gone = model(), model("gone")
    manifest(m, gone)
    folder = cached(caches, m, FILES)
    assert (call("verify").exit_code, call("verify", "tiny").exit_code) == (0, 0)
    assert call("verify", "tiny", "gone").exit_code == 3
    (folder / "model.safetensors").resolve().write_bytes(b"another")
    said = call("verify", "--json")
    (row,) = json.loads(said.stdout)
    assert (said.exit_code, row["state"], row["damaged"]) == (1, "damaged", [str(folder / "model.safetensors")])
    assert "scrollbench weights fetch tiny" in said.stderr


# -- no code hides in weights


PICKLES = r"(c?pickle|dill|joblib|cloudpickle)\.(load|loads|Unpickler)|torch\.hub\.load|(pd|pandas)\.read_pickle"


def unsafe(source: str) -> list[int]:
    """Lines that may unpickle anything: loads without restriction."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        said = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        name = ast.unparse(node.func)
        if name in ("torch.load", "torch.hub.load_state_dict_from_url", "load_state_dict_from_url"):
            found += [node.lineno] if said.get("weights_only") is not True else []
        elif said.get("allow_pickle") is True or re.fullmatch(PICKLES, name, re.IGNORECASE):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "pickle.loads(data)",
        "np.load(path, allow_pickle=True)",
        "torch.hub.load('someone/repo', 'model')",
    ],
)
def test_the_scan_finds_loads_without_restriction(source: str) -> None:
    assert unsafe(source) == [1]
    assert unsafe("torch.load(path, map_location='cpu', weights_only=True)\nnp.load(path)") == []


def test_nothing_in_the_project_unpickles_without_restriction() -> None:
    sources = [p for part in ("bench", "methods") for p in (ROOT / part).rglob("*.py")]
    assert len(sources) > 30
    found = {str(p.relative_to(ROOT)): lines for p in sources if (lines := unsafe(p.read_text(encoding="utf-8")))}
    assert found == {}
