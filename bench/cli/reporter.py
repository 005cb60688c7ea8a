"""Progress on stderr: bars in a terminal, one line a stage where nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench.reading import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Reporter:
    """What long-running functions tell: ``start``, ``advance`` and ``finish`` of named stages.

    >>> with Reporter() as progress:
    ...     progress.start("generate", 2); progress.advance("generate"); progress.finish("generate")
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.counts: dict[str, tuple[int, int]] = {}
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bars = Progress(
                TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"), console=Console(stderr=True),
            )  # fmt: skip

    def __enter__(self) -> Reporter:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars:
            self.bars.stop()

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` units begins."""
        self.counts[stage] = (0, total)
        if self.bars:
            self.tasks[stage] = self.bars.add_task(stage, total=total, note="")

    def advance(self, stage: str, n: int = 1, note: str = "") -> None:
        """``n`` more units are done; ``note`` says what is being worked on."""
        done, total = self.counts.get(stage, (0, 0))
        self.counts[stage] = (done + n, total)
        if self.bars and stage in self.tasks:
            from rich.markup import escape

            fields: dict[str, Any] = {"note": escape(visible(note))} if note else {}
            self.bars.update(self.tasks[stage], advance=n, **fields)

    def finish(self, stage: str) -> None:
        """The stage is over, complete or not."""
        done, total = self.counts.get(stage, (0, 0))
        if self.bars and stage in self.tasks:
            self.bars.update(self.tasks[stage], note="")
        elif not self.quiet:
            sys.stderr.write(f"{stage}: {done} of {total}\n")
            sys.stderr.flush()
