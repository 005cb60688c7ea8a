"""The board and the contact sheet show what the index holds, mark what must not be compared, and fit."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest
from handmade import DIGEST, Hand
from PIL import Image
from rich.console import Console
from small import small

from bench.board import board, boards
from bench.contact import contact_sheet, number
from bench.errors import StoreError
from bench.index import NAME, build, build_file
from bench.plan import make_plan
from bench.run import generate
from bench.store import Store
from bench.suite import Unavailable
from bench.types import Canvas, Prompt

METHODS = {"one": 3.0, "two": 2.0, "cheat": 1.0, "truth": 0.5}


def use(
    ref: str, direction: str, label: str = "", view: str = "tiles", extractor: str = "world-vit", **more: Any
) -> Any:
    metric = Namespace(name=ref, values={ref: direction}, unit="")
    reference = more.get("reference")
    return Namespace(
        ref=ref, label=label or ref, metric=metric, view=view, extractor=extractor, reference=reference, params={}
    )


@pytest.fixture
def suite() -> Any:
    prompts = tuple(Prompt(p, f"a photo of {p}") for p in ("hill", "lake"))
    return Namespace(
        ref="tiny@1",
        name="tiny",
        title="Tiny",
        tier="miniature",
        digest=DIGEST,
        parts=(Namespace(name="4to1", canvas=Canvas(128, 32), prompts=Namespace(prompts=prompts)),),
        backbone="world-sd",
        methods=[Namespace(label=label, backbone="world-sd") for label in ("two", "one")],
        unavailable=(),
        metrics=[
            use("gsd-dino", "lower"),
            use("kid", "lower", "kid-panoramas", extractor="world-cnn", reference="panoramas"),
        ],
    )


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
    return Namespace(root=tmp_path, read_image=lambda image_id: pixels[image_id])


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
    starts = [part.split()[0] for part in lines if part.strip()]
    order = [s for s in starts if s.strip("†") in METHODS or set(s) == {"─"}]
    assert [s if s[0] != "─" else "rule" for s in order] == [
        "rule",
        "rule",
        "two",
        "one",
        "cheat†",
        "rule",
        "truth",
        "rule",
    ]
    (shown,) = boards(store, suite)
    assert [entry.control for entry in shown.lines] == [False, False, False, True]


def test_the_best_is_sought_among_ranked_methods_only(store: Any, suite: Any) -> None:
    (shown,) = boards(store, suite)
    assert shown.best(shown.columns[0]) == 2.0  # not the cheat's 1.0 nor the truth's 0.5
    suite.metrics[0].metric.values = {"gsd-dino": "higher"}
    assert boards(store, suite)[0].best(boards(store, suite)[0].columns[0]) == 3.0


def test_directions_networks_coverage_and_tier_are_said(store: Any, suite: Any) -> None:
    said = "\n".join(text(board(store, suite)))
    assert "↓" in said
    assert "world-vit" in said
    assert "pictures: 7 of 8, 1 failed" in said
    assert "tier miniature" in said
    assert "† descends on lpips-vgg" in said
    suite.tier = "full"
    assert "tier miniature" not in "\n".join(text(board(store, suite)))


def test_what_stands_by_name_and_other_backbones_are_said(store: Any, suite: Any) -> None:
    plain = "\n".join(text(board(store, suite)))
    assert "not here" not in plain
    assert "other backbones" not in plain
    suite.methods[1].backbone = "llamagen"
    suite.unavailable = (Unavailable("method", "MAD", "mad", ""), Unavailable("metric", "HPS", "hps", ""))
    said = "\n".join(text(board(store, suite)))
    assert "on other backbones than world-sd: one on llamagen" in said
    assert "methods the suite names that are not here, and not counted: MAD" in said
    assert "metrics the suite names that are not here, and not counted: HPS" in said
    assert "pictures: 7 of 8" in said


def test_a_view_that_sees_part_of_the_picture_says_how_much(store: Any, suite: Any) -> None:
    assert "sees" not in "\n".join(text(board(store, suite)))
    suite.metrics = [use("gsd-dino", "lower", view="squash")]
    assert "sees 25 %" in "\n".join(text(board(store, suite)))


@pytest.mark.parametrize("width", [60, 100, 120])
def test_the_board_fits_the_terminal_and_hides_nothing(store: Any, suite: Any, width: int) -> None:
    suite.metrics = [use("gsd-dino", "lower", f"metric-number-{i}") for i in range(12)]
    lines = text(board(store, suite, width), width)
    assert max(map(len, lines)) <= width
    said = re.sub(r"[\s─]", "", "".join(lines))
    assert all(f"number-{i}" in said for i in range(12))
    assert "…" not in said


def test_numbers_keep_three_digits() -> None:
    given = (0, 0.000012, 0.00312, 0.0312, 1.5, 12.345, 1234.5, -0.5, 3.0)
    assert [number(v) for v in given] == ["0", "0", "0.0031", "0.0312", "1.50", "12.3", "1234", "-0.500", "3"]


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
    from bench import contact

    original = contact._Sheet.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            contact._Sheet,
            "text",
            lambda self, pen, x, y, said, *rest: drawn.append(said) or original(self, pen, x, y, said, *rest),
        )
        contact_sheet(store, suite, tmp_path / "again.png")
    assert "failed: oom" in drawn
    assert "a photo of hill" in drawn
    assert any(said.startswith("gsd-dino") for said in drawn)


def test_a_contact_sheet_of_an_unknown_suite_names_the_command(store: Any, suite: Any, tmp_path: Path) -> None:
    suite.digest = "0" * 24
    with pytest.raises(StoreError, match="scrollbench run --suite"):
        contact_sheet(store, suite, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
