"""Figures of growing sizes, and the history of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are not part of the package

from bench.pipeline.plan import make_plan
from bench.store import Store
from bench.suites.load import load_suite
from benchmarks import history, scale
from benchmarks.timing import Settings


def test_plans_and_leaderboards_are_of_the_sizes_that_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def told(*words: str) -> dict[str, float]:
        asked.append(" ".join(words[:2]))
        return {"s": 1.0, "processor s": len(asked), "MB": 2.0}

    monkeypatch.setattr(scale, "command", told)
    tables = scale.scale(Settings(tmp_path, quick=True)).tables
    assert [row["pictures"] for row in tables["plan"]] == [2000, 4000]
    plan = make_plan(load_suite(tmp_path / "plan-4000" / "gated.toml"), Store(tmp_path / "none"))
    assert len(plan.jobs) == 4000
    for words in scale.ASKED:
        assert [row["rows"] for row in tables[words]] == [2000, 4000]
    lines = sum(len(r["values"]) for r in Store(tmp_path / "rows-4000" / "store").records() if r["kind"] == "score")
    assert lines == 4000
    assert asked.count("store index") == 2
    assert tables["start"][1]["processor s"] == len(asked) - 0.5  # the first is left out: the median of the last two


def test_a_command_is_measured_apart_and_one_that_fails_is_no_figure() -> None:
    found = scale.command("--help")
    assert 0 < found["processor s"] < 60
    assert 10 < found["MB"] < 500  # without what this process holds
    with pytest.raises(RuntimeError, match=r"exit code 2\n(.|\n)*nothing"):
        scale.command("nothing")


def run(date: str, median: float, **more: Any) -> dict[str, Any]:
    ratio = {"name": "a / b", "median": median, "low": median - 1, "high": median + 1}
    tables = {"plan": [{"pictures": 10, "processor s": 1.0}, {"pictures": 20, "processor s": 3.0}], "none": [{"x": 1}]}
    machine = {"cpu": "C", "device": "cpu", "date": date}
    return {"machine": machine, "quick": False, "benchmarks": {"b": {"ratios": [ratio], "tables": tables}}, **more}


def test_a_history_grows_by_a_line_a_run_and_is_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for n, date in enumerate(("2026-01-01", "2026-02-01")):
        picture = history.keep(folder, run(date, 2.0 + n))
    history.keep(folder, run("2026-03-01", 9.0, quick=True))
    with (folder / history.LINES).open("a") as file:
        file.write('{"machine": ')  # a stop in mid-write
    runs = history.read(folder)
    assert [r["machine"]["date"] for r in runs] == ["2026-01-01", "2026-02-01", "2026-03-01"]
    found = history.series(runs)
    assert [(p.run, p.median, p.low, p.high) for p in found["a / b"]] == [(0, 2.0, 1.0, 3.0), (1, 3.0, 2.0, 4.0)]
    assert [p.median for p in found["plan, 20: processor s"]] == [3.0, 3.0]
    assert set(found) == {"a / b", "plan, 20: processor s"}
    assert picture.read_bytes().startswith(b"\x89PNG")
