"""``scrollbench votes``: files of votes go in, strengths, voters and the agreement of every number come out."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bench.analysis.votes import COLUMNS
from bench.cli.app import main
from tests.support.reported import DARK, DARKER, Reported

ORDER = ("plain", DARK, DARKER)  # from light to dark


def file_of(path: Path, reported: Reported, voter: str, answers: Iterable[str]) -> Path:
    """Votes on every pair and prompt, the lighter picture on the left: in order, the answers to them."""
    asked = product(combinations(ORDER, 2), (f"p{i}" for i in range(6)))
    with path.open("w", newline="", encoding="utf-8") as f:
        rows = csv.DictWriter(f, COLUMNS, quoting=csv.QUOTE_ALL)
        rows.writeheader()
        for trial, (((left, right), prompt), vote) in enumerate(zip(asked, answers), 1):
            rows.writerow({
                "suite": reported.suite.ref, "suite_digest": reported.suite.digest, "voter": voter, "trial": trial,
                "kind": "pair", "part": "2to1", "prompt_id": prompt, "seed": 0, "left": left, "right": right,
                "vote": vote, "seconds": "1.5", "time": "2026-01-01T00:00:00Z",
            })  # fmt: skip
    return path


def call(reported: Reported, *words: Any) -> Any:
    store = ("--suite", reported.suite.file, "--store", reported.store.root)
    return CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(main, ["votes", *map(str, words + store)])


def test_people_who_prefer_light_pictures_agree_with_the_level(reported: Reported, tmp_path: Path) -> None:
    mostly = [("left", "left", "left", "tie", "right", "left")[i % 6] for i in range(18)]
    files = [file_of(tmp_path / f"{name}.csv", reported, name, mostly) for name in ("ann", "ben")]
    files.append(file_of(tmp_path / "lazy.csv", reported, "lazy", ["right"] * 18))
    told = call(reported, *files, "--json")
    assert told.exit_code == 0
    found = json.loads(told.stdout)
    assert [s["name"] for s in sorted(found["strengths"]["each"], key=lambda s: -s["value"])] == list(ORDER)
    assert {v["name"]: bool(v["doubts"]) for v in found["voters"]} == {"ann": False, "ben": False, "lazy": True}
    assert found["votes"] == 36
    share = {(a["metric"], a["theme"]): (a["share"], a["prompts"]) for a in found["agreement"]}
    assert share["level", ""] == (0.8, 5)  # of five prompts without ties, one is voted the other way
    assert share["level", "<i>sea"] == (2 / 3, 3)
    assert share["level", "land"] == (1.0, 2)
    shown = call(reported, *files)
    assert shown.exit_code == 0
    for said in ("strengths by 36 votes", DARKER, "always right", "how often a number prefers what people prefer"):
        assert said in shown.stdout


def test_a_file_that_is_wrong_is_refused_by_line_before_anything_is_said(reported: Reported, tmp_path: Path) -> None:
    bad = file_of(tmp_path / "bad.csv", reported, "ann", ["left", "lft", "left"])
    refused = call(reported, bad)
    assert refused.exit_code == 2
    assert "bad.csv, line 3: vote 'lft'" in refused.output
    assert call(reported, tmp_path / "none.csv").exit_code == 2
    assert refused.stdout == ""
