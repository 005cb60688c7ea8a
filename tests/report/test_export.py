"""A board to take along says the same as the board: numbers, intervals, ties, marks, and nothing across backbones."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest

from bench.analysis.board import NO_BACKBONE, sections
from bench.errors import UsageError
from bench.report.export import export
from bench.report.terminal import board
from bench.report.wording import CSV, notes
from bench.stats.means import bounds
from bench.store.index import NAME, build_file
from bench.suites.values import Unavailable
from bench.types import Canvas
from tests.analysis.test_board import line, text, use
from tests.support.handmade import DIGEST, Hand

PROMPTS = [f"p{i}" for i in range(10)]
WAVE = [0.01 * (i % 5 - 2) for i in range(10)]
#   name -> (mean, backbone, marks); near and best differ by noise only, far is clearly worse
METHODS = {
    "best": (0.50, "world-sd", ()),
    "near": (0.501, "world-sd", ()),
    "far": (0.90, "world-sd", ()),
    "cheat": (0.10, "world-sd", ("lpips-vgg",)),
    "other": (0.20, "llamagen", ()),
    "brought": (0.70, None, ()),
    "truth": (0.05, None, ()),
}


@pytest.fixture
def suite() -> Any:
    made = Namespace(
        ref="tiny@1", name="tiny", title="Tiny & small", tier="miniature", digest=DIGEST, backbone="world-sd",
        parts=(Namespace(name="4to1", canvas=Canvas(128, 32)),), seeds=(0,),
        methods=[Namespace(label=m, backbone=b) for m, (_, b, _) in METHODS.items()],
        unavailable=(Unavailable("method", "MAD", "mad", ""),),
        metrics=[
            use("gsd-dino", "lower"),
            use("kid", "lower", "kid-wide", extractor="world-cnn", reference="panoramas"),
        ],
    )  # fmt: skip
    made.whole = made
    return made


@pytest.fixture
def store(tmp_path: Path) -> Any:
    hand = Hand()
    for label, (mean, backbone, marks) in METHODS.items():
        for i, (prompt, wave) in enumerate(zip(PROMPTS, WAVE)):
            recipe = hand.member(label, prompt, control=label == "truth", optimises=marks)
            if (label, i) == ("far", 9):
                hand.failure(recipe)
                continue
            flags = ("adopted", "lossy-source") if label == "brought" else ()
            image = hand.image(recipe, flags=flags)
            hand.records[-1]["recipe"]["backbone"] = backbone
            value = mean + wave + (0.004 * (-1) ** i if label == "near" else 0.0)
            hand.score(image, [["gsd-dino", None, value]])
            hand.score(image, [["gsd-dino", None, 99.0]], view="squash")  # another protocol
        hand.set_score(label, {"kid": mean / 100}, n=10)
    build_file(hand.records, tmp_path / NAME)
    return Namespace(root=tmp_path)


def test_methods_stand_in_sections_by_backbone_and_controls_apart(store: Any, suite: Any) -> None:
    found = {s.backbone: [row.line.method for row in s.rows] for s in sections(store, suite)}
    assert list(found) == ["world-sd", "llamagen", NO_BACKBONE]  # the suite's own first
    assert found["world-sd"] == ["best", "near", "far", "cheat"]
    assert found["llamagen"] == ["other"]
    assert found[NO_BACKBONE] == ["brought", "truth"]


def test_intervals_ties_and_the_best_are_those_of_the_section(store: Any, suite: Any) -> None:
    section = sections(store, suite)[0]
    spots = {row.line.method: row.spots["gsd-dino"] for row in section.rows}
    best, near, far, cheat = (spots[m] for m in ("best", "near", "far", "cheat"))
    assert best.low < best.value < best.high
    assert best.group == near.group == "a"
    assert best.ranks == (1, 2)
    assert (far.missing, far.group, far.best) == (1, "", False)  # partial: not ranked
    assert (cheat.group, cheat.best) == ("", False)  # descends on a metric: not ranked
    assert [spots[m].best for m in ("best", "near")] == [True, True]  # bold is the best group, not the largest digit
    assert not any(row.spots["kid-wide"].best for row in section.rows)  # untested here
    assert all(row.spots["kid-wide"].low is None for row in section.rows)  # one number over all pictures
    assert all(row.spots["seconds"].low is None for row in section.rows)


def test_a_clear_difference_parts_the_groups(store: Any, suite: Any) -> None:
    """Negative control of the tie: with all pictures, the far method falls into a group of its own."""
    suite.metrics = [use("gsd-dino", "higher")]  # now 0.90 would be best
    for part in sections(store, suite):
        for row in part.rows:
            assert row.spots["gsd-dino"].group in ("", "a")
    hand = Hand()
    for label, mean in (("best", 0.5), ("far", 0.9)):
        for prompt, wave in zip(PROMPTS, WAVE):
            hand.score(hand.image(hand.member(label, prompt)), [["gsd-dino", None, mean + wave]])
    build_file(hand.records, store.root / NAME)
    suite.metrics = [use("gsd-dino", "lower")]
    assert [row.spots["gsd-dino"].group for row in sections(store, suite)[0].rows] == ["a", "b"]


def test_intervals_are_those_of_each_method_by_itself(store: Any, suite: Any) -> None:
    """They are computed for all methods at once; one of them lacks a prompt."""
    of = {row.line.method: row.spots["gsd-dino"] for row in sections(store, suite)[0].rows}
    sample = np.array([0.90 + wave for wave in WAVE[:9]])
    assert (of["far"].low, of["far"].high) == pytest.approx(tuple(map(float, bounds(sample))), abs=1e-12)
    assert (of["far"].prompts, of["best"].prompts) == (9, 10)
    assert (of["best"].low, of["best"].high) != pytest.approx(tuple(map(float, bounds(sample - 0.4))), abs=1e-12)


def test_the_terminal_has_the_same_sections_and_marks(store: Any, suite: Any) -> None:
    lines = text(board(store, suite, 100), 100)
    order = ["world-sd", "best", "near", "far", "cheat†", "llamagen", "other", "no", "brought‡§", "truth"]
    assert [part.split()[0] for part in lines if part.strip() and part.split()[0] in order] == order
    assert line(lines, "near")[3:] == ["a", "1-2", "0.0050", "1.50", "8"]
    assert line(lines, "far")[1::2] == ["0.898*", "0.0090", "8*"]  # partial: an interval, and no letter
    assert "compare methods within their backbone" in "\n".join(lines)


GOLDEN = """### 4to1, world-sd

