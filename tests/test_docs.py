"""Every command of README and docs parses and names what there is; those that are cheap are run."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from bench.analysis.claims import tables
from bench.cli.app import main
from bench.extractors.weights.manifest import load_manifest
from bench.registry import find, names
from bench.suites.file import read_suite

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = re.compile(r"[A-Z]+|.*/[A-Z]+|.*\.(toml|py@[\w-]+)")  # SUITE, DIR; files that readers write


def commands(text: str) -> Iterator[str]:
    """The commands of a page's blocks: lines that begin with ``scrollbench``, or with ``$``; continued ones whole."""
    lines = iter(re.sub(r"\\\n\s*", " ", text).splitlines())
    for line in lines:
        if said := re.match(r"(?: {4}|\$ | {4}\$ )(scrollbench .*)", line):
            whole = said[1]
            while whole.count('"') % 2:  # SQL of several lines
                whole += " " + next(lines).strip()
            yield re.split(r" > | && ", whole)[0]


COMMANDS = [
    pytest.param(said, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, said in enumerate(dict.fromkeys(commands(page.read_text(encoding="utf-8"))))
]


def parsed(said: str) -> tuple[list[str], dict[str, Any]]:
    """The verb and its options of a command, as the command line takes it. Raises what that raises."""
    words = shlex.split(said, comments=True)[1:]
    command, verb = typer.main.get_command(main), []
    while hasattr(command, "commands"):
        verb.append(words.pop(0))
        command = command.commands[verb[-1]]
    return verb, command.make_context(" ".join(verb), words).params


def unknown(verb: list[str], given: dict[str, Any]) -> list[str]:
    """What a command names that is not there."""
    suites, methods, metrics = names("suites"), names("methods"), names("metrics")
    lost = []
    suite = given.get("suite")
    labels: set[str] = set()
    if suite in suites:
        labels = {m.name for m in read_suite(find("suites", suite)).methods}
    elif suite and not PLACEHOLDER.fullmatch(suite):
        lost.append(f"suite {suite}")
    if not given.get("scores"):
        sides = [given[k] for k in ("a", "b", "baseline", "candidate") if given.get(k)]
        told = given.get("method") or ()
        for method in [*sides, *([told] if isinstance(told, str) else told)]:
            if method.partition(":")[0] not in methods and method not in labels and not PLACEHOLDER.fullmatch(method):
                lost.append(f"method {method}")
    for metric in given.get("metric") or ():
        if re.split(r"[@\[]", metric)[0] not in metrics and not PLACEHOLDER.fullmatch(metric):
            lost.append(f"metric {metric}")
    if (backbone := given.get("backbone")) and backbone not in names("backbones"):
        lost.append(f"backbone {backbone}")
    if verb == ["weights", "fetch"]:
        lost += [f"weights {n}" for n in given["names"] if n not in suites and n not in load_manifest()]
    if verb == ["reproduce"] and (table := given.get("table")) and table not in tables():
        lost.append(f"table {table}")
    return lost


@pytest.mark.parametrize("said", COMMANDS)
def test_every_documented_command_parses_and_names_what_there_is(said: str) -> None:
    assert unknown(*parsed(said)) == []


@pytest.mark.parametrize(
    "said", ["scrollbench run --suit miniature", "scrollbench rum", "scrollbench check", "scrollbench plan --limit x"]
)
def test_a_wrong_option_verb_or_argument_is_found(said: str) -> None:
    with pytest.raises(Exception, match=r"rum|--suit|ref|REF|integer"):
        parsed(said)


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("scrollbench run --suite minature", "suite minature"),
        ("scrollbench compare direct multidifusion", "method multidifusion"),
        ("scrollbench score --metric gsd-dion@tiles", "metric gsd-dion@tiles"),
        ("scrollbench weights fetch dinov2-vitb15", "weights dinov2-vitb15"),
        ("scrollbench reproduce drspo:table9", "table drspo:table9"),
        ("scrollbench world gates --backbone world-fluks", "backbone world-fluks"),
    ],
)
def test_a_name_that_is_not_there_is_found(said: str, lost: str) -> None:
    assert unknown(*parsed(said)) == [lost]


CHEAP = re.compile(r"scrollbench (list \S+|show (?!drspo)\S+|weights list( \S+)?|reproduce \S+ --published-only)")
RUN = sorted({c.values[0].split("  #")[0].rstrip() for c in COMMANDS if CHEAP.match(c.values[0])})  # type: ignore[union-attr]


@pytest.mark.parametrize("said", RUN)
def test_every_cheap_command_of_the_documentation_runs(said: str) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, shlex.split(said)[1:])
    assert (done.exit_code, bool(done.output)) == (0, True), done.output


SHOWN = re.compile(r"scrollbench (new|compare .*--scores|gate .*--scores)")


def walks() -> dict[str, str]:
    """The commands of docs/walks.md whose output a test can make again, with the output that stands there."""
    found: dict[str, str] = {}
    for block in (ROOT / "docs" / "walks.md").read_text(encoding="utf-8").split("\n    $ ")[1:]:
        said, _, rest = block.partition("\n")
        shown = itertools.takewhile(lambda line: line.startswith("    ") or not line, rest.split("\n"))
        if SHOWN.match(said):
            found[said] = "\n".join(line[4:] for line in shown)
    return found


@pytest.mark.parametrize("said", walks())
def test_what_the_walks_show_is_what_is_printed(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, shlex.split(said)[1:])
    assert done.output.strip() == walks()[said].strip()


def test_the_walks_show_commands_that_are_run_again() -> None:
    assert [said.split()[1] for said in walks()] == ["new", "compare", "gate", "compare"]


def test_inline_commands_are_verbs_with_options_that_they_have() -> None:
    for page in PAGES:
        for said in re.findall(r"`(scrollbench [a-z][^`]*)`", page.read_text(encoding="utf-8")):
            words = said.split()[1:]
            command = typer.main.get_command(main)
            while words and hasattr(command, "commands") and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            assert command.name != main.info.name, f"{page.name}: {said}"
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert {w for w in words if w.startswith("--")} <= known | {"--help"}, f"{page.name}: {said}"
