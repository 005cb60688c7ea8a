"""The lint of prompt sets: every planted fault is found, and found alone; a sound set has none."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from test_cli import call

from bench.errors import UsageError
from bench.prompt_lint import Limits, Report, lint
from bench.prompt_words import FUNCTION_WORDS, plural, stands_in, states
from bench.prompts import ROOT, PromptSet, available, load_prompts
from bench.types import Prompt
from bench.world.scene import FILLERS

Row = dict[str, Any]
CONTENT = [w for w in FILLERS if w not in FUNCTION_WORDS and len(w) > 3]


def clean(n: int = 18) -> list[Row]:
    """Sound prompts: eleven words each, none of them twice in the set."""
    assert len(CONTENT) >= 11 * n
    return [{"id": f"p{i}", "text": " ".join(CONTENT[11 * i : 11 * i + 11])} for i in range(n)]


def load_handmade(rows: list[Row], **card: Any) -> PromptSet:
    prompts = tuple(
        Prompt(r["id"], r["text"], "", {k: v for k, v in r.items() if k not in ("id", "text")}) for r in rows
    )
    return PromptSet("handmade", "1", "handmade@1", prompts, MappingProxyType(card))


def linted(rows: list[Row], root: Path = ROOT, **card: Any) -> Report:
    return lint(load_handmade(rows, **card), root=root)


def found(report: Report) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.check, f.level, f.ids) for f in report.findings]


def everywhere(rows: list[Row], **fields: Any) -> list[Row]:
    return [{**r, **fields} for r in rows]


def test_a_sound_set_has_no_finding() -> None:
    report = linted(clean())
    assert found(report) == []
    assert report.ok
    assert {c.verdict for c in report.checks} == {"ok"}
    assert len(report.checks) == len({c.check for c in report.checks}) == 14


# -- one planted fault, one finding


def same_text(rows: list[Row]) -> None:
    rows[7]["text"] = f"  {rows[2]['text'].upper()}!"


def shared_half(rows: list[Row]) -> None:
    rows[7]["text"] = " ".join(rows[2]["text"].split()[:7] + rows[7]["text"].split()[7:])


def reordered(rows: list[Row]) -> None:
    rows[7]["text"] = " ".join(reversed(rows[2]["text"].split()))


def unstated(rows: list[Row]) -> None:
    rows[7]["unique"] = "red barge"


def counted_unique(rows: list[Row]) -> None:
    rows[7] |= {"text": rows[7]["text"] + " with two lamps", "unique": "lamp", "counts": {"lamp": 2}}


def uncounted(rows: list[Row]) -> None:
    rows[7] |= {"text": rows[7]["text"] + " with three lamps", "counts": {"lamp": 4}}


def boosted(rows: list[Row]) -> None:
    rows[7]["text"] += ", Award-Winning, 8K"


def too_long(rows: list[Row]) -> None:
    rows[7]["text"] = " ".join(CONTENT[-80:])
    del rows[8:]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (same_text, [("duplicates", "error", ("p2", "p7"))]),
        (shared_half, [("near-words", "error", ("p2", "p7"))]),
        (reordered, [("near-embedding", "error", ("p2", "p7"))]),
        (unstated, [("unique", "error", ("p7",))]),
        (counted_unique, [("unique", "error", ("p7",))]),
        (uncounted, [("counts", "error", ("p7",))]),
        (boosted, [("banned", "error", ("p7",))]),
        (too_long, [("tokens-clip", "error", ("p7",)), ("tokens-imagereward", "warning", ("p7",))]),
    ],
)
def test_a_planted_fault_is_found_and_nothing_else(fault: Callable[[list[Row]], None], expected: Any) -> None:
    rows = clean()
    rows = everywhere(rows, unique=None) if fault in (unstated, counted_unique) else rows
    fault(rows)
    report = linted(rows)
    assert found(report) == expected
    assert not report.ok


def pattern(make: Callable[[str, int], str], n: int) -> list[Row]:
    """A sound set of 18 whose first n prompts are changed."""
    return [{**r, "text": make(r["text"], i)} if i < n else r for i, r in enumerate(clean())]


@pytest.mark.parametrize(
    ("check", "make", "limit"),
    [
        ("openings", lambda text, i: f"seen from afar {text}", 15),
        ("phrases", lambda text, i: text.replace(" ", " from edge to edge ", 1), 15),
        ("skeletons", lambda text, i: "a {} of the {} {} with {}".format(*text.split()[:4]), 3),
    ],
)
def test_a_template_is_found_beyond_its_limit_and_not_at_it(
    check: str, make: Callable[[str, int], str], limit: int
) -> None:
    assert found(linted(pattern(make, limit))) == []
    ids = tuple(f"p{i}" for i in range(limit + 1))
    assert found(linted(pattern(make, limit + 1))) == [(check, "error", ids)]


def test_a_poor_vocabulary_is_found() -> None:
    few = random.Random(0)
    rows = [{"id": f"p{i}", "text": " ".join(few.sample(CONTENT[:50], 12))} for i in range(40)]
    assert found(linted(rows)) == [("vocabulary", "error", ())]


def test_a_short_set_says_that_its_vocabulary_was_not_checked() -> None:
    (check,) = [c for c in linted(clean(3)).checks if c.check == "vocabulary"]
    assert (check.verdict, check.worst) == ("not checked", "only 33 words; needs 100")


def test_a_set_made_from_a_template_on_purpose_is_noted_not_failed() -> None:
    rows = pattern(lambda text, i: f"seen from afar {text}", 18)
    assert not linted(rows).ok
    report = linted(rows, lint={"templated": True})
    assert report.ok
    assert {(f.check, f.level) for f in report.findings} == {("openings", "note")}
    rows[7]["text"] = rows[2]["text"]
    assert not linted(rows, lint={"templated": True}).ok  # a duplicate is no template


# -- balance


def balanced(sizes: dict[str, int]) -> list[Row]:
    names = [name for name, n in sizes.items() for _ in range(n)]
    return [{**r, "theme": "sea", "subtheme": name} for r, name in zip(clean(len(names)), names, strict=True)]


def test_unequal_sub_themes_are_a_warning_and_an_error_where_the_card_states_their_size() -> None:
    assert found(linted(balanced({"reefs": 5, "bays": 5, "piers": 5}))) == []
    uneven = balanced({"reefs": 5, "bays": 5, "piers": 4})
    assert found(linted(uneven)) == [("balance", "warning", ())]
    assert found(linted(uneven, lint={"per_subtheme": 5})) == [("balance", "error", ())]
    assert found(linted(clean(), lint={"per_subtheme": 5})) == [("balance", "error", ())]
    part = dataclasses.replace(load_handmade(clean(), lint={"per_subtheme": 5}), ref="handmade@1:18")
    assert lint(part).ok  # the card speaks of the whole set


def test_an_attribute_that_only_some_prompts_have_is_a_warning() -> None:
    rows = everywhere(clean(), style="ink")
    assert found(linted(rows)) == []
    del rows[4]["style"]
    assert found(linted(rows)) == [("balance", "warning", ("p4",))]


# -- what the text states


@pytest.mark.parametrize(
    ("text", "counts", "wrong"),
    [
        ("Three fishing boats on a beach", {"fishing boat": 3}, ""),
        ("12 stilt-walkers, four women, two wolves", {"stilt-walker": 12, "woman": 4, "wolf": 2}, ""),
        ("five cacti and a pair of geese", {"cactus": 5, "goose": 2}, ""),
        ("rows of lamps, two of them", {"row of lamps": 2}, ""),
        ("one sun, three boats", {"sun": 1, "boat": 3}, ""),
        ("three boats, two houses", {"boat": 2, "house": 3}, "2 belongs to another thing in the text"),
        ("some boats on a beach", {"boat": 3}, "the text does not say that there are 3"),
        ("three on a beach", {"boat": 3}, "the text does not name 'boat'"),
        ("threescore boats", {"boat": 3}, "the text does not say that there are 3"),
    ],
)
def test_a_count_must_be_said_of_its_thing(text: str, counts: dict[str, int], wrong: str) -> None:
    assert next((said for noun in counts if (said := states(text, counts, noun))), "") == wrong


def test_a_unique_thing_stands_word_for_word_and_not_in_the_plural() -> None:
    assert stands_in("red lighthouse", "The Red Lighthouse's lamp")
    assert not stands_in("red lighthouse", "a red and white lighthouse")
    assert not stands_in("sun", "sunlit snow")
    rows = everywhere(clean(), unique=None)
    rows[3] |= {"unique": "lamp", "text": "a lamp between other lamps " + rows[3]["text"]}
    assert found(linted(rows)) == [("unique", "warning", ("p3",))]
    assert "grey geese" in plural("grey goose")


# -- banned words


@pytest.mark.parametrize(
    "text",
    [
        "A masterpiece of a harbour", "reeds in 8K", "reeds, as on ArtStation", "a LEGO castle", "a nude figure",
        "reeds in the style of Monet", "reeds, in the style of Jane Doe, at dusk", "reeds, painted by Jane Doe",
        "a print by Hokusai.", "highly   detailed reeds",
    ],
)  # fmt: skip
def test_a_banned_word_is_found(text: str) -> None:
    assert found(linted([*clean(), {"id": "bad", "text": text}])) == [("banned", "error", ("bad",))]


@pytest.mark.parametrize(
    "text",
    [
        "the master pieces a net together", "98k runners", "galleries by Lake Baikal", "naked branches, an epic poem",
        "in the style of Persian miniatures", "woven by Andean women", "a Denuded hill", "legolike cliffs, an Art fair",
        "in the style of Art Nouveau", "a marvel of iron", "gored cloth of a skirt", "houses by night",
    ],
)  # fmt: skip
def test_a_word_with_a_safe_sense_is_left_alone(text: str) -> None:
    assert found(linted([*clean(), {"id": "good", "text": text}])) == []


def test_without_a_list_banned_words_are_said_to_be_unchecked_and_a_damaged_list_is_named(tmp_path: Path) -> None:
    (check,) = [c for c in linted(clean(), root=tmp_path).checks if c.check == "banned"]
    assert check.verdict == "not checked"
    (tmp_path / "banned.toml").write_text('[[group]]\nreason = "x"\npatterns = ["("]\n')
    with pytest.raises(UsageError, match=r"banned\.toml: group\[0\]\.patterns\[0\]: no regular expression"):
        linted(clean(), root=tmp_path)
    (tmp_path / "banned.toml").write_text('[[group]]\nreason = "x"\nlevel = "grave"\nwords = ["y"]\n')
    with pytest.raises(UsageError, match="level: 'grave' is none of note, warning, error"):
        linted(clean(), root=tmp_path)


# -- limits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"opening": 3}, r"card of handmade@1: \[lint\] has no key 'opening'; did you mean 'openings'"),
        ({"openings": 2.5}, r"\[lint\] openings must be int, got 2.5"),
        ({"openings": True}, r"\[lint\] openings must be int, got True"),
        ({"templated": 1}, r"\[lint\] templated must be bool, got 1"),
        ("strict", r"\[lint\] must be a table, got 'strict'"),
    ],
)
def test_a_wrong_limit_in_a_card_is_named(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        linted(clean(), lint=given)


def test_the_limits_of_a_card_are_used() -> None:
    rows = clean()
    strict = {"near_words": 0.0, "openings": 0, "phrases": 0, "near_embedding": 0.0, "mattr": 1.01}
    seen = {f.check for f in linted(pattern(lambda text, i: f"seen from afar {text}", 2), lint=strict).findings}
    assert seen == {"near-embedding", "openings", "phrases", "vocabulary"}
    assert found(linted(rows, lint=dataclasses.asdict(Limits()) | {"per_subtheme": 1})) == [("balance", "error", ())]
    limits = linted(rows, lint={"openings": 4}).limits
    assert (limits.openings, limits.phrases) == (4, Limits().phrases)


def test_another_language_is_checked_for_what_needs_no_english() -> None:
    rows = everywhere(clean(), counts={"Boot": 3})
    assert not linted(rows).ok
    report = linted(rows, language="de")
    assert report.ok
    assert {c.check for c in report.checks if c.verdict == "not checked"} == {"skeletons", "counts"}


def test_pairs_beyond_the_first_hundred_are_counted_not_listed() -> None:
    report = linted([{"id": f"p{i}", "text": f"a red boat sails far out to sea {i}"} for i in range(20)])
    near = [f for f in report.findings if f.check == "near-words"]
    assert len(near) == 101
    assert near[-1].said == f"{20 * 19 // 2 - 100} more such pairs"


def test_a_clip_text_tower_can_take_the_place_of_the_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tower:
        def embed_text(self, texts: list[str]) -> np.ndarray:
            vectors = np.eye(len(texts), dtype=np.float32)
            vectors[4] = 0.97 * vectors[3] + np.sqrt(1 - 0.97**2) * vectors[4]
            return vectors

    loaded = []
    monkeypatch.setattr("bench.extractors.load", lambda ref, device: loaded.append((ref, device)) or Tower())
    chosen = load_handmade(clean())
    report = lint(chosen, extractor="world-clip", device="cuda")
    assert found(report) == [("near-embedding", "error", ("p3", "p4"))]
    assert loaded == [("world-clip", "cuda")]
    assert "cosine 0.95 (text of world-clip)" in [c.limit for c in report.checks]
    with pytest.raises(UsageError, match="extractor 'world-vit' has role dino and reads no text"):
        lint(chosen, extractor="world-vit")


# -- the command, and the sets that are shipped


def write_set(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir(parents=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_the_command_prints_the_checks_and_leaves_with_1_on_errors_only(tmp_path: Path) -> None:
    rows = clean()
    good = call("prompts", "lint", write_set(tmp_path / "good" / "1", rows))
    assert good.exit_code == 0
    assert "near-embedding" in good.stdout
    same_text(rows)
    folder = write_set(tmp_path / "bad" / "1", rows)
    bad = call("prompts", "lint", folder)
    assert bad.exit_code == 1
    assert "p2, p7" in bad.stdout
    as_json = call("prompts", "lint", folder / "prompts.jsonl", "--json")
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    assert report["ok"] is False
    assert [f["ids"] for f in report["findings"]] == [["p2", "p7"]]
    assert report["limits"]["openings"] == 15
    assert set(report) >= {"set", "digest", "prompts", "checks", "shares", "statistics"}


def test_a_malformed_set_is_named_with_file_line_and_field(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "bad" / "1", [*clean(2), {"id": "x", "text": "y", "counts": {"boat": 0}}])
    said = call("prompts", "lint", folder)
    assert (said.exit_code, said.stdout) == (2, "")
    assert "prompts.jsonl, line 3: field 'counts' must be an object of integers from 1, got {'boat': 0}" in said.stderr
    wrong = call("prompts", "lint", folder, "--tokenizer", "bert")
    assert wrong.exit_code == 2


@pytest.mark.parametrize("name", available())
def test_every_shipped_set_passes_the_lint(name: str) -> None:
    report = lint(load_prompts(name))
    assert report.ok, [f for f in report.findings if f.level == "error"]
    assert {c.check for c in report.checks if c.verdict == "not checked"} <= {"vocabulary"}


def test_the_set_made_from_a_template_passes_only_because_its_card_says_so() -> None:
    chosen = load_prompts("scrollworld@1")
    report = lint(dataclasses.replace(chosen, card=MappingProxyType({})))
    assert {f.check for f in report.findings if f.level == "error"} == {
        "near-words", "near-embedding", "openings", "phrases", "skeletons", "vocabulary",
    }  # fmt: skip