| method | pictures | gsd-dino ↓ | kid-wide ↓ | seconds (s) ↓ | nfe ↓ |
| :-- | --: | --: | --: | --: | --: |
| best | 10/10 | **0.500** [] a 1-2 | 0.0050 | 1.50 | 8 |
| near | 10/10 | **0.501** [] a 1-2 | 0.0050 | 1.50 | 8 |
| far | 9/10, 1 failed | 0.898\\* [] | 0.0090 | 1.50\\* | 8\\* |
| cheat† | 10/10 | 0.100 [] | 0.0010 | 1.50 | 8 |
"""


def test_markdown_is_a_table_for_each_section_with_its_marks_explained(store: Any, suite: Any) -> None:
    said = export(store, suite, "md")
    assert GOLDEN in re.sub(r"\[0\.\d+, 0\.\d+\]", "[]", said)
    assert GOLDEN not in said  # negative control: the ends of the intervals do stand there
    assert "## tiny@1: Tiny &amp; small" in said
    assert "brought‡§" in said
    for note in ("† descends on lpips-vgg", "‡ made elsewhere", "§ from files", r"\* some pictures", "tier miniature"):
        assert f"- {note}" in said
    assert "methods the suite names that are not here: MAD" in said
    assert "gsd-dino ↓: world-vit, tiles" in said
    assert "99" not in said


def test_csv_holds_every_number_in_full_precision(store: Any, suite: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(export(store, suite, "csv"))))
    assert tuple(rows[0]) == CSV
    assert len(rows) == len(METHODS) * 4  # two metrics, two costs
    row = next(r for r in rows if (r["method"], r["column"]) == ("far", "gsd-dino"))
    mean = sum(0.90 + w for w in WAVE[:9]) / 9
    assert float(row["value"]) == pytest.approx(mean, abs=1e-12)
    assert (row["wanted"], row["made"], row["missing"], row["tier"]) == ("10", "9", "1", "miniature")
    assert next(r for r in rows if r["method"] == "brought")["lossy"] == "True"


def test_latex_escapes_what_it_must_and_closes_what_it_opens(store: Any, suite: Any) -> None:
    suite.parts[0].name = "4to1"
    said = export(store, suite, "tex")
    assert said.count(r"\begin{tabular}") == said.count(r"\end{tabular}") == 3
    assert r"Tiny \& small" in said
    assert r"\textbf{0.500}" in said
    assert r"cheat$^\dagger$" in said
    for table in re.findall(r"\\begin\{tabular\}\{(l+)(r+)\}(.*?)\\end", said, re.S):
        for row in [x for x in table[2].splitlines() if "&" in x]:
            assert row.count("&") == len(table[1])


class Checker(HTMLParser):
    """Tags must nest, and nothing may be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.board = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset")]
        if tag not in ("meta", "line", "circle"):
            self.open.append(tag)
        self.inside = dict(attrs).get("id")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"] and self.inside == "board":
            self.board += data


def test_the_page_stands_alone_and_carries_its_data(store: Any, suite: Any) -> None:
    suite.title = "</script><b>Tiny"
    page = Checker()
    said = export(store, suite, "html")
    page.feed(said)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in said
    assert "<b>Tiny" not in said
    rows = json.loads(page.board)
    assert len(rows) == len(METHODS) * 4
    assert {r["method"]: r["group"] for r in rows if r["column"] == "gsd-dino"}["best"] == "a"
    bars = re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"', said)
    assert len(bars) == len(METHODS)
    assert all(0 <= float(a) <= float(b) <= 88 for a, b in bars)
    assert said.count('class="unranked"') == 4 + 4 + 3  # cheat, brought (lossy), and far but for its KID
    with pytest.raises(AssertionError):  # negative control: the checker sees what is not closed
        Checker().feed("<p><b></p></b>")


def test_an_unknown_format_is_answered_with_near_ones(store: Any, suite: Any) -> None:
    with pytest.raises(UsageError, match="unknown format 'htm'; did you mean 'html'"):
        export(store, suite, "htm")


@pytest.mark.parametrize(("backbone", "marked"), [("world-wan", True), ("world-sd", False)])
def test_a_network_that_misses_its_gate_is_named_under_the_board(backbone: str, marked: bool, suite: Any) -> None:
    section = Namespace(backbone=backbone, rows=[], columns=[], mute=False)
    said = [note for note in notes(suite, [section]) if "gate" in note]
    assert len(said) == marked
    assert all(note.startswith("world-wan misses the miniature's gate: exactly one thing in ") for note in said)
