"""Prompt sets: what is wrong with a file is said with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.prompts import available, load_prompts, read_prompts, spread


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


def test_selections_are_splits_numbers_or_attributes(root: Path) -> None:
    assert ids("world@1:few", root) == ["p7", "p2"]
    assert ids("world@1:5", root) == ["p0", "p2", "p4", "p6", "p8"]
    assert ids("world@1:theme=sea", root) == ["p1", "p3", "p5", "p7", "p9"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("word@1", r"unknown prompt set 'word@1'; did you mean 'world@1'"),
        ("world@2", r"unknown prompt set 'world@2'; did you mean 'world@1'"),
        ("world@1:fews", r"unknown selection 'fews'.*did you mean 'few'"),
        ("world@1:theme=see", r"no prompt has theme='see'; did you mean 'sea'"),
        ("world@1:broken", r"split names unknown prompt ids, first 'p99'"),
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
    with pytest.raises(UsageError, match="cannot read prompt file"):
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
