"""Progress on stderr: bars in a terminal; a line a stage and every half minute where there is none."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench.reading import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 30.0  # seconds between two lines


@dataclass
class _Stage:
    total: int
    done: int = 0
    note: str = ""
    told: float | None = None  # seconds left, as the work itself says
    first: tuple[float, int] = (0.0, 0)  # when the first units were done, for which networks were loaded, and how many

    @property
    def left(self) -> str:
        """How long it will take yet, in words; empty where nobody knows."""
        seconds, (since, before) = self.told, self.first
        if seconds is None and self.done > before:
            seconds = (time.monotonic() - since) / (self.done - before) * (self.total - self.done)
        if seconds is None or self.done >= self.total:
            return ""
        if seconds < 90:
            return f"about {max(1, round(seconds))} s left"
        return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


class Reporter:
    """What long-running functions tell: ``start``, ``advance`` and ``finish`` of named stages.

    >>> with Reporter() as progress:
    ...     progress.start("generate", 2); progress.advance("generate"); progress.finish("generate")
    """

    def __init__(self, quiet: bool = False, every: float = EVERY) -> None:
        self.quiet, self.every = quiet, every
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.stages: dict[str, _Stage] = {}  # those that are not over, the last one is worked at
        self._began, self._over = time.monotonic(), Event()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self.bars = Progress(
                TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"), TextColumn("[dim]{task.fields[note]}"), console=Console(stderr=True),
            )  # fmt: skip

    def __enter__(self) -> Reporter:
        if self.bars:
            self.bars.start()
        elif not self.quiet:
            Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self.bars:
            self.bars.stop()
        if kind is not None and not self.quiet:  # stopped in the middle: what is done
            for name, stage in self.stages.items():
                _write(f"{name}: {stage.done} of {stage.total}")

    def start(self, stage: str, total: int) -> None:
        """A stage of ``total`` units begins."""
        self.stages[stage] = _Stage(total)
        if self.bars:
            self.tasks[stage] = self.bars.add_task(stage, total=total, note="", left="")

    def advance(self, stage: str, n: int = 1, note: str = "", left: float | None = None) -> None:
        """``n`` more units are done; ``note`` says what is being worked on, ``left`` how many seconds are to go."""
        if stage not in self.stages:
            return
        at = self.stages[stage]
        if not at.done:
            at.first = time.monotonic(), n
        at.done, at.note, at.told = at.done + n, note or at.note, left
        if self.bars:
            from rich.markup import escape

            fields: dict[str, Any] = {"note": escape(visible(note))} if note else {}
            self.bars.update(self.tasks[stage], advance=n, left=at.left, **fields)

    def finish(self, stage: str) -> None:
        """The stage is over, complete or not."""
        at = self.stages.pop(stage, _Stage(0))
        if self.bars and stage in self.tasks:
            self.bars.update(self.tasks[stage], note="", left="")
        elif not self.quiet:
            _write(f"{stage}: {at.done} of {at.total}")

    def line(self) -> str:
        """How things stand, in one line."""
        for name, at in reversed(self.stages.items()):
            return ", ".join(filter(None, (f"{name}: {at.done} of {at.total}", visible(at.note), at.left)))
        return f"at work for {time.monotonic() - self._began:.0f} s"

    def _tell(self) -> None:
        while not self._over.wait(self.every):
            _write(self.line())


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
