"""What users wrote is shown, never obeyed: by terminals, spreadsheets, pages; and tables fit."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace as Namespace

import pytest
from typer.testing import CliRunner

from bench.analysis.board import Line, Row, Section, Spot
from bench.analysis.columns import Column
from bench.cli import console
from bench.cli.app import main
from bench.report.export import markdown, table_csv
from bench.version import __version__

EVIL = "a\x1b[2J\x07\x9b31m\u202eb\r"
COMMANDS = set("\x1b\x07\x9b\u202e\r")


def test_control_characters_reach_no_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    console.note(EVIL)
    console.say(EVIL, bold=True)
    console.records([{"name": EVIL, "n": 1}], False)
    console.result({"name": EVIL}, False)
    console.emit({"name": EVIL})
    said = capsys.readouterr()
    assert not COMMANDS & set(said.out.replace("\x1b[1m", "").replace("\x1b[0m", "") + said.err)
    assert "a\\x1b[2J" in said.err
    shown = said.out[said.out.index("{") :]
    assert json.loads(shown) == {"name": EVIL}  # JSON keeps every character
    assert COMMANDS & set(EVIL)  # negative control


def test_a_table_is_broken_to_fit_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "x" * 30, "says": "many words " * 20, "n": 3}, {"name": "y", "says": "few", "n": 44}]
    console.records(rows, False, room=80)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()).count("many") == 20
    console.records(rows, False)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 200  # negative control


def board(method: str, label: str) -> tuple[Namespace, list[Section]]:
    suite = Namespace(ref="s@1", title="T", digest="d" * 24, tier="miniature", seeds=(0,), unavailable=())
    row = Row(Line(method, False, (), 2, 2, 0), False, False, spots={label: Spot(-1.5, 2, 0)})
    return suite, [Section("part", "net", (Column(label, "lower"),), (row,))]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+2", "@SUM(A1)"])
def test_cells_of_a_spreadsheet_are_text_and_numbers_stay_numbers(text: str) -> None:
    (line,) = csv.DictReader(io.StringIO(table_csv(*board(text, text))))
    assert (line["method"], line["column"], line["value"]) == (f"'{text}", f"'{text}", "-1.5")


def test_markdown_shows_html_and_marks_instead_of_being_them() -> None:
    said = markdown(*board("<img src=x onerror=y>|`*_[a](b)\nc", "<b>"))
    assert "<" not in said
    assert "&lt;img src=x onerror=y&gt;\\|\\`\\*\\_\\[a\\](b) c" in said
    assert "| &lt;b&gt; ↓ |" in said


def test_help_begins_with_run_and_the_version_is_told() -> None:
    said = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(main, ["--help"]).output
    verbs = [part.split()[1] for part in said.splitlines() if part.startswith("│ ") and part[2] not in " -"]
    assert verbs[:2] == ["run", "board"]
    assert said.index("Run and read") < said.index("Judge") < said.index("Step by step")
    assert CliRunner().invoke(main, ["--version"]).output == f"scrollbench {__version__}\n"
