"""What users wrote is shown, never obeyed: by terminals, spreadsheets, pages; and tables fit."""

from __future__ import annotations

import csv
import io
import json
import shlex
from types import SimpleNamespace as Namespace

import pytest
from typer.testing import CliRunner

from bench.analysis.board import Line, Row, Section, Spot
from bench.analysis.columns import Column
from bench.catalogue import listing
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


def test_columns_that_a_terminal_has_no_room_for_stand_below_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"name": name, **{f"column-{i}": 1000 + i for i in range(9)}} for name in ("mad", "direct")]
    monkeypatch.setenv("COLUMNS", "60")
    console.records(rows, False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines if line] == ["name", "mad", "direct"] * (len(lines) // 4 + 1)
    assert [sum(f"column-{i}" in line for line in lines) for i in range(9)] == [1] * 9
    monkeypatch.setenv("COLUMNS", "200")  # negative control
    console.records(rows, False)
    assert len(capsys.readouterr().out.splitlines()) == 3


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


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("plan --suite minature", 2, "did you mean 'miniature'"),
        ("list metods", 2, "did you mean 'methods'"),
        ("list methods --sweet", 2, "--sweet"),
        ("sql --store nowhere 'from leaderboard'", 5, "no leaderboard at"),
        ("store verify --wrong", 2, "--wrong"),
        ("board --format md", 2, "give one"),
        ("adopt nowhere", 2, "no folder nowhere"),
        ("world train world-va", 2, "did you mean 'world-vae'"),
        ("weights list minature", 2, "minature"),
    ],
)
def test_with_json_an_error_is_json_too(words: str, code: int, said: str) -> None:
    done = CliRunner().invoke(main, [*shlex.split(words), "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"]) == (code, code)
    assert said in told["error"]


def test_without_json_an_error_is_words_alone() -> None:
    done = CliRunner().invoke(main, ["list", "metods"])
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ZeroDivisionError("ours"), 70)])
def test_with_json_a_stop_and_a_fault_are_json_too(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(kind: str) -> None:
        raise error

    monkeypatch.setattr(listing, "listing", fails)
    done = CliRunner().invoke(main, ["list", "methods", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["exit_code"]) == (code, code)


def test_reasons_of_several_lines_are_one_line_each_with_all_that_wait() -> None:
    blocked = [Namespace(label=label, reason="no weights\n  fetch them:\n  scrollbench x") for label in "aba"]
    assert console.blocked_lines(Namespace(blocked=blocked)) == [  # type: ignore[arg-type]
        "blocked: a, b: no weights fetch them: scrollbench x"
    ]


def test_help_begins_with_run_and_the_version_is_told() -> None:
    said = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(main, ["--help"]).output
    verbs = [part.split()[1] for part in said.splitlines() if part.startswith("│ ") and part[2] not in " -"]
    assert verbs[:2] == ["run", "board"]
    assert said.index("Run and read") < said.index("Judge") < said.index("Step by step")
    assert CliRunner().invoke(main, ["--version"]).output == f"scrollbench {__version__}\n"
