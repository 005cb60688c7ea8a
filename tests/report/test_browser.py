"""The report's pages in a real Chromium, from disk: by clicks and by keys, quiet, and right whatever text they show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest

import bench
from bench.analysis.votes import read_votes
from bench.report.site.write import write_site
from bench.report.wording import number
from bench.store.index import NAME, build_file
from tests.support.handmade import DIGEST, Hand
from tests.support.reported import CONTROL, DARK, DARKER, HOSTILE, Reported, asked

pytestmark = pytest.mark.browser
PAGES = ("index", "compare", "claims", "validity", "cost", "viewer", "vote")
QUIET = 300  # ms that a page gets to say something more
FRAME = "(({left, width}) => [parseFloat(left), parseFloat(width)])(document.querySelector('.frame').style)"
Visit = Callable[..., Any]


def test_every_page_fits_a_phone_and_passes_axe_in_both_colours(visit: Visit) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def serious(page: Any, *rules: str) -> list[Any]:
        options = {"preload": False} | ({"runOnly": list(rules)} if rules else {})  # file:// forbids to preload styles
        found = axe.run(page, options=options).response["violations"]
        return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]

    for name in PAGES:
        page = visit(name, wide=360)
        page.wait_for_timeout(QUIET)
        for chart in page.locator("summary").all()[:1]:
            chart.click()  # the numbers of a chart as a table
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        assert serious(page) == [], name
        page.emulate_media(color_scheme="dark")
        assert serious(page, "color-contrast") == [], name
    page.evaluate("document.querySelector('main').append(document.createElement('button'))")
    page.evaluate("document.querySelector('h1').style.color = '#444'")
    assert {v[0] for v in serious(page)} == {"button-name", "color-contrast"}  # axe sees


def rows(page: Any, place: str) -> list[tuple[str, dict[str, tuple[str, float]]]]:
    """First cell of a row, and heading -> (what stands there, what it sorts by), of all tables of a place."""
    return page.evaluate(
        """(place) => [...document.querySelectorAll(`${place} table`)].flatMap((table) => {
        const heads = [...table.querySelectorAll("thead button")].map((b) => b.textContent);
        return [...table.querySelectorAll("tbody tr")].map((row) => [row.cells[0].textContent, Object.fromEntries(
            heads.map((h, i) => [h, [row.cells[i].textContent, Number(row.cells[i].dataset.value)]]))]);
        })""",
        place,
    )


def test_what_pages_show_are_the_leaderboards_numbers(visit: Visit, reported: Reported) -> None:
    wanted = asked(reported.store)
    board = dict(rows(visit("index"), ".tables"))
    heads = {"level": "level ↑", "seam": "seam ↓", "seconds": "seconds (s) ↓", "nfe": "nfe ↓"}
    assert {(m, k): board[m][h][1] for m in board for k, h in heads.items() if (m, k) in wanted["board"]} == {
        key: pytest.approx(value) for key, value in wanted["board"].items()
    }
    for (method, name), value in wanted["board"].items():
        assert board[method][heads[name]][0].startswith(number(value))
    cost = dict(rows(visit("cost"), "main > .scroll"))
    assert {(m, "nfe"): cost[m]["denoiser evaluations ↓"][1] for m in cost if cost[m]["denoiser evaluations ↓"][1]} == {
        k: v for k, v in wanted["cost"].items() if k[1] == "nfe" and v
    }
    claims = dict(rows(visit("claims"), "main > .scroll"))
    assert {(m.lower(),): c["measured"][1] for m, c in claims.items()} == pytest.approx(wanted["claims"])
    assert claims["Plain"]["printed"][0] == "127"
    validity = visit("validity")
    validity.locator("figure", has_text="level against by").locator("summary").click()
    knobs = rows(validity, "figure:has(details[open])")
    assert {(row["x"][1], "level"): row["mean"][1] for _, row in knobs} == pytest.approx(
        {k: v for k, v in wanted["knobs"].items() if k[1] == "level"}
    )
    compare = visit("compare", f"#a=plain&b={DARK}&metric=level")
    assert compare.locator(".pair").count() == 6
    means = {m: np.mean([v for k, v in wanted["compare"].items() if k[:2] == (m, "level")]) for m in ("plain", DARK)}
    row = dict(rows(compare, "main"))["level"]
    assert [row[f"{side}: {m}"][1] for side, m in zip("AB", means)] == pytest.approx(list(means.values()))
    assert board["plain"]["level ↑"][1] != pytest.approx(means[DARK])  # another number would be another


def test_the_board_sorts_by_click_and_key_and_filters(visit: Visit, reported: Reported) -> None:
    values = {k[0]: v for k, v in asked(reported.store)["board"].items() if k[1] == "level"}
    ranked = sorted((m for m in values if m != CONTROL), key=values.__getitem__)
    page = visit("index")
    head = page.get_by_role("region", name="2to1, fake").get_by_role("button", name="level ↑")

    def order() -> list[str]:
        return page.locator(".tables tbody th").all_text_contents()

    search = page.get_by_role("searchbox", name="Method")

    def shown() -> list[str]:
        return [m for m in order() if m != CONTROL]  # which has no backbone, and a table of its own

    head.click()
    assert shown() == ranked
    head.focus()
    page.keyboard.press("Enter")
    assert shown() == ranked[::-1]
    search.fill("dark")
    assert order() == [DARK]
    search.fill("")
    assert CONTROL in order()
    page.get_by_role("button", name="Controls").click()
    assert CONTROL not in order()


def test_two_methods_are_compared_prompt_by_prompt_and_looked_at_closer(visit: Visit, reported: Reported) -> None:
    each = {k[::2]: v for k, v in asked(reported.store)["compare"].items() if k[1] == "level"}
    texts = {q.id: q.text for p in reported.suite.parts for q in p.prompts.prompts}
    page = visit("compare")
    page.get_by_role("combobox", name="A", exact=True).select_option("plain")
    page.get_by_role("combobox", name="B", exact=True).select_option(DARKER)
    gains = {p: each[DARKER, p] - each["plain", p] for p in texts}
    shown = page.locator(".pair p bdi").all_text_contents()
    assert shown == [texts[p] for p in sorted(gains, key=lambda p: gains[p])]
    page.get_by_label("Order").focus()
    page.keyboard.press("b")  # best for B first
    assert page.locator(".pair p bdi").all_text_contents() == shown[::-1]
    page.get_by_role("link", name="look closer").first.press("Enter")
    page.wait_for_selector(".lane")
    assert page.locator(".lane .name bdi").all_text_contents() == ["plain", DARKER]


def test_lanes_move_together_and_the_address_restores_what_is_seen(visit: Visit) -> None:
    page = visit("viewer")
    page.get_by_role("checkbox", name=DARKER).check()
    assert page.locator(".lane").count() == 3
    page.locator("body").press("n")
    page.locator("body").press("o")
    page.wait_for_timeout(QUIET)
    assert page.locator(".lane svg.over rect").count() > 3
    page.get_by_label("Scores along it").select_option("seam@whole")
    page.wait_for_timeout(QUIET)
    before = page.evaluate(FRAME)
    page.locator(".lane .glass").nth(1).hover()
    page.mouse.wheel(0, -300)  # zooms the second lane, and the others with it
    page.wait_for_timeout(2 * QUIET)
    zoomed = page.evaluate(FRAME)
    assert zoomed[1] < before[1]
    page.mouse.down()
    page.mouse.move(300, 500, steps=4)
    page.mouse.up()
    page.locator("h1").click()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(2 * QUIET)
    assert page.evaluate(FRAME) != pytest.approx(zoomed, abs=0.1)
    assert page.locator(".lane svg.curve circle").count() == 3 * 4
    again = visit("viewer", page.evaluate("location.hash"))
    again.wait_for_timeout(2 * QUIET)
    assert again.locator(".lane").count() == 3
    assert again.evaluate(FRAME) == pytest.approx(page.evaluate(FRAME), abs=0.01)  # the address has five decimals
    assert visit("viewer").evaluate(FRAME) != pytest.approx(page.evaluate(FRAME), abs=1)


def test_blink_slider_loop_and_overview_work_by_keys_and_clicks(visit: Visit) -> None:
    page = visit("viewer")
    page.keyboard.press("m")
    page.wait_for_selector(".lanes.blink")
    up = page.locator(".lane.up .name bdi").text_content()
    page.keyboard.press("Space")  # by hand, and it stops by itself
    assert page.locator(".lane.up .name bdi").text_content() != up
    page.get_by_label("Show").select_option("slider")
    page.get_by_label("Where the upper picture begins").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelector('.lanes').style.getPropertyValue('--cut')") == "0%"
    page.get_by_role("button", name="Loop").click()
    page.locator("h1").click()
    for key in ("+", "+", "+"):
        page.keyboard.press(key)
    page.wait_for_timeout(2 * QUIET)
    box = page.locator(".overview").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    page.wait_for_timeout(2 * QUIET)
    left, width = page.evaluate(FRAME)
    assert left + width / 2 == pytest.approx(75, abs=2)
    assert "loop=1" in page.url


def test_votes_are_blind_and_come_back_as_a_file(visit: Visit, reported: Reported, tmp_path: Path) -> None:
    page = visit("vote")
    page.get_by_label("A name for you").fill('Zoë, "the" <b>')
    page.get_by_label("How many pairs").select_option("20")
    page.get_by_role("button", name="Begin").click()
    for i in range(20):
        inside = page.locator("main").inner_html()
        assert not any(label in inside for label in ("plain", "dark", "quoted"))
        assert f"{i + 1} of 20" in page.locator("main").inner_text()
        answer = ("left", "right", "tie")[i % 3]
        if i % 2:
            page.locator(f"[data-vote={answer}]").click()
        else:
            page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown"}[answer])
    with page.expect_download() as saved:
        page.locator("#save").click()
    saved.value.save_as(tmp_path / "votes.csv")
    votes = read_votes([tmp_path / "votes.csv"], reported.suite)
    assert [v.vote for v in votes] == [("left", "right", "tie")[i % 3] for i in range(20)]
    assert {v.voter for v in votes} == {'Zoë, "the" <b>'}
    assert {v.kind for v in votes} == {"pair", "again", "check"}
    assert len({(v.left, v.right) for v in votes if v.kind == "pair"}) > 3  # sides are shuffled


def test_hostile_text_is_text_and_runs_where_escaping_is_taken_out(
    visit: Visit, chromium: Any, reported: Reported, tmp_path: Path
) -> None:
    viewer = visit("viewer")  # `visit` looks whether anything ran, there and on every page of every test
    assert viewer.locator(".prompt").text_content() == HOSTILE
    assert {CONTROL, DARKER} < set(viewer.locator("fieldset bdi").all_text_contents())
    out = Path(shutil.copytree(reported.out, tmp_path / "report"))
    script = out / "common.js"
    safe = "made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));"
    assert safe in script.read_text()
    taken_out = safe + "\n  if (children.length === 1 && typeof children[0] === 'string') made.innerHTML = children[0];"
    script.write_text(script.read_text().replace(safe, taken_out))
    page = chromium.new_page()
    page.goto((out / "viewer.html").as_uri())
    page.wait_for_function("window.broken === 1")
    page.close()


def test_a_large_picture_is_looked_at_through_its_tiles(visit: Visit, tmp_path: Path) -> None:
    store = bench.Store(tmp_path / "store")
    rows, columns = np.mgrid[0:64, 0:5000]
    image = store.write_image(np.stack([rows * 3, columns // 20, rows * 0], -1).astype(np.uint8))
    hand = Hand()
    for method in ("one", "two"):
        hand.image(hand.member(method, "hill"), image)
        hand.records[-1] |= {"width": 5000, "height": 64}
    build_file(hand.records, store.root / NAME)
    prompts = Namespace(prompts=(bench.Prompt("hill", "a photo of a hill"),))
    suite = Namespace(
        ref="tiny@1", name="tiny", title="Tiny", tier="miniature", digest=DIGEST, backbone="world-sd", seeds=(0,),
        parts=(Namespace(name="4to1", canvas=bench.Canvas(5000, 64), prompts=prompts),), unavailable=(), metrics=[],
        methods=[Namespace(label=m, backbone="world-sd") for m in ("one", "two")], spec=Namespace(protocol=None),
    )  # fmt: skip
    suite.whole = suite
    out = write_site(store, suite, tmp_path / "report").index.parent  # type: ignore[arg-type]
    page, tiles = visit("vote", out=out), []
    page.on("request", lambda r: tiles.append(r.url.split("/tiles/")[1].split("/")[1]) if "/tiles/" in r.url else None)
    page.get_by_label("A name for you").fill("Zoë")
    page.keyboard.press("Enter")
    page.wait_for_selector(".deep canvas")
    page.wait_for_timeout(QUIET)
    assert set(tiles) - {"0"}  # who votes sees it, too
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=2 of")
    tiles.clear()
    page.goto((out / "viewer.html").as_uri())
    page.wait_for_timeout(2 * QUIET)
    far = set(tiles)
    for _ in range(12):
        page.keyboard.press("+")
    page.wait_for_timeout(2 * QUIET)
    assert "0" in set(tiles)  # the picture's own pixels
    assert far - {"0"}  # and from afar, smaller ones
