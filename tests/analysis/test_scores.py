"""Comparisons and gates on anybody's table of scores: the statistics of suites, and plain words on bad tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from bench.analysis.scores.judge import compare_scores, gate_scores
from bench.analysis.scores.table import directions, read_scores
from bench.cli.app import main
from bench.errors import Exit, UsageError
from bench.stats.means import estimate
from bench.store import Store

STORE = Store("never made")  # nothing is read from it
RNG = np.random.default_rng(3)
OLD = RNG.normal(0.6, 0.1, (30, 2))
NEW = OLD + RNG.normal(0.05, 0.02, (30, 2))


def lines(method: str, values: np.ndarray) -> str:
    return "".join(f"p{i},{s},accuracy,{v},{method}\n" for (i, s), v in np.ndenumerate(values))


TABLE = "prompt,seed,metric,value,method\n" + lines("old", OLD) + lines("new", NEW)


def scores(folder: Path, *texts: str) -> Any:
    files = []
    for i, text in enumerate(texts):
        files.append(folder / f"t{i}.csv")
        files[-1].write_text(text)
    return read_scores(files)


def test_a_table_is_compared_by_the_statistics_of_suites(tmp_path: Path) -> None:
    found = scores(tmp_path, TABLE)
    (c,) = compare_scores(found, STORE, "old", "new", directions(["accuracy=higher"], found.metrics)).comparisons
    gains = NEW.mean(1) - OLD.mean(1)
    expected = estimate(sorted(gains))
    assert c.gain is not None
    assert (c.gain.value, c.gain.n, c.said) == (pytest.approx(gains.mean()), 30, "better")
    assert c.gain.se == pytest.approx(expected.se)
    assert c.gain.p < 0.001
    (worse,) = compare_scores(found, STORE, "new", "old", directions(["accuracy=higher"], found.metrics)).comparisons
    assert worse.said == "worse"
    (neither,) = compare_scores(found, STORE, "old", "new", directions([], found.metrics)).comparisons
    assert neither.said == "differs"


def test_parquet_extra_columns_and_a_file_a_method_are_read_alike(tmp_path: Path) -> None:
    whole = scores(tmp_path, TABLE)
    duckdb.sql(f"select *, 1 as more from read_csv('{tmp_path / 't0.csv'}')").write_parquet(str(tmp_path / "t.parquet"))
    assert read_scores([tmp_path / "t.parquet"]).numbers == whole.numbers
    for name, values in (("old", OLD), ("new", NEW)):
        text = "seed,prompt,value,metric,note\n"
        text += "".join(f"{s},p{i},{v},accuracy,x\n" for (i, s), v in np.ndenumerate(values))
        (tmp_path / f"{name}.csv").write_text(text)
    files = [tmp_path / "old.csv", tmp_path / "new.csv"]
    assert read_scores(files).numbers == whole.numbers


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("prompt,metric,score\na,m,1\n", "line 1: no column 'value'; expected method, prompt, seed, metric, value"),
        ("Prompt,metric,value\na,m,1\n", "no column 'prompt'"),
        ("prompt,metric,value\na,m,high\nb,m,nan\n", "(?s)line 2: value must be a finite number.*'high'.*line 3"),
        ("prompt,metric,value\na,m,1\na,m,2\n", r"line 3: prompt 'a' has this score already \(.*line 2\)"),
        ("prompt,metric,value\n,m,1\n", "line 2: prompt must not be empty"),
        ("prompt,metric,value\n", "no scores"),
        ("", "is empty"),
    ],
)
def test_a_bad_table_is_refused_with_file_and_line(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scores(tmp_path, table)


def test_what_is_no_parquet_lacks_a_column_or_is_not_there_is_said(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    with pytest.raises(UsageError, match=r"t\.parquet"):
        read_scores([file])
    file.write_text("no")
    with pytest.raises(UsageError, match="not Parquet"):
        read_scores([file])
    duckdb.sql("select 1 as prompt, 2 as value").write_parquet(str(file))
    with pytest.raises(UsageError, match=r"no column 'metric'; expected .*; got prompt, value"):
        read_scores([file])


def test_names_that_are_not_there_and_methods_that_share_no_prompt_are_refused(tmp_path: Path) -> None:
    found = scores(tmp_path, TABLE + "q1,0,accuracy,1,other\n")
    ways = directions([], found.metrics)
    for a, b, said in (
        ("old", "nex", "did you mean 'new'"),
        ("old", "other", "no prompt in common: old has 'p0', other"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_scores(found, STORE, a, b, ways)
    for told, said in (("accuracy=up", "a way of lower, higher"), ("acuracy=lower", "did you mean 'accuracy'")):
        with pytest.raises(UsageError, match=said):
            directions([told], found.metrics)


def test_missing_is_not_undefined(tmp_path: Path) -> None:
    head = "prompt,seed,metric,value,method\n"
    undefined = head + lines("old", OLD) + lines("new", NEW).replace(str(NEW[4, 0]), "")
    missing = head + lines("old", OLD) + lines("new", NEW).replace(f"p4,0,accuracy,{NEW[4, 0]},new\n", "")
    results = []
    for text in (TABLE, undefined, missing):
        found = scores(tmp_path, text)
        (c,) = compare_scores(found, STORE, "old", "new", directions([], found.metrics)).comparisons
        assert c.gain is not None
        results.append((c.gain.n, c.missing))
    assert results == [(30, (0, 0)), (30, (0, 0)), (29, (0, 1))]


def test_a_gate_judges_a_table_and_a_missing_score_leaves_it_undecided(tmp_path: Path) -> None:
    found = scores(tmp_path, TABLE)
    ways = directions(["accuracy=higher"], found.metrics)
    assert gate_scores(found, STORE, "old", "new", {"accuracy": 0.01}, ways).verdict == "pass"
    assert gate_scores(found, STORE, "new", "old", {"accuracy": 0.01}, ways).verdict == "regressed"
    lost = scores(tmp_path, TABLE.replace(f"p4,0,accuracy,{NEW[4, 0]},new\n", ""))
    assert gate_scores(lost, STORE, "old", "new", {"accuracy": 0.01}, ways).verdict == "incomplete"
    with pytest.raises(UsageError, match="which way is better"):
        gate_scores(found, STORE, "old", "new", {"accuracy": 0.01}, directions([], found.metrics))


def test_both_verbs_take_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCROLLBENCH_STORE", str(tmp_path / "store"))
    (tmp_path / "scores.csv").write_text(TABLE)
    (tmp_path / "margins.toml").write_text("[gate.margins]\naccuracy = 0.01\n")
    given = ["--scores", str(tmp_path / "scores.csv"), "--better", "accuracy=higher"]
    judged = ["gate", "--baseline", "new", "--candidate", "old", *given]
    shown = CliRunner().invoke(main, ["compare", "old", "new", *given])
    assert shown.exit_code == 0, shown.output
    assert "scores of 60: old: 60, new: 60\n" in shown.output
    said = CliRunner().invoke(main, ["compare", "old", "new", *given, "--json"])
    assert json.loads(said.stdout)["comparisons"][0]["said"] == "better"
    lost = CliRunner().invoke(
        main, [*judged, "--margins", str(tmp_path / "margins.toml"), "--markdown", str(tmp_path / "m")]
    )
    assert lost.exit_code == Exit.FAILED
    assert "regressed: old against new on scores.csv" in lost.output
    assert "Scores of scores.csv" in (tmp_path / "m").read_text()
    assert CliRunner().invoke(main, judged).exit_code == Exit.USAGE
    assert not (tmp_path / "store").exists()
