"""One report and one browser for all tests of reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report.site import numbers
from bench.report.site.write import write_site
from tests.support import chromium as browsers
from tests.support.reported import Reported, claimed, prepared


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A report whose prompts and labels are hostile. No test may change it."""
    folder = tmp_path_factory.mktemp("reported")
    suite, store = prepared(folder)
    papers = claimed(folder / "published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "tables", lambda: papers)
        write_site(store, suite, folder / "report")
    return Reported(suite, store, folder / "report")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; a test that asks for one is skipped, with what is missing, where there is none."""
    if lacks := browsers.missing():
        pytest.skip(lacks)
    with browsers.launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Any, reported: Reported) -> Iterator[Callable[..., Any]]:
    """Opens a page of a report; in the end, no page may have run a prompt, complained, or asked a network."""
    context, said, pages = chromium.new_context(accept_downloads=True, reduced_motion="reduce"), [], []

    def opened(name: str, state: str = "", out: Path = reported.out, wide: int = 1280) -> Any:
        page = context.new_page()
        page.set_viewport_size({"width": wide, "height": 800})
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("requestfailed", lambda r: said.append(f"failed: {r.url}"))
        page.on("request", lambda r: said.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        page.goto(f"{(out / f'{name}.html').as_uri()}{state}")
        page.wait_for_selector("main h1")
        pages.append(page)
        return page

    yield opened
    ran = [page.url for page in pages if not page.is_closed() and page.evaluate("window.broken") is not None]
    context.close()
    assert said == []
    assert ran == []
