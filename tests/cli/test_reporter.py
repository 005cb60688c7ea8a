"""What long work says while nobody watches, and when it is stopped."""

from __future__ import annotations

import io
import sys
from threading import Event

import pytest

from bench.cli import reporter
from bench.cli.reporter import Reporter


class Heard(io.StringIO):
    """A stderr that is no terminal, and tells when a line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.came = Event()

    def flush(self) -> None:
        self.came.set()


def listen(monkeypatch: pytest.MonkeyPatch) -> Heard:
    stream = Heard()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_line_says_the_stage_what_was_last_and_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter.time, "monotonic", lambda: 100.0)
    progress = Reporter()
    assert progress.line() == "at work for 0 s"
    progress.start("generate", 10)
    assert progress.line() == "generate: 0 of 10"
    monkeypatch.setattr(reporter.time, "monotonic", lambda: 400.0)
    progress.advance("generate", 1, "direct a\x1b[2J")
    assert progress.line() == "generate: 1 of 10, direct a\\x1b[2J"  # most of it went into loading
    monkeypatch.setattr(reporter.time, "monotonic", lambda: 430.0)
    progress.advance("generate", 1)
    assert progress.line() == "generate: 2 of 10, direct a\\x1b[2J, about 4 min left"
    progress.advance("generate", 1, left=7.2)  # the work knows better
    assert progress.line().endswith("about 7 s left")


def test_off_a_terminal_lines_come_by_themselves_and_end_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    with Reporter(every=0.001) as progress:
        progress.start("score", 3)
        heard.came.clear()
        assert heard.came.wait(60)
        assert "score: 0 of 3" in heard.getvalue()
        progress.finish("score")
    assert Reporter().every == 30


def test_a_short_stage_says_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    with Reporter() as progress:
        progress.start("score", 3)
        progress.advance("score", 3)
        progress.finish("score")
    assert heard.getvalue() == "score: 3 of 3\n"


def test_what_is_stopped_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    progress = Reporter().__enter__()
    progress.start("generate", 9)
    progress.advance("generate", 4)
    progress.__exit__(KeyboardInterrupt, None, None)
    assert heard.getvalue() == "generate: 4 of 9\n"
