"""The command line: documented, honest about errors, quick to start, and no more than the functions it calls."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import bench.cli.app
from bench.cli.app import main
from tests.support.small import PLUGINS, write_suite

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    command = command or typer.main.get_command(main)
    for name, sub in getattr(command, "commands", {}).items():
        yield from verbs(sub, (*path, name)) if hasattr(sub, "commands") else [((*path, name), sub)]


VERBS = dict(verbs())
EXAMPLES = {path: sub.epilog.removeprefix("Example: ") for path, sub in VERBS.items()}


def call(*args: str) -> Any:
    return CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(main, [str(a) for a in args])


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small suite; the store is in the folder beside it."""
    monkeypatch.setenv("SCROLLBENCH_STORE", str(tmp_path / "store"))
    return write_suite(tmp_path)


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_help_of_every_verb_ends_with_an_example_of_that_verb(path: tuple[str, ...]) -> None:
    shown = call(*path, "--help")
    assert shown.exit_code == 0
    assert shown.stdout.strip().splitlines()[-1].strip() == f"Example: {EXAMPLES[path]}"
    assert EXAMPLES[path].startswith(" ".join(("scrollbench", *path)))


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_example_of_every_verb_parses(path: tuple[str, ...]) -> None:
    words = shlex.split(EXAMPLES[path])[1 + len(path) :]
    assert VERBS[path].make_context(" ".join(path), list(words)).args == []


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_verb_is_documented_with_its_example_and_has_json(path: tuple[str, ...]) -> None:
    _, found, section = DOCS.read_text().partition(f"\n## scrollbench {' '.join(path)}\n")
    assert found, f"docs/cli.md has no section on {' '.join(path)}"
    assert f"    {EXAMPLES[path]}\n" in section.partition("\n## ")[0] + "\n"
    assert "--json" in [o for p in VERBS[path].params for o in p.opts]


def test_the_documentation_describes_no_verb_that_is_not_there() -> None:
    said = {
        line.removeprefix("## scrollbench ")
        for line in DOCS.read_text().splitlines()
        if line.startswith("## scrollbench ")
    }
    assert said == {" ".join(path) for path in VERBS}


@pytest.mark.parametrize(
    "words", [["--help"], ["list", "suites"], ["show", "tiles"], ["store", "path"], ["run", "--help"]]
)
def test_light_verbs_start_without_heavy_libraries(words: list[str]) -> None:
    code = (
        "import sys; from bench.cli.app import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(sorted({'torch', 'pandas', 'duckdb', 'scipy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_unknown_verb_or_option_is_answered_with_near_misses() -> None:
    verb, option = call("genrate"), call("generate", "--metod", "direct")
    assert (verb.exit_code, option.exit_code) == (2, 2)
    assert "generate" in verb.stderr
    assert "--method" in option.stderr
    assert verb.stdout == option.stdout == ""


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["list", "metods"], "did you mean 'methods'"),
        (["show", "multidifusion"], "did you mean 'multidiffusion'"),
        (["plan", "--suite", "minature"], "did you mean 'miniature'"),
        (
            ["world", "render", "--caption", "a photo of the see by day, clear sky, one sun", "--out", "x.png"],
            "the sea",
        ),
        (["world", "train", "world-va"], "did you mean 'world-vae'"),
    ],
)
def test_an_unknown_name_is_answered_with_near_misses_and_exit_code_2(words: list[str], near: str) -> None:
    said = call(*words)
    assert (said.exit_code, said.stdout) == (2, "")
    assert near in said.stderr
    assert "Traceback" not in said.stderr


def test_a_wrong_shard_or_knob_says_what_was_expected(suite: Path) -> None:
    shard, knob = (
        call("plan", "--suite", suite, "--shard", "3/2"),
        call("plan", "--suite", suite, "--set", "latent.stps=4"),
    )
    assert (shard.exit_code, knob.exit_code) == (2, 2)
    assert "1/4" in shard.stderr
    assert "did you mean 'steps'" in knob.stderr


@pytest.mark.parametrize(
    "kind", ["methods", "metrics", "backbones", "suites", "prompts", "views", "extractors", "references"]
)
def test_every_kind_lists_as_json(kind: str) -> None:
    said = call("list", kind, "--json")
    assert said.exit_code == 0
    assert all(entry["name"] for entry in json.loads(said.stdout))


@pytest.mark.parametrize("name", ["multidiffusion", "kid", "world-sd", "tiles:512", "world-vit", "miniature/panoramas"])
def test_show_knows_names_of_all_kinds(name: str) -> None:
    (entry,) = json.loads(call("show", name, "--json").stdout)
    assert entry["name"] == name
    assert entry["kind"]


def test_show_reads_a_plug_in_of_a_file(suite: Path) -> None:
    (entry,) = json.loads(call("show", f"{suite.parent / 'plugins.py'}@latent-grain", "--json").stdout)
    assert entry["knobs"] == {"steps": {"default": 3, "type": "int"}}
    assert entry["family"] == "latent"


def test_a_run_prints_the_board_and_where_its_files_are(suite: Path) -> None:
    said = call("run", "--suite", suite)
    assert said.exit_code == 0, said.stderr
    assert "brightness" in said.stdout
    assert "pictures: 6 of 6" in said.stdout
    stages = ["generate: 6 of 6", "score: 6 of 6"]  # between them, where it takes long, how far it is
    assert [line for line in said.stderr.splitlines() if line in stages] == stages
    for line in said.stdout.splitlines()[-2:]:
        assert Path(line.split(maxsplit=2)[-1] if "sheet" in line else line.split()[-1]).stat().st_size > 1000


