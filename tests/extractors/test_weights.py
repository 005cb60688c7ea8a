"""The manifest of weights, what is here of it, and the command line; no code hides in weights."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import extractors
from bench.cli.app import main
from bench.errors import UsageError
from bench.extractors import catalogue
from bench.extractors.weights import manifest as weights_manifest
from bench.extractors.weights.digests import check, digest
from bench.extractors.weights.manifest import inventory, load_manifest, state
from tests.support.fakehub import FILES, cached, mirrored, model, written

ROOT = Path(__file__).parents[2]


# -- the manifest


def test_the_manifest_names_every_extractor_that_is_not_shipped_and_what_it_is_made_of() -> None:
    for name, spec in extractors.NAMES.items():
        made = catalogue.models(name)
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
        (("[[model]]", "[[model"), "not TOML"),
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
    entry = weights_manifest.MANIFEST.read_text().partition("\n[[model]]")[2].partition("\n[[model]]")[0]
    (tmp_path / "twice.toml").write_text(f"[[model]]{entry}\n[[model]]{entry}")
    with pytest.raises(UsageError, match=r"model\[1\] 'sd-1.4': name: is there twice"):
        load_manifest(tmp_path / "twice.toml")


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
    assert state(m).folder == Path(extractors.card("lpips-alex")["path"]).parent
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
    # What a child and its own parent say to each other, through a pipe, and a command and its own actors through Ray.
    pipes = {f"bench/pipeline/executors/{name}.py" for name in ("children", "worker", "ray")}
    assert set(found) == pipes
