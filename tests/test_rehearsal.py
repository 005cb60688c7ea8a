"""The documented way from a machine without weights to a number, on tiny random weights in the released layout."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bench import toml
from bench.cli.app import main
from bench.extractors.weights.manifest import Model, load_manifest, repository_folder
from bench.registry import find
from bench.suites.file import read_suite
from bench.suites.load import load_suite
from methods.backbones.llamagen import convert
from methods.backbones.tiny.llamagen import SIZES, write_tiny_llamagen
from rehearsal import gpu, sizes, suites
from rehearsal.__main__ import covered
from rehearsal.stages import block, logged, without_number
from tests.support.small import SUITE, write_suite
from tests.support.tiny_pipelines import shard

MODEL = "sd-2.0-base"
REAL = (
    SUITE.replace('"miniature"', '"full"')
    .replace(
        'backbone = "plugins.py@fake"', 'backbone = "sd20"\nbackbone_options = { precision = "fp16", variant = "fp16" }'
    )
    .replace("width = 16\nheight = 8", "width = 32\nheight = 16")
    .replace('ref = "plugins.py@grain"', 'ref = "multidiffusion"\n[methods.set]\nsteps = 2\nstride = 2')
    .replace('ref = "plugins.py@latent-grain"\nlabel = "latent"', 'ref = "direct"\n[methods.set]\nsteps = 2')
)


def noted(folder: Path, model: Model) -> None:
    """The notes that ``hf download --local-dir`` leaves beside what it fetched."""
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        note = folder / ".cache" / "huggingface" / "download" / f"{file.relative_to(folder)}.metadata"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{model.revision if model.pinned else 'd' * 40}\n{digest}\n1.0\n")


@pytest.fixture
def mirror(tiny_sd: Path, tmp_path: Path) -> Path:
    """What ``hf download`` writes of the repository, which also holds the denoiser in 16 bits."""
    model = load_manifest()[MODEL]
    folder = tmp_path / "mirror" / model.repository
    shutil.copytree(tiny_sd, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(weights).items()}
    save_file(halves, weights.with_name("diffusion_pytorch_model.fp16.safetensors"), metadata={"format": "pt"})
    noted(folder, model)
    return tmp_path / "mirror"


def test_doctor_fetch_verify_run_and_again(mirror: Path, caches: Path, tmp_path: Path) -> None:
    suite = str(write_suite(tmp_path / "suite", REAL))
    store = ["--store", str(tmp_path / "store")]

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, list(words))

    asked = call("doctor", "--suite", suite, *store, "--json")
    last = json.loads(asked.stdout)[-1]
    assert (asked.exit_code, last["what"], last["fix"]) == (
        3,
        "all that is lacking",
        f"scrollbench weights fetch {suite}",
    )
    assert call("run", "--suite", suite, *store).exit_code == 3

    fetched = call("weights", "fetch", suite, "--mirror", str(mirror), "--json")
    assert (fetched.exit_code, [row["name"] for row in json.loads(fetched.stdout)]) == (0, [MODEL])
    names = {p.name for p in repository_folder(load_manifest()[MODEL].repository).rglob("unet/*.safetensors")}
    assert names == {"diffusion_pytorch_model.fp16.safetensors"}  # and not the one of twice the size
    verified = call("weights", "verify", suite, "--json")
    assert (verified.exit_code, json.loads(verified.stdout)[0]["unchecked"]) == (0, 0)

    refused = call("run", "--suite", suite, *store, "--device", "cpu")
    assert refused.exit_code == 2
    assert "--precision bf16" in refused.output
    assert not (tmp_path / "store" / "images").exists()

    bf16 = ["--suite", suite, *store, "--precision", "bf16", "--device", "cpu", "--json"]
    assert call("doctor", *bf16[:-3], "--device", "cpu").exit_code == 0
    done = call("run", *bf16, "--limit", "1")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["generate"]["made"] == 2
    again = json.loads(call("run", *bf16, "--limit", "1").stdout)
    assert (again["generate"]["made"], again["score"]["scored"]) == (0, 0)


TOKENS = """
name = "tokens"
version = "1"
tier = "full"
backbone = "llamagen"
backbone_options = { model = "FOLDER", precision = "fp32" }
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "prompts.jsonl"
[[methods]]
ref = "direct-tokens"
"""


def test_fetching_a_suite_makes_the_folder_that_llamagen_loads(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, mirror = write_tiny_llamagen(tmp_path / "tiny"), tmp_path / "mirror"
    tokens, text = (load_manifest()[name] for name in ("llamagen-t2i", "flan-t5-xl"))
    monkeypatch.setattr(convert, "released", lambda: SIZES)
    folders = [mirror / model.repository for model in (tokens, text)]
    folders[0].mkdir(parents=True)
    for part, file in zip(("gpt", "vq"), tokens.files):
        torch.save({"model": load_file(tiny / part / "model.safetensors")}, folders[0] / file)
    shutil.copytree(tiny / "t5", folders[1])
    shard(folders[1] / "model.safetensors")
    for name in ("spiece.model", "special_tokens_map.json"):
        (folders[1] / name).write_text("{}")
    for folder, model in zip(folders, (tokens, text)):
        noted(folder, model)

    made = tmp_path / "weights" / "llamagen"
    suite = str(write_suite(tmp_path / "suite", TOKENS.replace("FOLDER", str(made))))
    words = ["weights", "fetch", suite, "--mirror", str(mirror)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert f"making {made} of the fetched files" in done.stderr
    for part in ("gpt", "vq"):
        ours, theirs = (load_file(root / part / "model.safetensors") for root in (made, tiny))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    run = ["run", "--suite", suite, "--store", str(tmp_path / "store"), "--device", "cpu", "--limit", "1", "--json"]
    drawn = CliRunner().invoke(main, run)
    assert (drawn.exit_code, json.loads(drawn.stdout)["generate"]["made"]) == (0, 1)

    stamp = (made / "gpt" / "config.json").stat().st_mtime_ns
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, "making" in again.stderr) == (0, False)
    assert (made / "gpt" / "config.json").stat().st_mtime_ns == stamp


def test_every_suite_of_tier_full_has_a_small_form_of_the_same_methods_and_metrics(tmp_path: Path) -> None:
    for name in suites.full():
        spec = read_suite(find("suites", name))
        file = tmp_path / f"{name}.toml"
        file.write_text(toml.written(suites._plain(suites.reduced(spec))))
        ours, theirs = load_suite(file, {"limit": 1}), load_suite(name, {"limit": 1})
        little = [load_suite(f, {"limit": 1, "tier": "miniature"}) for f in (file, name)]
        assert [p.canvas for p in little[0].parts] == [p.canvas for p in little[1].parts]
        assert [m.label for m in ours.methods] == [m.label for m in theirs.methods]
        assert [m.label for m in ours.metrics] == [m.label for m in theirs.metrics]
        assert all(
            (a.canvas.width * 8, a.canvas.height * 8) <= (b.canvas.width, b.canvas.height)
            for a, b in zip(ours.parts, theirs.parts)
        )
        assert "fp16" not in {m.backbone_options.get("precision") for m in ours.methods}


def test_small_sizes_are_those_of_every_part_of_llamagen() -> None:
    assert set(sizes.LLAMAGEN) == set(convert.released())


def test_the_rehearsal_takes_its_commands_from_the_readme() -> None:
    first, *lines = [shlex.split(line.partition("#")[0])[1:] for line in block()]
    assert first == ["start"]
    assert [words[0] for words in lines] == ["doctor", "plan", "weights", "run", "run"]
    assert all("pano-1k" in words for words in lines)


def test_the_list_of_what_was_covered_names_suites_methods_and_metrics() -> None:
    went = [{"suite": "README", "lines": ["scrollbench start"]}]
    went += [{"suite": "one", "methods": ["direct", "mad"], "metrics": ["kid", "fid", "gsd-dino"]}]
    said = covered(went)
    assert "| one | direct, mad | kid, fid, gsd-dino |" in said
    assert "1 suites, 6 methods x metrics" in said


def test_a_cell_without_a_number_is_found() -> None:
    columns, numbers = [{"label": "kid"}, {"label": "nfe"}], {"kid": 0.1, "nfe": 3}
    board = {"columns": columns, "methods": [{"method": "mad", "numbers": numbers}]}
    assert without_number(board) == []
    del numbers["kid"]
    assert without_number(board) == ["mad x kid"]


def test_what_a_library_logs_as_a_warning_is_heard() -> None:
    told = logging.getLogger("diffusers.models")
    with logged() as found:
        told.info("read this")
        told.warning("mind this")
    told.warning("afterwards")
    assert found == ["diffusers.models logged: mind this"]


def test_on_a_gpu_a_forecast_off_by_more_than_a_quarter_is_a_fault() -> None:
    row = {"method": "direct", "forecast s": 4.0, "measured s": 4.9, "forecast GB": 8.0, "measured GB": 6.1}
    assert gpu.faults([row]) == []
    assert gpu.faults([row | {"measured s": 5.1}]) == ["direct: 5.1 s where 4 were forecast"]
    assert gpu.faults([row | {"measured GB": None}]) == ["direct: None GB where 8 were forecast"]