def test_every_step_of_a_run_speaks_json(suite: Path) -> None:
    planned = json.loads(call("plan", "--suite", suite, "--json").stdout)["pictures"]
    assert [(row["method"], row["to_do"]) for row in planned] == [("plugins.py@grain", 3), ("latent", 3)]
    assert json.loads(call("generate", "--suite", suite, "--json").stdout)["made"] == 6
    assert json.loads(call("score", "--suite", suite, "--json").stdout)["scored"] == 6
    again = json.loads(call("run", "--suite", suite, "--json").stdout)
    assert (again["generate"]["made"], again["generate"]["done"], again["score"]["reused"]) == (0, 6, 6)
    (board,) = json.loads(call("board", "--suite", suite, "--json").stdout)
    assert board == again["board"][0]
    assert board["methods"][0]["numbers"]["nfe"] == {"value": 3, "n": 3, "missing": 0}
    rows = json.loads(
        call("sql", "select method, n from leaderboard where metric = 'nfe' order by all", "--json").stdout
    )
    assert rows == [{"method": "latent", "n": 3}, {"method": "plugins.py@grain", "n": 3}]
    assert json.loads(call("store", "verify", "--json").stdout)["ok"] is True
    assert json.loads(call("store", "prune", "--dry-run", "--json").stdout)["pictures"] == 0
    path = json.loads(call("store", "path", "--json").stdout)
    assert json.loads(call("store", "index", "--json").stdout)["index"] == path["leaderboard"]


def test_shards_do_the_whole_between_them(suite: Path) -> None:
    made = [
        json.loads(call("generate", "--suite", suite, "--shard", f"{i}/2", "--json").stdout)["made"] for i in (1, 2)
    ]
    assert sum(made) == 6
    assert json.loads(call("generate", "--suite", suite, "--json").stdout)["made"] == 0


def test_a_method_of_a_file_joins_the_board_of_the_suite(suite: Path) -> None:
    call("run", "--suite", suite)
    other = suite.parent / "mine.py"
    other.write_text(PLUGINS.replace('"latent-grain"', '"mine"').replace("steps: int = 3", "steps: int = 7"))
    said = call("run", "--suite", suite, "--method", f"{other}@mine", "--json")
    numbers = {m["method"]: m["numbers"]["nfe"]["value"] for m in json.loads(said.stdout)["board"][0]["methods"]}
    assert sorted(numbers.values()) == [0, 3, 7]


def test_failures_are_named_and_the_run_is_incomplete(suite: Path) -> None:
    plugins = suite.parent / "plugins.py"
    broken = PLUGINS.replace("backbone.meter.nfe += steps", 'raise ValueError("no such luck")')
    plugins.write_text(broken)
    said = call("run", "--suite", suite)
    assert said.exit_code == 5
    assert "no such luck" in said.stderr
    assert "pictures: 3 of 6, 3 failed" in said.stdout
    assert [call("generate", "--suite", suite).exit_code for _ in range(2)] == [5, 5]
    assert "--retry" in call("generate", "--suite", suite).stderr
    plugins.write_text(broken + "\n# the same, once more\n")  # another source, another recipe
    assert call("generate", "--suite", suite).exit_code == 5
    plugins.write_text(PLUGINS)
    assert call("run", "--suite", suite).exit_code == 0


def test_what_must_be_fetched_first_is_exit_code_3(suite: Path) -> None:
    text = suite.read_text().replace('ref = "plugins.py@brightness"', 'ref = "gsd-dino"\nextractor = "dinov2-vits14"')
    suite.write_text(text)
    said = call("score", "--suite", suite)
    assert (said.exit_code, said.stdout) == (3, "")
    assert "scrollbench weights fetch dinov2-vits14" in said.stderr


def test_sql_without_a_leaderboard_names_the_command_and_wrong_sql_is_usage(suite: Path) -> None:
    missing = call("sql", "from leaderboard")
    assert missing.exit_code == 5
    assert "scrollbench store index" in missing.stderr
    call("store", "index")
    wrong = call("sql", "from leaderbord")
    assert wrong.exit_code == 2
    assert "did you mean 'leaderboard'" in wrong.stderr


def test_a_damaged_record_is_reported_and_repaired(suite: Path) -> None:
    call("generate", "--suite", suite)
    (segment,) = (suite.parent / "store" / "records").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes().replace(b'"kind":"image"', b'"kind"="image"', 1))
    damaged = call("plan", "--suite", suite)
    assert damaged.exit_code == 5
    assert "scrollbench store verify --repair" in damaged.stderr
    assert call("store", "verify").exit_code == 5
    assert call("store", "verify", "--repair").exit_code == 0
    assert json.loads(call("generate", "--suite", suite, "--json").stdout)["made"] == 1


def test_world_render_draws_what_the_caption_says(tmp_path: Path) -> None:
    from PIL import Image

    out, said = tmp_path / "new" / "sea.png", "a photo of the sea by day, clear sky, one sun, two boats"
    told = json.loads(
        call("world", "render", "--caption", said, "--width", "96", "--copies", "3", "--out", out, "--json").stdout
    )
    assert Image.open(out).size == (96, 32)
    assert told["caption"] == said
    assert [t["kind"] for t in told["things"]].count("sun") == 3
    scene = json.dumps(told["scene"])
    assert json.loads(call("world", "render", "--scene", scene, "--out", out, "--json").stdout)["caption"] == said
    neither, wrong = call("world", "render", "--out", out), call("world", "render", "--scene", "[1]", "--out", out)
    assert (neither.exit_code, wrong.exit_code) == (2, 2)


def test_bench_and_its_command_line_import_without_torch() -> None:
    code = "import sys, bench, bench.cli.app; print('torch' in sys.modules, 'typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == [
        "False",
        "True",
    ]
    assert bench.cli.app.main is main
