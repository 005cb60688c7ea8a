"""What a command's exit code says, whatever a sampler or our own code does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.analysis import gate as gates
from bench.analysis.gate import EXIT
from bench.cli import console
from bench.cli.app import main
from bench.errors import Exit, PrerequisiteError, UsageError
from tests.support.small import PLUGINS, SUITE, write_suite

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"
GATE = ["gate", "--baseline", "plugins.py@grain", "--candidate", "latent"]


def call(*args: Any, executor: str = "local") -> Any:
    return CliRunner(env={"SCROLLBENCH_EXECUTOR": executor}).invoke(main, [str(a) for a in args])


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SCROLLBENCH_STORE", str(tmp_path / "store"))
    brighter = PLUGINS.replace('"brightness": "none"', '"brightness": "higher"')
    file = write_suite(tmp_path, SUITE + "[gate.margins]\nbrightness = 1000\n", brighter)
    return ["--suite", str(file)]


def raising(error: BaseException) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ZeroDivisionError("a mistake of ours"), Exit.CRASHED, "ZeroDivisionError: a mistake of ours"),
        (MemoryError(), Exit.CRASHED, "says nothing about what it was asked to judge"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "the same command goes on"),
        (BrokenPipeError(), Exit.INTERRUPTED, ""),
        (UsageError("a mistake of yours"), Exit.USAGE, "scrollbench: a mistake of yours"),
        (PrerequisiteError("fetch it"), Exit.PREREQUISITE, "scrollbench: fetch it"),
    ],
)
def test_a_gate_that_could_not_judge_never_leaves_with_a_verdict(
    suite: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: Exit, said: str
) -> None:
    monkeypatch.setattr(gates, "margins_of", raising(error))
    told = call(*GATE, *suite)
    assert told.exit_code == code
    assert code not in set(EXIT.values())
    assert said in told.stderr
    assert ("Traceback" in told.stderr) == (code == Exit.CRASHED)


def test_unguarded_a_fault_of_ours_would_read_as_regressed(suite: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "margins_of", raising(ZeroDivisionError()))
    monkeypatch.setattr(console, "LEAVING", Exception)
    assert call(*GATE, *suite).exit_code == EXIT["regressed"] == Exit.FAILED


def test_every_exit_code_is_documented() -> None:
    head = DOCS.read_text().partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", head, re.M)] == sorted(Exit)


def test_a_sampler_that_ends_its_process_passes_nothing(suite: list[str], tmp_path: Path) -> None:
    broken = PLUGINS.replace("backbone.meter.nfe += steps", "import os; os._exit(0)")
    (tmp_path / "gone.py").write_text(broken)
    candidate = f"{tmp_path / 'gone.py'}@latent-grain"
    words = [*suite, "--limit", 1, "--executor", "processes"]
    made = call("run", *words, "--method", candidate, "--json")
    assert made.exit_code == Exit.INCOMPLETE
    (failure,) = json.loads(made.stdout)["generate"]["failures"]
    assert failure["message"].startswith("ended its process with exit code 0")
    judged = call("gate", "--baseline", "plugins.py@grain", "--candidate", candidate, "--run", *words)
    assert judged.exit_code == Exit.INCOMPLETE
    assert "ended its process with exit code 0" in judged.stderr


def test_a_check_of_a_sampler_that_ends_its_process_fails(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(PLUGINS.replace("return scale *", "import os; os._exit(0)\n    return scale *"))
    told = call("check", f"{tmp_path / 'gone.py'}@grain", "--json", executor="processes")
    assert told.exit_code == Exit.FAILED
    (row,) = json.loads(told.stdout)
    assert (row["name"], row["ok"]) == ("runs", False)
    assert "ended its process" in row["message"]


def test_a_file_that_ends_the_process_when_it_is_imported_is_refused(suite: list[str], tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text("import os\nos._exit(0)\n")
    told = call("run", *suite, "--method", f"{tmp_path / 'gone.py'}@mine", executor="processes")
    assert told.exit_code == Exit.USAGE
    assert "gone.py does not import: it ended its process with exit code 0" in told.stderr
