"""A real Chromium, Debian's or what ``CHROMIUM`` names, driven by Playwright; what is missing is said in a sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str:
    """What a browser lacks here, with the command that brings it; empty where nothing does."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs playwright: pip install -e .[test]"
    return "" if _path() else "needs Chromium: apt-get install chromium, or CHROMIUM=PATH"


@contextmanager
def launched() -> Iterator[Any]:
    """A headless browser; only where nothing is :func:`missing`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=_path(), args=["--no-sandbox", "--enable-precise-memory-info"])
        yield browser
        browser.close()


def _path() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
