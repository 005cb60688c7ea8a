"""Adopting somebody's list of prompts: every layout, stable ids, and nothing written where a row is wrong."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.prompts import load_prompts
from bench.prompts.adopt import adopt, slug
from bench.prompts.words import normalised
from tests.cli.test_app import call

CAPTIONS = ["A narrow boat moored in the reeds", "Snow on a slate roof, seen from above", "Five geese cross a wet road"]
SLUGS = ["narrow-boat-moored-reeds", "snow-slate-roof-seen", "five-geese-cross-wet"]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "\n".join(CAPTIONS)),
        ("windows.txt", "\ufeff" + "\r\n".join(CAPTIONS) + "\r\n\r\n"),
        ("list.csv", "n,caption\n" + "".join(f'{i},"{c}"\n' for i, c in enumerate(CAPTIONS))),
        ("list.jsonl", "".join(json.dumps({"prompt": c, "n": 1}) + "\n" for c in CAPTIONS)),
        ("strings.jsonl", "".join(json.dumps(c) + "\n" for c in CAPTIONS)),
        ("list.json", json.dumps(CAPTIONS)),
        ("GPT1k.json", json.dumps({str(i): c for i, c in enumerate(CAPTIONS)})),
    ],
)
def test_every_layout_gives_the_same_prompts(tmp_path: Path, name: str, content: str) -> None:
    made = adopt(written(tmp_path / name, content), "mine", root=tmp_path / "sets")
    assert [(p.id, p.text) for p in made.prompts] == list(zip(SLUGS, CAPTIONS, strict=True))
    folder = tmp_path / "sets" / "mine" / "1"
    assert sorted(p.name for p in folder.iterdir()) == ["card.toml", "prompts.jsonl"]
    assert made.card["source"] == {
        "file": name, "sha256": hashlib.sha256(content.encode()).hexdigest(), "prompts": 3,
    }  # fmt: skip
    assert made.card["licence"] == "unknown: say"
    assert made.card["counts"]["prompts"] == 3
    assert load_prompts(str(folder)).digest == made.digest


def test_fields_are_renamed_and_those_of_the_same_name_come_along(tmp_path: Path) -> None:
    head, row = "Title,Category,style,unique,key", "A boat in the reeds,river,ink,,b7"
    file = written(tmp_path / "list.csv", f"{head}\n{row}\n")
    made = adopt(
        file, "mine", root=tmp_path, fields={"text": "Title", "theme": "Category", "id": "key"}, licence="CC0-1.0"
    )
    (prompt,) = made.prompts
    assert (prompt.id, prompt.text) == ("b7", "A boat in the reeds")
    assert prompt.attributes == {"theme": "river", "style": "ink", "unique": None}
    assert made.card["licence"] == "CC0-1.0"


# -- refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one boat\n\ntwo boats\n", r"a\.txt, line 2: field 'text' must be a non-empty string, got ''"),
        ("a.txt", "one boat\nOne, boat!\n", r"a\.txt, line 2: field 'text' is the same as in line 1: 'One, boat!'"),
        ("a.txt", b"one boat\ncaf\xe9\n", r"a\.txt, line 2: not UTF-8 \(bytes e9 0a\)"),
        ("a.txt", "one boat\na \x07 bell\n", r"a\.txt, line 2: field 'text' holds the unreadable character U\+0007"),
        ("a.txt", "one \ufffd boat\n", r"line 1: field 'text' holds the unreadable character U\+FFFD"),
        ("a.csv", "text,style\nboat,ink\n,ink\n", r"a\.csv, line 3: field 'text' must be a non-empty string, got ''"),
        ("a.csv", "text,style\nboat\n", r"a\.csv, line 2: expected 2 cells \(text, style\), got 1"),
        ("a.csv", 'text\n"boat\n', r"a\.csv, line 2: not CSV"),
        (
            "a.csv",
            "title\nboat\n",
            r"line 2: no field 'text', 'prompt' or 'caption' among 'title'; name it: --field text",
        ),
        ("a.csv", "text\n", "holds no prompts"),
        (
            "a.jsonl",
            '{"text": "boat"}\n{"text": 4}\n',
            r"a\.jsonl, line 2: field 'text' must be a non-empty string, got 4",
        ),
        ("a.jsonl", '{"text": "boat"}\n{"text"\n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": "boat", "text": "x"}\n', r"a\.jsonl, line 1: field 'text' stands there twice"),
        (
            "a.jsonl",
            '{"text": "boat", "counts": {"boat": 0}}\n',
            r"line 1: field 'counts' must be an object of integers",
        ),
        ("a.jsonl", '{"text": "a \\ud800"}\n', r"line 1: field 'text' holds the unreadable character U\+D800"),
        ("a.json", '{"0": "boat", "7": ""}', r"a\.json, key '7': field 'text' must be a non-empty string, got ''"),
        ("a.json", '{"0": "boat", "0": "x"}', r"a\.json: field '0' stands there twice"),
        ("a.json", '["boat", 4]', r"a\.json, item 1: field 'text' must be a string, or the entry an object, got 4"),
        ("a.json", '["boat",\n', r"a\.json, line 2: not JSON"),
        ("a.json", '"boat"', r"expected a list or an object of captions, got str"),
        ("a.doc", "boat", r"a\.doc: expected a file ending in \.txt, \.csv, \.tsv, \.jsonl, \.json"),
    ],
)
def test_a_row_that_cannot_be_taken_is_named_and_nothing_is_written(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        adopt(written(tmp_path / name, content), "mine", root=tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_all_wrong_rows_are_named_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "boat\n\nboat\n" + "\n" * 11 + "reeds\n")
    with pytest.raises(UsageError, match=r"line 2: .*(?s:.)*line 3: .* same as in line 1(?s:.)*and 3 more"):
        adopt(file, "mine", root=tmp_path)


def test_given_ids_must_be_unique_and_named_fields_must_be_there(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "key,text\nk,boat\nk,reeds\n")
    with pytest.raises(UsageError, match=r"line 3: field 'id' is not unique: 'k'"):
        adopt(file, "mine", root=tmp_path, fields={"id": "key"})
    with pytest.raises(UsageError, match=r"line 2: no field 'kye'; did you mean 'key'"):
        adopt(file, "mine", root=tmp_path, fields={"id": "kye"})
    with pytest.raises(UsageError, match="no field 'thme'; did you mean 'theme'"):
        adopt(file, "mine", root=tmp_path, fields={"thme": "key"})


@pytest.mark.parametrize("name", ["", "Mine", "../mine", "a b", ".hidden", "a@1"])
def test_a_name_that_cannot_be_asked_for_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="name must be lower-case letters"):
        adopt(written(tmp_path / "a.txt", "boat"), name, root=tmp_path)


def test_an_existing_set_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adopt(written(tmp_path / "a.txt", "boat"), "mine", root=tmp_path)
    before = (tmp_path / "mine" / "1" / "prompts.jsonl").read_bytes()
    with pytest.raises(UsageError, match="exists already and sets are not overwritten"):
        adopt(written(tmp_path / "b.txt", "reeds"), "mine", root=tmp_path)
    assert (tmp_path / "mine" / "1" / "prompts.jsonl").read_bytes() == before
    assert adopt(tmp_path / "b.txt", "mine", "2", root=tmp_path).prompts[0].text == "reeds"
    with pytest.raises(UsageError, match="exists already"):  # it would be hidden behind the shipped one
        adopt(tmp_path / "b.txt", "scrollworld", root=tmp_path / "other")


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="disk full"):
        adopt(written(tmp_path / "a.txt", "boat"), "mine", root=tmp_path / "sets")
    assert list((tmp_path / "sets").rglob("*.*")) == []


# -- ids


def test_a_slug_is_the_first_words_that_mean_something() -> None:
    assert slug("The old man and the sea, at dusk") == "old-man-sea-dusk"
    assert slug("Émile's café") == "emiles-cafe"
    assert slug("of the at") == "of-the-at"
    assert slug("a boat at sea by night in ink", {"boat-sea-night-ink"}) == "boat-sea-night-ink-2"
    assert slug("red boat at sea by night in ink", {"red-boat-sea-night"}) == "red-boat-sea-night-ink"
    assert slug("w" * 99) == "w" * 40


def test_a_text_without_letters_is_named_by_its_digest_never_by_its_place() -> None:
    assert slug("東京の夜") == "prompt-" + hashlib.sha256("東京の夜".encode()).hexdigest()[:8]
    assert slug("17").startswith("prompt-")
    assert slug("東京の夜") != slug("東京の朝")


def test_rows_added_later_change_no_id_before_them(tmp_path: Path) -> None:
    texts = [f"a boat at sea by night, seen {i} times" for i in range(5)]
    first = adopt(written(tmp_path / "a.txt", "\n".join(texts[:3])), "mine", root=tmp_path)
    more = adopt(written(tmp_path / "a.txt", "\n".join(texts)), "mine", "2", root=tmp_path)
    assert [p.id for p in more.prompts][:3] == [p.id for p in first.prompts]
    assert len({p.id for p in more.prompts}) == 5


TEXTS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60).filter(
        lambda t: t.strip() == t and not {"\ufffd", "\ufeff"} & set(t)
    ),
    min_size=1, max_size=8, unique_by=normalised,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, layout=st.sampled_from(["txt", "csv", "jsonl", "json"]))
def test_what_is_adopted_is_what_was_given(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], layout: str
) -> None:
    folder = tmp_path_factory.mktemp("list")
    file = folder / f"list.{layout}"
    if layout == "csv":
        with file.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f, quoting=csv.QUOTE_ALL).writerows([["text"], *([t] for t in texts)])
    else:
        lines = {"txt": "\n".join(texts), "json": json.dumps(texts), "jsonl": "\n".join(map(json.dumps, texts))}
        file.write_text(lines[layout], encoding="utf-8", newline="")
    made = adopt(file, "mine", root=folder)
    assert [p.text for p in made.prompts] == texts
    ids = [p.id for p in made.prompts]
    assert len(set(ids)) == len(ids)
    assert all(i and set(i) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and not i.isdecimal() for i in ids)
    assert [p.id for p in load_prompts(str(folder / "mine" / "1")).prompts] == ids


# -- the command


def test_the_command_adopts_reports_and_makes_the_set_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCROLLBENCH_PROMPTS", str(tmp_path / "sets"))
    file = written(
        tmp_path / "captions.csv", "Words\n" + "".join(f'"{c}"\n' for c in [*CAPTIONS, "A masterpiece of a boat"])
    )
    said = call("prompts", "adopt", file, "--as", "mine", "--field", "text=Words", "--json")
    assert said.exit_code == 0  # findings do not fail an adoption
    result = json.loads(said.stdout)
    assert (result["set"], result["prompts"]) == ("mine@1", 4)
    assert [f["check"] for f in result["lint"]["findings"]] == ["banned"]
    assert any(
        e["name"] == "mine@1" and e["prompts"] == 4 for e in json.loads(call("list", "prompts", "--json").stdout)
    )
    again = call("prompts", "adopt", file, "--as", "mine", "--field", "text=Words")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "not overwritten" in again.stderr
    assert "verdict" in call("prompts", "adopt", file, "--as", "other", "--field", "text=Words").stdout


def test_ids_of_a_list_are_kept_where_every_row_has_another_one(tmp_path: Path) -> None:
    rows = {"good": "id,text\nA-1,a reef\nA-2,a pier\n", "twice": "id,text\nA-1,a reef\nA-1,a pier\n"}
    found = {}
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
        found[name] = [p.id for p in adopt(tmp_path / f"{name}.csv", name, root=tmp_path / "sets").prompts]
    assert found == {"good": ["A-1", "A-2"], "twice": ["reef", "pier"]}
