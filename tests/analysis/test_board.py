"""The board and the contact sheet show what the index holds, mark what must not be compared, and fit."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bench.analysis.board import boards, sections
from bench.analysis.compare import compare
from bench.errors import StoreError
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.report.contact import contact_sheet
from bench.report.terminal import _share, bar, board
from bench.report.wording import number
from bench.store import Store
from bench.store.index import NAME, build, build_file, query
from bench.suites.load import load_suite
from bench.suites.values import Unavailable
from bench.types import Canvas, Prompt
from tests.support import made_up
from tests.support.handmade import DIGEST, Hand
from tests.support.small import small

METHODS = {"one": 3.0, "two": 2.0, "cheat": 1.0, "truth": 0.5}


def use(
    ref: str, direction: str, label: str = "", view: str = "tiles", extractor: str = "world-vit", **more: Any
) -> Any:
    metric = Namespace(name=ref, values={ref: direction}, unit="", range=(None, None))
    reference = more.get("reference")
    return Namespace(
        ref=ref, label=label or ref, metric=metric, view=view, extractor=extractor, reference=reference, params={}
    )


@pytest.fixture
def suite() -> Any:
    prompts = tuple(Prompt(p, f"a photo of {p}") for p in ("hill", "lake"))
    made = Namespace(
        ref="tiny@1",
        name="tiny",
        title="Tiny",
        tier="miniature",
        digest=DIGEST,
        parts=(Namespace(name="4to1", canvas=Canvas(128, 32), prompts=Namespace(prompts=prompts)),),
        backbone="world-sd",
        methods=[Namespace(label=label, backbone="world-sd") for label in ("two", "one")],
        unavailable=(),
        seeds=(0,),
        metrics=[
            use("gsd-dino", "lower"),
            use("kid", "lower", "kid-panoramas", extractor="world-cnn", reference="panoramas"),
        ],
    )
    made.whole = made
    return made


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Four methods: two ranked, one that descends on what is measured, one control; one picture failed."""
    hand, pixels = Hand(), {}
    for label, value in METHODS.items():
        marks = ("lpips-vgg",) if label == "cheat" else ()
        for prompt in ("hill", "lake"):
            recipe = hand.member(label, prompt, control=label == "truth", optimises=marks)
            if (label, prompt) == ("truth", "lake"):
                hand.failure(recipe)
                continue
            image = hand.image(recipe)
            pixels[image] = np.full((32, 128, 3), 40, np.uint8)
            hand.score(image, [["gsd-dino", None, value]])
            hand.score(image, [["gsd-dino", None, 99.0]], view="squash")  # another protocol: not this board's number
        hand.set_score(label, {"kid": value / 100, "kid-subset-std": 0.5}, n=2)
    build_file(hand.records, tmp_path / NAME)
    return Namespace(root=tmp_path, open_image=lambda image_id: pixels[image_id])


def text(renderable: Any, width: int = 120) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text().splitlines()


def line(lines: list[str], start: str) -> list[str]:
    return next(part.split() for part in lines if part.strip().startswith(start))


def test_the_board_shows_the_numbers_of_the_suites_own_protocols(store: Any, suite: Any) -> None:
    lines = text(board(store, suite))
    assert line(lines, "two") == ["two", "2", "0.0200", "1.50", "8"]
    assert line(lines, "truth") == ["truth", "0.500*", "0.0050", "1.50*", "8*"]
    assert not any("99" in part for part in lines)


def test_methods_stand_in_the_suites_order_and_controls_below_a_rule(store: Any, suite: Any) -> None:
    lines = text(board(store, suite))
    starts = [part.split()[0] for part in lines if part.strip() and "are made" not in part]
    order = [s for s in starts if s.strip("†") in {*METHODS, "controls"} or set(s) == {"─"}]
    assert [s if s[0] != "─" else "rule" for s in order] == [
        "rule",
        "rule",
        "two",
        "one",
        "cheat†",
        "rule",
        "controls",
        "truth",
        "rule",
    ]
    (shown,) = boards(store, suite)
    assert [entry.control for entry in shown.lines] == [False, False, False, True]


def test_two_prompts_have_no_letters_and_nothing_bold_and_how_many_would_do_is_said(store: Any, suite: Any) -> None:
    spots = [spot for s in sections(store, suite) for row in s.rows for spot in row.spots.values()]
    assert {(spot.group, spot.ranks, spot.best) for spot in spots} == {("", None, False)}
    said = " ".join("\n".join(text(board(store, suite))).split())
    assert "no letters and ranks: so few prompts could tell nothing among 2 numbers; 7 prompts could" in said


