"""The report's pages in a real Chromium, from disk: by clicks and by keys, quiet, and right whatever text they show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import numpy as np
import pytest

import bench
from bench.analysis.votes import read_votes
from bench.report.site.write import write_site
from bench.store.index import NAME, build_file, query
from tests.support.gating import made
from tests.support.handmade import DIGEST, Hand
from tests.support.hostile import HOSTILE, hostile

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PAGES = ("index", "compare", "claims", "validity", "cost", "viewer", "vote")
QUIETLY = {"preload": False}  # axe would fetch the style sheets, which file:// forbids
QUIET = 400  # ms that a page gets to say something more


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[test]")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = tmp_path_factory.mktemp("site")
    suite, store = made(folder, "plain", "dark", "striped", limit=3)
    write_site(store, suite, folder / "report")
    return suite, store, folder / "report"


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page of a report; at the end of the test, nothing may have been said or asked of a network."""
    context, said = chromium.new_context(accept_downloads=True), []

    def opened(out: Path, name: str, state: str = "") -> Any:
        page = context.new_page()
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("requestfailed", lambda r: said.append(f"failed: {r.url}"))
        page.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(f"{(out / f'{name}.html').as_uri()}{state}")
        page.wait_for_selector("main h1")
        return page

    yield opened
    context.close()
    assert said == []


def test_every_page_is_quiet_fits_a_phone_and_passes_axe(visit: Any, written: tuple[Any, Any, Path]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    for name in PAGES:
        page = visit(written[2], name)
        page.set_viewport_size({"width": 360, "height": 640})
        page.wait_for_timeout(QUIET)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            found = axe.run(page, options=QUIETLY).response["violations"]
            serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
            assert serious == [], (name, colours)
        page.close()
    bad = visit(written[2], "cost")
    bad.evaluate("document.querySelector('main').append(document.createElement('button'))")
    assert [v["id"] for v in axe.run(bad, options=QUIETLY).response["violations"]] == ["button-name"]  # axe sees


def test_the_board_shows_the_leaderboards_numbers_and_sorts_by_click_and_key(
    visit: Any, written: tuple[Any, Any, Path]
) -> None:
    _, store, out = written
    page = visit(out, "index")
    values = dict(query(store, "select method, value from leaderboard where metric = 'brightness'")[1])
    cells = page.evaluate("""[...document.querySelectorAll('tbody tr')].map((row) => [row.cells[0].textContent,
        Number(row.cells[2].dataset.value)])""")
    assert dict(cells) == values
    head = page.get_by_role("button", name="brightness ↑")

    def order() -> list[str]:
        return page.locator("tbody th").all_text_contents()

    head.click()
    assert order() == sorted(values, key=values.__getitem__)
    head.focus()
    page.keyboard.press("Enter")
    assert order() == sorted(values, key=values.__getitem__, reverse=True)
    page.get_by_label("Method").fill("dark")
    assert len(order()) == 1


def test_lanes_move_together_and_the_address_restores_what_is_seen(visit: Any, written: tuple[Any, Any, Path]) -> None:
    page = visit(written[2], "viewer")
    page.wait_for_timeout(QUIET)
    assert page.locator(".lane").count() == 2
    page.get_by_role("checkbox", name="plugins.py@striped").check()
    assert page.locator(".lane").count() == 3
    page.locator("body").press("n")
    page.locator("body").press("o")
    page.wait_for_timeout(QUIET)
    assert page.locator(".lane svg.over rect").count() > 3
    page.get_by_label("Scores along it").select_option("seam@whole")
    page.locator("h1").click()
    for key in ("+", "+", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_timeout(2 * QUIET)
    assert page.locator(".lane svg.curve circle").count() == 3 * 4
    seen = page.evaluate("location.hash")
    again = visit(written[2], "viewer", seen)
    again.wait_for_timeout(2 * QUIET)
    assert again.locator(".lane").count() == 3
    frame = "(({left, width}) => [parseFloat(left), parseFloat(width)])(document.querySelector('.frame').style)"
    assert again.evaluate(frame) == pytest.approx(page.evaluate(frame), abs=0.01)  # the address has five decimals
    assert visit(written[2], "viewer").evaluate(frame) != pytest.approx(page.evaluate(frame), abs=1)


def test_votes_by_keys_are_blind_and_come_back_as_a_file(
    visit: Any, written: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    suite, out = written[0], Path(shutil.copytree(written[2], tmp_path / "report"))
    facts = out / "data" / "suite.js"
    facts.write_text(facts.read_text().replace('"control":true', '"control":false'))  # so that they may be voted on
    page = visit(out, "vote")
    page.get_by_label("A name for you").fill('Zoë, "the" <b>')
    page.get_by_label("How many pairs").select_option("20")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Begin").click()
    for i in range(20):
        assert "plain" not in page.locator("main").inner_html()
        assert f"{i + 1} of 20" in page.locator("main").inner_text()
        page.keyboard.press(("ArrowLeft", "ArrowRight", "ArrowDown")[i % 3])
    with page.expect_download() as saved:
        page.locator("#save").click()
    saved.value.save_as(tmp_path / "votes.csv")
    votes = read_votes([tmp_path / "votes.csv"], suite)
    assert [v.vote for v in votes] == [("left", "right", "tie")[i % 3] for i in range(20)]
    assert {v.voter for v in votes} == {'Zoë, "the" <b>'}
    assert {v.kind for v in votes} == {"pair", "again", "check"}


def test_hostile_text_is_text_on_every_page_and_runs_where_escaping_is_taken_out(
    visit: Any, chromium: Any, tmp_path: Path
) -> None:
    suite, store = hostile(tmp_path)
    out = write_site(store, suite, tmp_path / "report").index.parent
    for name in PAGES:
        page = visit(out, name)
        page.set_viewport_size({"width": 360, "height": 640})
        page.wait_for_timeout(QUIET / 2)
        assert page.evaluate("window.broken") is None, name
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    viewer = visit(out, "viewer")
    assert viewer.locator(".prompt").text_content() == HOSTILE
    script = out / "common.js"
    safe = "made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));"
    assert safe in script.read_text()
    taken_out = safe + "\n  if (children.length === 1 && typeof children[0] === 'string') made.innerHTML = children[0];"
    script.write_text(script.read_text().replace(safe, taken_out))
    page = chromium.new_page()
    page.goto((out / "viewer.html").as_uri())
    page.wait_for_function("window.broken === 1")


def test_a_large_picture_is_looked_at_through_its_tiles(visit: Any, tmp_path: Path) -> None:
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
    out = write_site(store, suite, tmp_path / "report").index.parent  # type: ignore[arg-type]
    page, tiles = visit(out, "vote"), []
    page.on("request", lambda r: tiles.append(r.url.split("/tiles/")[1].split("/")[1]) if "/tiles/" in r.url else None)
    page.goto((out / "viewer.html").as_uri())
    page.wait_for_timeout(2 * QUIET)
    far = set(tiles)
    for _ in range(12):
        page.keyboard.press("+")
    page.wait_for_timeout(2 * QUIET)
    assert "0" in set(tiles)  # the picture's own pixels
    assert far - {"0"}  # and from afar, smaller ones
