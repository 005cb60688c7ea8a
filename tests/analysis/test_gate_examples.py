"""The broken samplers of the documentation, on the real miniature: short, with few steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bench.analysis.columns import measures
from bench.analysis.gate import GateResult, gate, margins_of
from bench.cli.app import main
from bench.errors import UsageError
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from bench.suites.suite import Suite

FILE = Path(__file__).parents[2] / "docs" / "examples" / "broken_samplers.py"
BROKEN = ("reseeded", "seam", "repetition", "lost-prompt", "blurred", "slower")

SUITE = """
name = "short"
version = "1"
tier = "miniature"
backbone = "world-sd"
[defaults]
steps = 3
[[parts]]
name = "2to1"
width = 64
height = 32
prompts = "scrollworld@1:spread"
[[methods]]
ref = "multidiffusion"
[methods.set]
guidance = 2.5
stride = 2
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Suite, Store]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "short.toml").write_text(SUITE)
    refs = ["multidiffusion", *(f"{FILE}@{name}" for name in ("refactored", *BROKEN))]
    suite, store = load_suite(folder / "short.toml", {"limit": 2, "methods": refs}), Store(folder / "store")
    assert generate(make_plan(suite, store), store).complete
    build(store)
    return suite, store


def judged(drawn: tuple[Suite, Store], name: str) -> GateResult:
    suite, store = drawn
    return gate(store, suite, "multidiffusion", f"broken_samplers.py@{name}", {"nfe": 0})


def test_the_refactored_sampler_draws_the_same_pixels_and_passes(drawn: tuple[Suite, Store]) -> None:
    result = judged(drawn, "refactored")
    assert result.verdict == "pass"
    assert result.report.equal == result.report.cells == 2


@pytest.mark.parametrize("name", BROKEN[:-1])
def test_every_other_one_draws_something_else(drawn: tuple[Suite, Store], name: str) -> None:
    assert judged(drawn, name).report.equal == 0


def test_a_third_more_work_is_caught_by_the_count_of_evaluations(drawn: tuple[Suite, Store]) -> None:
    result = judged(drawn, "slower")
    assert result.report.equal == 2
    assert result.verdict == "regressed"
    assert result.checks[0].message.startswith("nfe lost")


def test_the_workflow_and_the_hook_of_the_documentation_use_commands_that_exist() -> None:
    """They are read as YAML, and every option they give to the gate is one it has."""
    steps = yaml.safe_load((FILE.parent / "gate.yml").read_text())["jobs"]["gate"]["steps"]
    (hook,) = yaml.safe_load((FILE.parent / "pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (workflow,) = [s["run"] for s in steps if "nox" in s.get("run", "") and "gate" in s["run"]]
    known = set(
        CliRunner().invoke(main, ["gate", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output.split()
    )
    assert "--no-such" not in known
    for command in (workflow, hook["entry"]):
        given = {word for word in command.split() if word.startswith("--") and word != "--"}
        assert {"--baseline", "--candidate"} <= given <= known


def test_the_gate_suite_has_a_margin_above_zero_for_numbers_that_it_measures() -> None:
    suite = load_suite("miniature-gate")
    margins = margins_of(suite)
    assert {m.name for m in measures(suite, margins)} == set(margins)
    assert {"clip-score", "gsd-lpips", "pl-tv-seam", "sharpness"} <= set(margins)
    assert min(margins.values()) > 0
    with pytest.raises(UsageError, match="measures no 'speed'"):
        measures(suite, ["speed"])