def test_directions_networks_coverage_and_tier_are_said(store: Any, suite: Any) -> None:
    said = "\n".join(text(board(store, suite)))
    assert "↓" in said
    assert "world-vit" in said
    assert "pictures: 7 of 8, 1 failed" in said
    assert "tier miniature" in said
    assert "† descends on lpips-vgg" in said
    suite.tier = "full"
    assert "tier miniature" not in "\n".join(text(board(store, suite)))


def test_what_stands_by_name_only_is_said(store: Any, suite: Any) -> None:
    assert "not here" not in "\n".join(text(board(store, suite)))
    suite.unavailable = (Unavailable("method", "MAD", "mad", ""), Unavailable("metric", "HPS", "hps", ""))
    said = "\n".join(text(board(store, suite)))
    assert "methods the suite names that are not here: MAD" in said
    assert "metrics the suite names that are not here: HPS" in said
    assert "pictures: 7 of 8" in said


def test_a_view_that_sees_part_of_the_picture_says_how_much(store: Any, suite: Any) -> None:
    assert "sees" not in "\n".join(text(board(store, suite)))
    suite.metrics = [use("gsd-dino", "lower", view="squash")]
    assert "sees 25 %" in "\n".join(text(board(store, suite)))


@pytest.mark.parametrize(("width", "tables"), [(60, 4), (100, 2), (160, 2)])
def test_the_board_fits_the_terminal_and_hides_nothing(store: Any, suite: Any, width: int, tables: int) -> None:
    suite.metrics = [use("gsd-dino", "lower", f"metric-number-{i}") for i in range(12)]
    lines = text(board(store, suite, width), width)
    assert max(map(len, lines)) <= width
    said = re.sub(r"[\s─]", "", "".join(lines))
    assert all(f"number-{i}" in said for i in range(12))
    assert "…" not in said
    assert sum(part.split()[:1] == ["two"] for part in lines) == tables


def test_columns_are_shared_out_evenly_in_their_order_over_the_fewest_tables() -> None:
    shapes = [Namespace(width=width) for width in (20, 20, 20, 10, 10, 20)]
    shared = _share(shapes, 88)  # a gap of 2 before each: in turn as much as fits would leave one alone
    assert [[s.width for s in table] for table in shared] == [[20, 20, 20], [10, 10, 20]]
    assert len(_share(shapes, 112)) == 1
    assert _share([], 88) == [[]]
    assert len(_share(shapes, 5)) == len(shapes)  # too narrow for any: one each


BARS = {
    (5, 0, 10): "├────●────┤",
    (2, 1, 6): " ├●───┤    ",
    (0, 0, 0): "●          ",
    (10, 9, 10): "         ├●",
    (4, -9, 5): "◂───●┤     ",
    (9, 7, 99): "       ├─●▸",
    (-5, -9, -1): "◂          ",
    (50, 40, 60): "          ▸",
    (30, -9, 60): "◂─────────▸",
}


@pytest.mark.parametrize("given", BARS)
def test_bars_stand_on_their_scale_and_point_to_what_lies_beyond(given: tuple[float, float, float]) -> None:
    assert bar(*given, scale=(0, 10), width=11) == BARS[given]
    assert bar(*given, scale=(-50, 50), width=11) != BARS[given]
    assert bar(3, 3, 3, scale=(3, 3), width=4) == "●   "
    assert bar(1e18, -1e18, 1e19, scale=(0, 1), width=4) == "◂──▸"


@pytest.fixture
def spread(store: Any) -> Any:
    """Two methods whose prompts differ, and a control far away."""
    hand = Hand()
    for label, start in (("two", 2.0), ("one", 3.0), ("truth", 500.0)):
        for prompt, step in (("hill", -1.0), ("lake", 0.0), ("road", 1.0)):
            recipe = hand.member(label, prompt, control=label == "truth")
            hand.score(hand.image(recipe), [["gsd-dino", None, start + step]])
    build_file(hand.records, store.root / NAME)
    return store


def test_bars_span_the_ranked_methods_and_their_scale_stands_above(spread: Any, suite: Any) -> None:
    said = text(board(spread, suite))
    low, high = 2 - 4.302652729749464 / 3**0.5, 3 + 4.302652729749464 / 3**0.5  # Student's t of 3 prompts
    (axis,) = [part for part in said if part.split()[:1] == ["method"]]
    assert axis.split()[1:] == [number(low), "to", number(high)]
    assert line(said, "two")[1:3] == ["2", "├───●──┤"]
    assert line(said, "truth")[1:3] == ["500", "▸"]
    assert any("go on beyond" in part for part in said)


