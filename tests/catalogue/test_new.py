"""What `scrollbench new` writes works as it is, whatever the file is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.catalogue.conformance import check, passed
from bench.catalogue.new import KINDS, write_new
from bench.errors import UsageError
from bench.pipeline.executors.preflight import preflight
from bench.pipeline.measure import evaluate
from bench.pipeline.plan import make_plan
from bench.registry import find
from bench.store import Store
from bench.suites.load import load_suite


@pytest.mark.parametrize("name", ["mine", 'it\'s "mine" 2'])
def test_a_new_method_keeps_all_rules(name: str, tmp_path: Path, tiny_sd: Path) -> None:
    commands = write_new("method", tmp_path / f"{name}.py")
    results = check(f"{tmp_path / name}.py@{name}", backbone="diffusers", model=str(tiny_sd))
    assert passed(results), results
    assert [c.split()[1] for c in commands] == ["check", "gate", "run"]


def test_a_new_metric_gives_its_number(tmp_path: Path) -> None:
    write_new("metric", tmp_path / "mymetric.py")
    (tmp_path / "pictures").mkdir()
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, 32:] = 255
    Image.fromarray(halves).save(tmp_path / "pictures" / "a.png")
    (row,) = evaluate(tmp_path / "pictures", metrics=[f"{tmp_path / 'mymetric.py'}@mymetric"], tier="miniature")
    assert row.value == 1.0
    assert find("metrics", f"{tmp_path / 'mymetric.py'}@mymetric").range == (0, 1)


def test_a_new_suite_can_be_run(tmp_path: Path) -> None:
    write_new("suite", tmp_path / "my suite.toml")
    suite = load_suite(str(tmp_path / "my suite.toml"), {})
    plan = make_plan(suite, Store(tmp_path / "store"))
    assert (suite.name, len(plan.jobs)) == ("my-suite", 16)
    assert {m.label for m in suite.metrics} == {"sharpness", "gsd-lpips"}
    preflight(plan)


def test_nothing_is_overwritten_and_wrong_kinds_and_endings_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("dear")
    for kind, path, said in (
        ("method", file, "is there already"),
        ("metod", file, "did you mean 'method'"),
        ("suite", file, r"a suite is a file \.toml; got .*try .*mine\.toml"),
        ("metric", tmp_path / "no" / "mine.py", "cannot be written"),
    ):
        with pytest.raises(UsageError, match=said):
            write_new(kind, path)
    assert file.read_text() == "dear"
    assert {k.suffix for k in KINDS.values()} == {".py", ".toml"}
