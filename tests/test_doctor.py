"""The doctor names what is missing, and the command that mends it, before a long run finds out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small import SUITE, small, write_suite
from typer.testing import CliRunner

from bench import doctor
from bench.cli import main
from bench.doctor import Check, examine, ready
from bench.store import Store


def find(checks: list[Check], what: str) -> Check:
    (found,) = [c for c in checks if c.what == what]
    return found


def test_a_suite_whose_parts_are_all_here_is_ready(tmp_path: Path) -> None:
    checks = examine(small(tmp_path), Store(tmp_path / "store"))
    assert ready(checks)
    assert find(checks, "packages").state == "ok"
    assert find(checks, "store").detail.endswith("the first run makes it")
    backbone = next(c for c in checks if c.what.startswith("backbone"))
    assert backbone.detail == "weights weights-1"


def test_missing_weights_come_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    text = SUITE.replace('ref = "plugins.py@brightness"', 'ref = "gsd-dino"\nextractor = "dinov2-vits14"')
    checks = examine(small(tmp_path, suite=text), Store(tmp_path / "store"))
    missing = find(checks, "extractor dinov2-vits14")
    assert (missing.state, missing.fix.split()[:2]) == ("missing", ["hf", "download"])
    assert not ready(checks)


def test_a_backbone_or_metric_that_does_not_load_is_missing(tmp_path: Path) -> None:
    backbone = examine(small(tmp_path / "a", suite=SUITE.replace("@fake", "@fke")), Store(tmp_path / "store"))
    metric = examine(small(tmp_path / "b", suite=SUITE.replace("@brightness", "@brigtness")), Store(tmp_path / "store"))
    assert "did you mean 'fake'" in next(c for c in backbone if c.what.startswith("backbone")).detail
    assert "brightness" in find(metric, "metrics").detail
    assert not ready(backbone)
    assert not ready(metric)


def test_an_absent_or_old_package_is_missing_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=999", "no-such-package", 'extra-only; extra == "test"', "rich"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    found = {c.what: c.fix for c in doctor._packages()}
    assert found == {
        "package numpy>=999": 'pip install "numpy>=999"',
        "package no-such-package": 'pip install "no-such-package"',
    }


def test_a_damaged_store_is_found_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    suite = small(tmp_path)
    (tmp_path / "store" / "records").mkdir(parents=True)
    (tmp_path / "store" / "records" / "a.jsonl").write_text("not a record\n")
    damaged = find(examine(suite, store), "store")
    assert (damaged.state, damaged.fix) == ("missing", "scrollbench store verify --repair")


def test_the_verb_exits_with_3_when_something_is_missing_and_0_when_not(tmp_path: Path) -> None:
    good = write_suite(tmp_path / "good")
    bad = write_suite(tmp_path / "bad", SUITE.replace("@brightness", "@brigtness"))
    store = ["--store", str(tmp_path / "store"), "--json"]
    fine = CliRunner().invoke(main, ["doctor", "--suite", str(good), *store])
    wrong = CliRunner().invoke(main, ["doctor", "--suite", str(bad), *store])
    assert (fine.exit_code, wrong.exit_code) == (0, 3)
    assert "missing" in [row["state"] for row in json.loads(wrong.stdout)]
    assert not (tmp_path / "store").exists()