def test_what_intervals_are_of_is_said_and_that_one_prompt_has_none(spread: Any, suite: Any) -> None:
    said = "\n".join(text(board(spread, suite)))
    assert "95 % of the mean over 3 prompts, at one seed; the spread between seeds is unknown" in said
    suite.seeds = (0, 1)
    assert "over 3 prompts, each the mean of 2 seeds" in "\n".join(text(board(spread, suite)))
    hand = Hand()
    for label in ("one", "two"):
        hand.score(hand.image(hand.member(label, "hill")), [["gsd-dino", None, 2.0]])
    build_file(hand.records, spread.root / NAME)
    said = "\n".join(text(board(spread, suite)))
    assert "one prompt: no intervals and no ranks" in said
    assert not set(said) & set("├●┤")
    assert "letters" not in said


def test_a_leaderboard_for_timing_holds_what_it_says_and_answers(tmp_path: Path) -> None:
    shape = made_up.Shape(methods=2, prompts=4, seeds=3, metrics=2, views=5)
    suite = load_suite(str(made_up.write(tmp_path, shape)))
    store = Store(tmp_path / "store")
    build(store)
    assert query(store, "select count(*) from score")[1] == [(2 * 4 * 3 * 2 * 5,)]
    (shown,) = boards(store, suite)
    assert [(entry.method, entry.made) for entry in shown.lines] == [("s00", 12), ("s01", 12)]
    assert len(compare(store, suite, "s00", "s01").comparisons[0].losses) == 4


def test_numbers_keep_three_digits() -> None:
    given = (0, 0.00312, 0.0312, 1.5, 12.345, 1234.5, -0.5, 3.0, 9999999.0)
    assert [number(v) for v in given] == [
        "0", "0.0031", "0.0312", "1.50", "12.3", "1234", "-0.500", "3", "9999999"
    ]  # fmt: skip


def test_what_is_not_0_is_not_shown_as_0_and_what_is_huge_has_room() -> None:
    given = (0.000012, -4.9e-5, 5e-5, 1.2345e-9, -123456789.0, 1e7)
    assert [number(v) for v in given] == ["1.20e-05", "-4.90e-05", "0.0001", "1.23e-09", "-1.23e+08", "1.00e+07"]
    assert [number(v) for v in (0.0, -0.0)] == ["0", "0"]


def test_the_contact_sheet_enlarges_small_pictures_without_smoothing(tmp_path: Path) -> None:
    suite, store = small(tmp_path), Store(tmp_path / "store")
    generate(make_plan(suite, store), store)
    build(store)
    sheet = Image.open(contact_sheet(store, suite, tmp_path / "sheet.png")).convert("RGB")
    ids = [record["image_id"] for record in store.ledger().images.values()]
    page = np.asarray(sheet)
    assert len(ids) == 6
    for image_id in ids:
        rgb = store.read_image(image_id)
        scale = 48  # 768 px for a cell of 16
        block = np.kron(rgb, np.ones((scale, scale, 1), np.uint8))
        corners = np.argwhere((page == block[0, 0]).all(2))
        assert any((page[y : y + len(block), x : x + block.shape[1]] == block).all() for y, x in corners[:: scale or 1])


def test_the_contact_sheet_says_what_failed_and_shrinks_large_pictures(store: Any, suite: Any, tmp_path: Path) -> None:
    small_page = Image.open(contact_sheet(store, suite, tmp_path / "small.png"))
    suite.parts[0].canvas = Canvas(4096, 1024)
    page = Image.open(contact_sheet(store, suite, tmp_path / "large.png"))
    assert page.width <= 4 * 768 + 200
    assert page.width >= small_page.width - 4 * 128
    drawn: list[str] = []
    from bench.report import contact

    original = contact.write_line
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            contact, "write_line", lambda pen, x, y, said, *rest: drawn.append(said) or original(pen, x, y, said, *rest)
        )
        contact_sheet(store, suite, tmp_path / "again.png")
    assert "failed: oom" in drawn
    assert "a photo of hill" in drawn
    assert any(said.startswith("gsd-dino") for said in drawn)


def test_a_contact_sheet_of_an_unknown_suite_names_the_command(store: Any, suite: Any, tmp_path: Path) -> None:
    suite.digest, suite.command = "0" * 24, "--suite none"
    with pytest.raises(StoreError, match="scrollbench run --suite none"):
        contact_sheet(store, suite, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
