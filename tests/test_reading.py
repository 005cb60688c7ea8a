"""The one reader of what people write: what anybody would read alike is read, all else is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small import PLUGINS, SUITE, write_suite
from test_cli import call

from bench import prompts, reading
from bench.errors import UsageError
from bench.prompts import load_prompts, read_prompts
from bench.reading import parse_json, read_csv, read_toml
from bench.registry import Param
from bench.suite import load_suite

KNOWN = ("file", "prompt_id", "seed", "part")
REQUIRED = ("file", "prompt_id")


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


# -- tables


@pytest.mark.parametrize(
    "content",
    [
        "file,prompt_id,note\na.png,sea,\"fine, really\"\nb.png,reef,\n",
        "\ufefffile,prompt_id,note\r\na.png,sea,\"fine, really\"\r\nb.png,reef,\r\n\r\n",
        "file,prompt_id,note\ra.png,sea,\"fine, really\"\rb.png,reef,\r",
        "file, prompt_id, note\n\na.png, sea, \"fine, really\"\n b.png ,reef,\n\n\n",
        ",file,prompt_id,note\n0,a.png,sea,\"fine, really\"\n1,b.png,reef,\n",
    ],
    ids=["plain", "byte-order mark and CRLF", "CR", "spaces and blank lines", "an index without a name"],
)  # fmt: skip
def test_what_spreadsheets_write_is_read_as_anybody_would(tmp_path: Path, content: str) -> None:
    table = read_csv(written(tmp_path / "m.csv", content), KNOWN, REQUIRED)
    assert [dict(r.values) for r in table.rows] == [
        {"file": "a.png", "prompt_id": "sea", "note": "fine, really"},
        {"file": "b.png", "prompt_id": "reef", "note": ""},
    ]  # fmt: skip
    assert table.problems == ()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("file,prompt_id,seed,seed", "column 'seed' stands there twice"),
        ("file,prompt_id,Seed", "column 'Seed' is not 'seed'"),
        ("file,Prompt ID", "column 'Prompt ID' is not 'prompt_id'"),
        ("file,prompt_id,seeds", "unknown column 'seeds'; did you mean 'seed'"),
        ("file,prompt_id,sede", "unknown column 'sede'; did you mean 'seed'"),
        ("file,prompt_id,seed,Seed", "column 'Seed' is not 'seed'"),
        ("file,prompt_id,se\x00ed", "is a name with the unreadable character U+0000"),
        ("file,prompt_id,\ufeffseed", "is a name with the unreadable character U+FEFF"),
        ("file;prompt_id;seed", "no column 'file'; expected file, prompt_id, seed, part; got file;prompt_id;seed"),
        ("file", "no column 'prompt_id'"),
        ("", "is empty; expected a line with the names of columns"),
    ],
)
def test_a_head_that_means_something_else_than_it_says_is_refused(tmp_path: Path, head: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_csv(written(tmp_path / "m.csv", f"{head}\n"), KNOWN, REQUIRED)
    assert said in str(caught.value)
    assert "m.csv" in str(caught.value)


@pytest.mark.parametrize("own", ["path", "note", "quality", "seeded_by"])
def test_a_column_of_ones_own_is_left_alone(tmp_path: Path, own: str) -> None:
    assert own in read_csv(written(tmp_path / "m.csv", f"file,prompt_id,{own}\n"), KNOWN, REQUIRED).columns


def test_every_wrong_row_is_named_with_the_line_it_begins_in(tmp_path: Path) -> None:
    rows = [
        "a.png,sea",
        "b.png",
        "c.png,reef,0",
        "d.png,du\x07ne",
        'e.png,"du\nne"',
        "f.png,fine",
        'g.png,"open',
        "h.png,gone",
    ]
    table = read_csv(written(tmp_path / "m.csv", "file,prompt_id\n" + "\n".join(rows) + "\n"), KNOWN)
    assert [p.partition("m.csv, ")[2] for p in table.problems] == [
        "line 3: expected 2 cells (file, prompt_id), got 1; a cell with a comma or quote needs quotes",
        "line 4: expected 2 cells (file, prompt_id), got 3; a cell with a comma or quote needs quotes",
        "line 5: column 'prompt_id' holds the unreadable character U+0007",
        "line 6: column 'prompt_id' goes on over the next lines; is a quote left open?",
        "line 9: not CSV: a quote that is opened here is never closed",
    ]
    assert [(r.line, r.values["file"]) for r in table.rows] == [(2, "a.png"), (8, "f.png")]


def test_a_list_of_texts_may_break_lines_inside_quotes(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", 'text\n"a boat\nin the reeds"\nsnow\n')
    assert [(r.line, r.values["text"]) for r in read_csv(file, breaks=True).rows] == [
        (2, "a boat\nin the reeds"), (4, "snow"),
    ]  # fmt: skip


# -- texts, TOML, JSON


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfea\x00", "line 1: not UTF-8 (bytes ff fe 61 00)"),
        (b"a = 1\nb = '\xe9'\n", "line 2: not UTF-8 (bytes e9 27 0a)"),
        ("a = 1\na = 2\n", "not TOML"),
        ("a = nan", "a: must be a finite number, got nan"),
        ("a = { b = [1, -inf] }", "a.b[1]: must be a finite number, got -inf"),
        ("a = 9223372036854775808", "a: must be a 64-bit integer, got 9223372036854775808"),
        ("a = " + "9" * 5000, "not TOML"),
        ("a = 'x\ufeffy'", "a: holds the unreadable character U+FEFF"),
        ('a = "x\\u0000y"', "a: holds the unreadable character U+0000"),
        ('"b\\u0007c" = 1', "is a name with the unreadable character U+0007"),
        ("a = 1979-05-27", "a: must be a text, a number or a truth value, got 1979-05-27; write it in quotes"),
        ("a = " + "[" * 900, "not TOML: nested more than 32 deep"),
        ("a = " + "[" * 40 + "]" * 40, "is nested more than 32 deep"),
    ],
)
def test_toml_with_what_no_door_takes_is_refused_by_file_and_key(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_toml(written(tmp_path / "a.toml", content))
    assert str(caught.value).startswith(f"{tmp_path / 'a.toml'}")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_toml_with_a_byte_order_mark_and_the_largest_integers_is_read(tmp_path: Path) -> None:
    content = (
        "\ufeffa = 9223372036854775807\r\nb = -9223372036854775808\r\n# \x85 is nobody's business in a comment\r\n"
    )
    assert read_toml(written(tmp_path / "a.toml", content)) == {"a": 2**63 - 1, "b": -(2**63)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "field 'a' stands there twice"),
        ('{"a": {"b": 1, "b": 1}}', "field 'a.b' stands there twice"),
        ('{"a": NaN}', "field 'a' must be a finite number, got nan"),
        ('{"a": [1, Infinity]}', "field 'a[1]' must be a finite number, got inf"),
        ('{"a": 1e999}', "field 'a' must be a finite number, got inf"),
        ('{"a": 9223372036854775808}', "field 'a' must be a 64-bit integer"),
        ('{"a": ' + "9" * 5000 + "}", "field 'a' must be a 64-bit integer"),
        ('{"a": "x \\ud83d"}', "field 'a' holds the unreadable character U+D83D"),
        ('{"a\\udc00": 1}', "is a name with the unreadable character U+DC00"),
        ('{"a": "\\u0000"}', "field 'a' holds the unreadable character U+0000"),
        ('{"a": "\x85"}', "field 'a' holds the unreadable character U+0085"),
        ('\ufeff{"a": 1}', "not JSON (Unexpected UTF-8 BOM"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested more than 32 deep"),
        ("{'a': 1}", "not JSON (Expecting property name"),
    ],
)
def test_json_with_what_no_door_takes_is_refused_by_file_line_and_field(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_json(text, Path("p.jsonl"), 7)
    assert str(caught.value).startswith("p.jsonl, line 7: ")
    assert said in str(caught.value)
    sound = {"a": [1, 2.5, None, True, "naïve 東京 🎈 \t\n"], "b": {"a": -(2**63)}}  # negative control
    assert parse_json(json.dumps(sound), Path("p.jsonl"), 7) == sound


# -- the doors


def test_half_a_surrogate_pair_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_suite(tmp_path)
    line = '{"id": "a", "text": "a lone oak \\ud83d"}\n'
    written(tmp_path / "prompts.jsonl", '{"id": "b", "text": "an oak"}\n' + line)
    done = call("run", "--suite", file, "--store", tmp_path / "store")
    assert done.exit_code == 2
    assert "prompts.jsonl, line 2: field 'text' holds the unreadable character U+D83D" in done.stderr
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(reading, "unreadable", lambda text: "")  # control: without the check it goes through
    assert read_prompts(tmp_path / "prompts.jsonl")[1].text == "a lone oak \ud83d"


def test_an_open_quote_in_a_manifest_adopts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_suite(tmp_path)
    for name in ("harbour", "reef", "dune"):
        Image.new("RGB", (16, 8)).save(tmp_path / f"{name}.png")
    rows = ['harbour.png,harbour,0,"best of three', "reef.png,reef,0,ok", "dune.png,dune,0,ok"]
    manifest = written(tmp_path / "m.csv", "file,prompt_id,seed,note\n" + "\n".join(rows) + "\n")
    common = [
        "adopt",
        tmp_path,
        "--suite",
        file,
        "--store",
        tmp_path / "store",
        "--as",
        "theirs",
        "--manifest",
        manifest,
    ]
    done = call(*common, "--json")
    assert done.exit_code == 2
    assert "m.csv, line 2: not CSV: a quote that is opened here is never closed" in done.stderr
    assert not (tmp_path / "store").exists()
    rows[2] += '"'  # the next quote closes it, two rows below: still no cell of a manifest goes over lines
    written(manifest, "file,prompt_id,seed,note\n" + "\n".join(rows) + "\n")
    assert "line 2: column 'note' goes on over the next lines; is a quote left open?" in call(*common).stderr
    monkeypatch.setattr(reading, "_row_problem", lambda names, cells, breaks: "")  # control: one of three
    assert json.loads(call(*common, "--json").stdout)["adopted"] == 1


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("file,prompt_id,Seed", "column 'Seed' is not 'seed'"),
        ("file,prompt_id,seed,seed", "column 'seed' stands there twice"),
    ],
)
def test_a_manifest_with_a_head_that_is_almost_ours_adopts_nothing(tmp_path: Path, head: str, said: str) -> None:
    suite = load_suite(write_suite(tmp_path))
    from bench.adopt import read_manifest

    Image.new("RGB", (16, 8)).save(tmp_path / "reef.png")
    file = written(tmp_path / "m.csv", f"{head}\nreef.png,reef,7{',0' * (head.count(',') - 2)}\n")
    with pytest.raises(UsageError, match=rf"m\.csv, line 1: {said}"):
        read_manifest(file, tmp_path, suite)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "a\nb", "text": "x"}, "field 'id' must be on one line"),
        ({"id": "a", "text": "x", "Negative": "y"}, "field 'Negative' is not 'negative'"),
        ({"id": "a", "text": "x", "counts": {"boat": 2**63}}, "field 'counts.boat' must be a 64-bit integer"),
        ({"id": "a", "text": "x", "score": float("nan")}, "field 'score' must be a finite number"),
    ],
)
def test_a_prompt_that_no_record_could_hold_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = written(tmp_path / "p.jsonl", json.dumps({"id": "z", "text": "fine"}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=r"p\.jsonl, line 3: ") as caught:
        read_prompts(file)
    assert said in str(caught.value)


def test_all_wrong_lines_of_a_prompt_file_are_named_at_once(tmp_path: Path) -> None:
    lines = ['{"id": "a", "text": "x"}', '{"id": "a", "text": "y"}', "no", '{"id": "b"}', '["c"]']
    with pytest.raises(UsageError) as caught:
        read_prompts(written(tmp_path / "p.jsonl", "\n".join(lines * 5)))
    said = str(caught.value).splitlines()
    assert [line.partition("line ")[2][:2] for line in said[:4]] == ["2:", "3:", "4:", "5:"]
    assert said[-1].strip() == "and 14 more"


def test_a_scene_that_is_none_of_scrollworld_is_named_by_file_line_and_field(tmp_path: Path) -> None:
    file = write_suite(tmp_path)
    scene = {"style": "ink", "biome": "sea", "time": "day", "weather": "clear", "unique": "sun", "counted": ["boat", 2]}
    rows = [{"id": str(i), "text": "sea", "scene": scene | change} for i, change in enumerate(({}, {"style": "opera"}))]
    written(tmp_path / "prompts.jsonl", "".join(json.dumps(r) + "\n\n" for r in rows))
    with pytest.raises(UsageError, match=r"prompts\.jsonl, line 3: field 'scene': scene style must be one of"):
        load_suite(file)
    rows[1]["scene"] = scene  # negative control
    written(tmp_path / "prompts.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    assert len(load_suite(file).parts[0].prompts.prompts) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seeds = [-1]", r"seeds\[0\]: input should be greater than or equal to 0"),
        ("seeds = [9223372036854775808]", r"seeds\[0\]: must be a 64-bit integer"),
        ("seeds = [1.0]", r"seeds\[0\]: input should be a valid integer"),
        ("seeds = [true]", r"seeds\[0\]: input should be a valid integer"),
        ("seeds = 1000000000000", "seeds: value should have at most 100000 items"),
        ('title = "a \\u0007"', "title: holds the unreadable character U[+]0007"),
        ("defaults = { scale = nan }", "defaults.scale: must be a finite number"),
        ("backbone_options = { a = 07:32:00 }", "backbone_options.a: must be a text, a number or a truth value"),
    ],
)
def test_a_suite_says_no_seed_or_number_that_a_record_cannot_hold(tmp_path: Path, line: str, said: str) -> None:
    file = write_suite(tmp_path, SUITE.replace('title = "Small"', line))
    with pytest.raises(UsageError, match=r"small\.toml: " + said) as caught:
        load_suite(file)
    assert len(str(caught.value)) < 400
    top = load_suite(write_suite(tmp_path, SUITE.replace('title = "Small"', "seeds = [0, 9223372036854775807]")))
    assert top.seeds == (0, 2**63 - 1)  # negative control


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "0"])
def test_a_seed_of_a_command_is_an_integer_from_0_below_2_to_the_63(tmp_path: Path, seed: Any) -> None:
    file = write_suite(tmp_path)
    with pytest.raises(UsageError, match=r"--seed takes integers from 0 to 2\^63 - 1"):
        load_suite(file, {"seeds": [seed]})
    assert load_suite(file, {"seeds": [2**63 - 1]}).seeds == (2**63 - 1,)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "9" * 400, 10**400, float("nan")])
def test_a_knob_is_a_finite_number(text: Any) -> None:
    knob = Param("scale", 1.0, (float,))
    with pytest.raises(UsageError, match=r"grain\.scale must be"):
        knob.check("grain", text)
    assert knob.check("grain", "1e300") == 1e300  # negative control


def test_an_integer_knob_has_64_bits_and_a_text_no_control_characters() -> None:
    steps, name = Param("steps", 1, (int,)), Param("name", "", (str, type(None)))
    for knob, value in ((steps, "9223372036854775808"), (steps, 2**63), (name, "a\x00"), (name, "\ud83d")):
        with pytest.raises(UsageError, match=r"must be a 64-bit integer|holds the unreadable character"):
            knob.check("grain", value)
    with pytest.raises(UsageError, match="takes int, got '999"):
        steps.check("grain", "9" * 5000)
    assert steps.check("grain", "9223372036854775807") == 2**63 - 1
    assert name.check("grain", "naïve") == "naïve"


@pytest.mark.parametrize("field", ["methods", "metrics", "set"])
def test_an_option_that_cannot_be_written_down_is_refused(tmp_path: Path, field: str) -> None:
    for text in ("", " ", "a\ud83d", "a\x00.py@b", "grain.scale=\x1b[31m"):
        with pytest.raises(UsageError, match=f"--{field.removesuffix('s')}"):
            load_suite(write_suite(tmp_path), {field: [text]})


@pytest.mark.parametrize(
    "ref",
    [
        "~nobody-of-this-name/set",
        "a" * 5000,
        "./" + "a" * 5000 + ".jsonl",
        "a\x00.jsonl",
        "x@\ud83d",
        "~nobody/x.jsonl",
    ],
)
def test_a_prompt_set_that_no_file_can_be_is_refused(ref: str) -> None:
    with pytest.raises(UsageError):
        load_prompts(ref)


def test_a_selection_of_more_prompts_than_can_be_counted_is_the_whole_set() -> None:
    assert len(load_prompts("scrollworld@1:" + "9" * 5000).prompts) == len(load_prompts("scrollworld@1").prompts)


def test_a_card_with_tables_of_another_kind_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "prompts.jsonl", '{"id": "a", "text": "x"}\n')
    for text in ("splits = 3", "splits = { few = [1] }", "splits_wanted = 2", "lint = []", "language = 3"):
        key = text.partition(" ")[0]
        written(tmp_path / "card.toml", text)
        with pytest.raises(UsageError, match=rf"card\.toml: \[?{key}"):
            load_prompts(str(tmp_path))
    assert prompts.read_card(tmp_path / "absent") == {}


def test_what_the_repository_ships_is_read_by_the_strict_reader() -> None:
    root = Path(__file__).parent.parent
    files = [*root.glob("prompts/**/*.toml"), *root.glob("bench/**/*.toml"), *root.glob("results/**/*.toml")]
    assert len(files) > 20
    for file in files:
        assert read_toml(file)
    for file in root.glob("results/**/*.csv"):
        assert read_csv(file).problems == ()
    assert "fake" in PLUGINS
