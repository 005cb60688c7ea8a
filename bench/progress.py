"""Progress: whom long work reports to."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What long-running functions report to (:class:`bench.cli.reporter.Reporter` in a terminal)."""

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` units begins."""
        ...

    def advance(self, stage: str, n: int = 1, note: str = "", left: float | None = None) -> None:
        """``n`` more units are done; ``left`` seconds to go, where the work knows better than units tell."""
        ...

    def finish(self, stage: str) -> None:
        """The stage is over."""
        ...


class Silent:
    """Progress for nobody."""

    def start(self, stage: str, total: int) -> None:
        """Nothing."""

    def advance(self, stage: str, n: int = 1, note: str = "", left: float | None = None) -> None:
        """Nothing."""

    def finish(self, stage: str) -> None:
        """Nothing."""
