"""Cards: what is computed is right, what is written by hand stays, and splits are level."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_cli import call

from bench.errors import UsageError
from bench.level import choose_level, hash_order
from bench.prompt_card import balanced_splits, toml_value, update_card
from bench.prompts import ROOT, load_prompts, read_card, read_prompts
from bench.types import Prompt
from bench.world.prompts import write_card

STYLES = ["ink", "oil", "photo", "photo"]


def prompts(themes: int = 5, subthemes: int = 4, each: int = 4) -> list[Prompt]:
    return [
        Prompt(f"t{t}-s{s}-{i}", f"prompt {t} {s} {i}", "", {
            "theme": f"t{t}", "subtheme": f"s{s}", "style": STYLES[i % 4], "layout": ["open", "dense"][(t + s + i) % 2],
            "time": "day", "unique": "sun" if i else None,
        })
        for t in range(themes) for s in range(subthemes) for i in range(each)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of 80 prompts whose card has a comment, a table and a split of its own."""
    rows = [{"id": p.id, "text": p.text, **p.attributes} for p in prompts()]
    made = tmp_path / "mine" / "1"
    made.mkdir(parents=True)
    (made / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (made / "card.toml").write_text(CARD)
    return made


CARD = """# Our set.
title = "Five themes"
made = \"\"\"By hand,
one by one.\"\"\"
splits_wanted = [5]

[counts]
prompts = 3  # stale

# How strict we are.
[lint]
openings = 99

[splits]
favourites = ["t0-s0-0", "t4-s3-3"]
# The end.
"""


def test_counts_and_splits_are_computed_and_the_rest_of_the_card_stays(folder: Path) -> None:
    update_card(folder)
    text, card = (folder / "card.toml").read_text(), read_card(folder)
    assert card["counts"]["prompts"] == 80
    assert card["counts"]["style"] == {"ink": 20, "oil": 20, "photo": 40}
    assert card["statistics"]["clip"]["limit"] == 77
    assert card["splits"]["favourites"] == ["t0-s0-0", "t4-s3-3"]
    assert {p.attributes["theme"] for p in load_prompts(f"{folder}:5").prompts} == {f"t{i}" for i in range(5)}
    assert {k: card[k] for k in ("title", "made", "splits_wanted", "lint")} == {
        "title": "Five themes", "made": "By hand,\none by one.", "splits_wanted": [5], "lint": {"openings": 99},
    }  # fmt: skip
    kept = ["# Our set.", "# How strict we are."]
    assert [line for line in text.splitlines() if line in kept] == kept
    assert "stale" not in text


def test_the_same_command_again_changes_nothing(folder: Path) -> None:
    update_card(folder, [20])
    before = (folder / "card.toml").read_bytes()
    update_card(folder)
    assert (folder / "card.toml").read_bytes() == before
    assert list(folder.glob(".*")) == []


def test_a_set_without_a_card_gets_one(folder: Path) -> None:
    (folder / "card.toml").unlink()
    update_card(folder)
    assert set(read_card(folder)) == {"counts", "statistics"}


@pytest.mark.parametrize(
    ("card", "sizes", "message"),
    [
        (CARD, [81], "a split must have 1 to 80 prompts, got 81"),
        (CARD, [0], "a split must have 1 to 80 prompts, got 0"),
        (CARD.replace("t4-s3-3", "t9"), [], "split 'favourites' names unknown prompt ids, first 't9'"),
        (CARD.replace("one by one", "[counts]\none = 1"), [], "cannot be rewritten without changing"),
        ("counts.prompts = 4\n", [], "cannot be rewritten without changing"),
    ],
)
def test_a_card_that_cannot_be_computed_is_named_and_left_alone(
    folder: Path, card: str, sizes: list[int], message: str
) -> None:
    (folder / "card.toml").write_text(card)
    with pytest.raises(UsageError, match=message):
        update_card(folder, sizes)
    assert (folder / "card.toml").read_text() == card


def test_a_text_with_what_toml_must_escape_is_the_same_again() -> None:
    text = 'a "quote" \\ and \x7f'
    assert tomllib.loads(f"text = {toml_value(text)}") == {"text": text}


def test_odd_names_survive_in_a_card(tmp_path: Path) -> None:
    odd = ['quo"te', "back\\slash", "naïve 東京 🎈", "tab\tbed", "dot.ted"]
    rows = [{"id": f"{name} {i}".replace("\t", " "), "text": "boat", "theme": name} for name in odd for i in range(2)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    update_card(tmp_path, [3])
    assert read_card(tmp_path)["counts"]["theme"] == dict.fromkeys(sorted(odd), 2)
    assert len(read_card(tmp_path)["splits"]["3"]) == 3


# -- splits


def counted(chosen: list[str], field: str, pool: list[Prompt]) -> Counter[Any]:
    by_id = {p.id: p.attributes for p in pool}
    return Counter(f"{by_id[i]['theme']}/{by_id[i][field]}" if field == "subtheme" else by_id[i][field] for i in chosen)


def test_a_split_has_one_prompt_of_every_theme_and_the_larger_one_of_every_sub_theme() -> None:
    pool = prompts()
    splits = balanced_splits(pool, [20, 5])
    assert list(splits) == ["5", "20"]
    assert set(splits["5"]) < set(splits["20"])
    assert set(counted(splits["5"], "theme", pool).values()) == {1}
    assert len(counted(splits["20"], "subtheme", pool)) == 20
    assert counted(splits["20"], "style", pool) == {"ink": 5, "oil": 5, "photo": 10}  # as in the set
    assert counted(splits["20"], "unique", pool)[None] == 5
    by_chance = pool[:20]
    assert len(counted([p.id for p in by_chance], "subtheme", pool)) < 20


def test_splits_depend_on_ids_and_attributes_not_on_the_order_of_the_file() -> None:
    pool = prompts()
    assert balanced_splits(pool, [7]) == balanced_splits(pool[::-1], [7])
    renamed = [Prompt(p.id + "x", p.text, "", p.attributes) for p in pool]
    assert [i + "x" for i in balanced_splits(pool, [7])["7"]] != balanced_splits(renamed, [7])["7"]


def test_a_choice_is_level_in_equal_and_in_given_shares() -> None:
    fields = [[v] for v in "aaaaaabbc"]
    assert Counter(fields[i][0] for i in choose_level(fields, 3)) == Counter("abc")
    assert Counter(fields[i][0] for i in choose_level(fields, 3, proportional=True)) == Counter("aab")
    assert choose_level(fields, 4)[:2] == choose_level(fields, 2)
    grouped = choose_level(fields, 4, groups=[f[0] for f in fields], shares={"a": 0.25, "b": 0.5, "c": 0.25})
    assert Counter(fields[i][0] for i in grouped) == Counter("abbc")
    assert choose_level(fields, 0) == []
    with pytest.raises(ValueError, match="10 prompts were asked for, the pool has 9"):
        choose_level(fields, 10)
    with pytest.raises(ValueError, match="too few items of 'c'"):
        choose_level(fields, 3, groups=[f[0] for f in fields], shares={"c": 1.0})


def test_the_order_of_names_does_not_depend_on_how_they_are_listed() -> None:
    names = ["a", "b", "c", "d"]
    order = [names[i] for i in hash_order(names)]
    assert order == [names[::-1][i] for i in hash_order(names[::-1])]
    assert order != [names[i] for i in hash_order(names, seed=1)]


# -- the command, and the shipped cards


def test_the_command_writes_the_card_and_says_what_it_computed(folder: Path) -> None:
    said = call("prompts", "card", folder, "--split", "20", "--json")
    assert said.exit_code == 0
    (entry,) = json.loads(said.stdout)
    assert entry["splits"] == {"favourites": "2 prompts", "5": "5 prompts", "20": "20 prompts"}
    assert entry["counts"] == read_card(folder)["counts"]
    for wrong in (f"{folder}:5", folder / "prompts.jsonl.bak"):
        assert call("prompts", "card", wrong).exit_code == 2
    shutil.copy(folder / "prompts.jsonl", folder / "other.jsonl")
    refused = call("prompts", "card", folder / "other.jsonl")
    assert refused.exit_code == 2
    assert "a card is of a whole set" in refused.stderr


def without_estimates(card: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in card["statistics"].items() if k not in ("imagereward", "t5")}
    return {**card, "statistics": kept}  # those depend on the tokenizers a machine has


def test_the_card_of_scrollworld_is_what_its_script_makes(tmp_path: Path) -> None:
    shipped = ROOT / "scrollworld" / "1"
    for name in ("prompts.jsonl", "detectors.csv"):
        shutil.copy(shipped / name, tmp_path / name)
    write_card(tmp_path)
    assert without_estimates(read_card(tmp_path)) == without_estimates(read_card(shipped))
    assert read_card(shipped)["lint"] == {"templated": True}


@pytest.mark.parametrize("file", sorted(ROOT.glob("*/*/card.toml")), ids=lambda f: f.parent.parent.name)
def test_shipped_cards_are_up_to_date(tmp_path: Path, file: Path) -> None:
    if "counts" not in read_card(file.parent):
        return  # a hand-written card: nothing is claimed of the prompts
    for name in ("prompts.jsonl", "card.toml"):
        shutil.copy(file.parent / name, tmp_path / name)
    update_card(tmp_path)
    assert without_estimates(read_card(tmp_path)) == without_estimates(read_card(file.parent))
    assert len(read_prompts(tmp_path / "prompts.jsonl")) == read_card(tmp_path)["counts"]["prompts"]


def test_show_names_splits_by_their_size_and_the_list_counts_themes() -> None:
    (entry,) = json.loads(call("show", "scrollworld@1", "--json").stdout)
    assert entry["splits"]["spread"] == "24 prompts"
    assert "splits" not in entry["card"]
    assert "\n" not in entry["card"]["made"]
    listed = {e["name"]: e for e in json.loads(call("list", "prompts", "--json").stdout)}
    assert listed["scrollworld@1"] == {
        "name": "scrollworld@1", "prompts": 300, "themes": 7, "title": "ScrollWorld captions",
    }  # fmt: skip
