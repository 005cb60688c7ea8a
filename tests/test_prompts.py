"""Prompt sets: what is wrong with a file is said with file, line and field."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.prompts import available, load_prompts, read_prompts, roots, spread


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "world" / "1"
    folder.mkdir(parents=True)
    rows = [f'{{"id": "p{i}", "text": "prompt {i}", "theme": "{"sea" if i % 2 else "city"}"}}' for i in range(10)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n\n")
    (folder / "card.toml").write_text('title = "World"\n[splits]\nfew = ["p7", "p2"]\nbroken = ["p1", "p99"]\n')
    return tmp_path


def ids(ref: str, root: Path) -> list[str]:
    return [p.id for p in load_prompts(ref, root).prompts]


def test_a_set_without_selection_is_whole_and_in_order(root: Path) -> None:
    assert ids("world@1", root) == [f"p{i}" for i in range(10)]
    assert available(root) == ["world@1"]


def test_the_latest_version_is_taken_where_none_is_named(root: Path) -> None:
    assert load_prompts("world", root).version == "1"
    for version in ("9", "10", "drafts"):
        shutil.copytree(root / "world" / "1", root / "world" / version)
    (root / "world" / "drafts" / "prompts.jsonl").unlink()
    assert load_prompts("world", root).version == "10"


def test_selections_are_splits_numbers_or_attributes(root: Path) -> None:
    assert ids("world@1:few", root) == ["p7", "p2"]
    assert ids("world@1:5", root) == ["p0", "p2", "p4", "p6", "p8"]
    assert ids("world@1:theme=sea", root) == ["p1", "p3", "p5", "p7", "p9"]


def test_a_split_goes_before_the_number_of_the_same_name(root: Path) -> None:
    card = root / "world" / "1" / "card.toml"
    assert ids("world@1:2", root) == ["p0", "p5"]
    card.write_text('[splits]\n"2" = ["p9", "p4"]\n')
    assert ids("world@1:2", root) == ["p9", "p4"]
    assert ids("world@1:3", root) == ["p0", "p3", "p6"]


def test_selections_can_follow_each_other(root: Path) -> None:
    rows = [{"id": f"p{i}", "text": "x", "theme": "sea" if i % 2 else "city", "unique": None} for i in range(8)]
    rows[3]["unique"] = "sun"
    path = root / "world" / "1" / "prompts.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert ids("world@1:theme=sea:2", root) == ["p1", "p5"]
    assert ids("world@1:theme=sea,unique=none", root) == ["p1", "p5", "p7"]
    assert ids("world@1:few:theme=city", root) == ["p2"]
    assert ids("world@1:theme=city:few", root) == ["p2"]
    with pytest.raises(UsageError, match="selects no prompt"):
        ids("world@1:unique=sun:few", root)


def test_a_file_or_a_folder_can_be_named_by_its_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "world" / "1"
    by_name = load_prompts("world@1", root)
    by_folder = load_prompts(f"{folder}:few")
    assert (by_folder.name, by_folder.version, by_folder.file) == ("world", "1", folder / "prompts.jsonl")
    assert [p.id for p in by_folder.prompts] == ["p7", "p2"]
    shutil.copy(folder / "prompts.jsonl", root / "mine.jsonl")
    monkeypatch.chdir(root)
    for ref in ("mine.jsonl", "./mine.jsonl", str(root / "mine.jsonl")):
        assert load_prompts(ref).digest == by_name.digest
    assert ids("./mine.jsonl:3", root) == ["p0", "p3", "p6"]
    assert load_prompts("./world/1").card == by_name.card
    with pytest.raises(UsageError, match=r"holds no prompts\.jsonl; expected such a folder"):
        load_prompts("./world")


def test_sets_of_other_folders_are_found_after_those_of_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, last = root / "own", root / "last"
    for folder, name in ((own, "mine"), (own, "world"), (last, "extra")):
        shutil.copytree(root / "world" / "1", folder / name / "1")
        (folder / name / "1" / "prompts.jsonl").write_text('{"id": "x", "text": "y"}\n')
    top = root / "top"
    shutil.copytree(root / "world", top / "world")
    assert available(top) == ["world@1"]
    monkeypatch.setenv("SCROLLBENCH_PROMPTS", os.pathsep.join(["", str(own), str(last), str(root / "absent")]))
    assert roots(top) == (top, own, last, root / "absent")
    assert available(top) == ["extra@1", "mine@1", "world@1"]
    assert ids("mine", top) == ids("extra@1", top) == ["x"]
    assert len(ids("world@1", top)) == 10


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "two\u2028lines"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [p.text for p in read_prompts(path)] == ["two\u2028lines"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("word@1", r"unknown prompt set 'word@1'; did you mean 'world@1'"),
        ("world@2", r"unknown prompt set 'world@2'; did you mean 'world@1'"),
        ("world@1:fews", r"unknown selection 'fews'.*did you mean 'few'"),
        ("world@1:theme=see", r"no prompt has theme='see'; did you mean 'sea'"),
        ("world@1:broken", r"split names unknown prompt ids, first 'p99'"),
        ("world@1:theme=sea,style=ink", r"no prompt has style='ink'; known: none"),
        ("world@1:theme=sea:odd", r"world@1:theme=sea:odd: unknown selection 'odd'"),
        ("world@1:few:theme=city:theme=sea", r"no prompt has theme='sea'; known: city"),
        ("", r"unknown prompt set ''"),
    ],
)
def test_a_misspelt_reference_is_answered_with_near_misses(root: Path, ref: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_prompts(ref, root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "text": "x"', r"prompts.jsonl, line 2: not JSON .* at column \d+"),
        ('["b", "x"]', r"prompts.jsonl, line 2: expected an object with 'id' and 'text', got list"),
        ('{"id": "b"}', r"prompts.jsonl, line 2: field 'text' must be a non-empty string, got None"),
        ('{"id": "b", "text": "  "}', r"prompts.jsonl, line 2: field 'text' must be a non-empty string, got '  '"),
        ('{"id": 7, "text": "x"}', r"prompts.jsonl, line 2: field 'id' must be a non-empty string, got 7"),
        ('{"id": "b", "text": "x", "negative": null}', r"prompts.jsonl, line 2: field 'negative' must be a string"),
        ('{"id": "a", "text": "x"}', r"prompts.jsonl, line 2: duplicate id 'a', first used in line 1"),
        ('{"id": "b", "text": "x", "theme": 3}', r"line 2: field 'theme' must be a non-empty string, got 3"),
        ('{"id": "b", "text": "x", "style": null}', r"line 2: field 'style' must be a non-empty string, got None"),
        ('{"id": "b", "text": "x", "short": ""}', r"line 2: field 'short' must be a non-empty string, got ''"),
        ('{"id": "b", "text": "x", "time": 6}', r"line 2: field 'time' must be a non-empty string or null, got 6"),
        (
            '{"id": "b", "text": "x", "unique": ""}',
            r"line 2: field 'unique' must be a non-empty string or null, got ''",
        ),
        (
            '{"id": "b", "text": "x", "counts": {"boat": 0}}',
            r"line 2: field 'counts' must be an object of integers from 1",
        ),
        ('{"id": "b", "text": "x", "counts": {"boat": true}}', r"line 2: field 'counts' must be an object of integers"),
        (
            '{"id": "b", "text": "x", "counts": ["boat"]}',
            r"line 2: field 'counts' must be an object of integers from 1",
        ),
        ('{"id": "b", "text": "x", "scene": "sea"}', r"line 2: field 'scene' must be an object, got 'sea'"),
        ('{"id": "b", "text": "x", "world": null}', r"line 2: field 'world' must be a string, got None"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"id": "a", "text": "fine"}}\n{line}\n')
    with pytest.raises(UsageError, match=message):
        read_prompts(path)


def test_files_that_hold_nothing_or_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n\n")
    with pytest.raises(UsageError, match="holds no prompts"):
        read_prompts(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"prompts\.jsonl, line 1: not UTF-8 \(bytes ff fe 00\)"):
        read_prompts(path)
    with pytest.raises(UsageError, match="cannot read prompt file"):
        read_prompts(tmp_path / "absent.jsonl")


def test_a_damaged_card_is_named(root: Path) -> None:
    (root / "world" / "1" / "card.toml").write_text("splits = [")
    with pytest.raises(UsageError, match=r"card\.toml: not TOML"):
        load_prompts("world@1", root)


def test_other_attributes_are_kept_and_count_in_the_digest(root: Path) -> None:
    before = load_prompts("world@1", root)
    assert before.prompts[1].attributes == {"theme": "sea"}
    path = root / "world" / "1" / "prompts.jsonl"
    path.write_text(path.read_text().replace("city", "town"))
    assert load_prompts("world@1", root).digest != before.digest


def test_the_card_does_not_count_in_the_digest(root: Path) -> None:
    before = load_prompts("world@1", root).digest
    (root / "world" / "1" / "card.toml").write_text('title = "Another"')
    assert load_prompts("world@1", root).digest == before


def test_a_spread_reaches_over_the_whole_set(root: Path) -> None:
    prompts = load_prompts("world@1", root).prompts
    assert [p.id for p in spread(prompts, 3)] == ["p0", "p3", "p6"]
    assert spread(prompts, 0) == spread(prompts, 99) == prompts
