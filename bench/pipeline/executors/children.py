"""Child processes that do one thing, item by item, and may be lost while they do it.

A child is a fresh Python (:mod:`bench.pipeline.executors.worker`) with a session, a pipe and threads of its own. What
it prints goes to this process's stderr, it has nothing to read from, and no signal of the terminal reaches it. It ends
with this process, however that ends.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, TypeVar

from bench.pipeline.environment import memory_here
from bench.pipeline.executors.crew import threads
from bench.pipeline.executors.patience import LOADING

TICK = 0.2  # seconds between two looks at children that do not answer
DUMP = 0.5  # seconds for a hanging child to say where it is
CLOSING = 60.0  # seconds for a child to write what it keeps
OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from bench.pipeline.executors.worker import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Lost:
    """Why a child gave no answer: ``timeout`` or ``crash``. ``final``: another try would end the same way."""

    reason: str
    message: str
    final: bool


class Children:
    """One child for each of ``dos``, started when there is something for it to do, replaced when it is lost.

    Args:
        dos: callables of an item, to be pickled. ``ready(item)``, where one has it, loads what the item needs and
            does not count as time.
        memory: GB that each child's data may take; None: on the CPU its share of the machine's.
    """

    def __init__(self, dos: Sequence[Any], memory: float | None = None) -> None:
        self._children = [_Child(do, threads(len(dos)), _bytes(do, len(dos), memory)) for do in dos]

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.end(gently=kind is None)

    def work(
        self, items: Iterable[T], limit: Callable[[T], float], most: int | None = None
    ) -> Iterator[tuple[T, Any | Lost]]:
        """Each item with its answer, in the order of the answers. An item is asked for when a child is free for it.

        Args:
            items: what ``dos`` take, to be pickled.
            limit: seconds that an item may take; then its child is ended.
            most: only so many of the children work.

        Raises:
            ScrollBenchError: what ``dos`` raise of it.
            RuntimeError: what else they raise, with the child's traceback.
        """
        waiting, more = iter(items), True
        while True:
            for child in self._children[:most]:
                if more and not child.busy:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        more = False
                    else:
                        child.give(item, limit(item))
            if not any(child.busy for child in self._children):
                return
            yield from self._answers()

    def all(self, item: T, limit: float) -> None:
        """The item is done by every child that has begun to work; what comes of it is not told."""
        for child in self._children:
            if child.running:
                child.give(item, limit)
        while any(child.busy for child in self._children):
            list(self._answers())

    def _answers(self) -> Iterator[tuple[Any, Any | Lost]]:
        """What the children that are at work have to say by now."""
        busy = [child for child in self._children if child.busy]
        wait([child.link for child in busy], TICK)
        for child in busy:
            answer = child.answer()
            if answer is not None:
                yield child.item, answer[0]


class _Child:
    """One process at a time, and the item that it is at."""

    def __init__(self, do: Any, threads: int, memory: int | None) -> None:
        self.setup = pickle.dumps((memory, do))
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.busy = False
        self.item: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process that may hold something."""
        return self._process is not None and self._alive()

    def give(self, item: Any, limit: float) -> None:
        """Begin with an item, in a new process where there is none."""
        message = pickle.dumps(item)
        self.busy, self.item, self.limit = True, item, limit
        self.began, self.deadline = False, time.monotonic() + LOADING
        if not self.running:
            self.end()
            self._start()
        with suppress(OSError):  # where it is gone, its answer says so
            self.link.send_bytes(message)

    def answer(self) -> tuple[Any] | None:
        """What came of the item; None while it is worked at."""
        while self.link.poll():
            try:
                what, value, last = pickle.loads(self.link.recv_bytes())
            except Exception:  # gone, or what it said cannot be read
                break
            if what == "began":
                self.began, self.deadline = True, time.monotonic() + self.limit
                continue
            self.busy = False
            if last or what == "raised":
                self.end()
            if what == "raised":
                raise value
            return (value,)
        else:
            if time.monotonic() < self.deadline and self._alive():
                return None
        self.busy = False
        return (self._lost(),)

    def end(self, gently: bool = False) -> None:
        """Kill the process and whatever it started; ``gently``: after it has kept what it has to keep."""
        if self._process is not None:
            self.link.close()
            if gently and not self.busy:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSING)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._where.close()
        self._process = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._where = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        handles = (theirs.fileno(), self._where.fileno())
        command = [sys.executable, "-u", "-c", START, json.dumps(sys.path), *map(str, handles)]
        self._process = subprocess.Popen(
            command, pass_fds=handles, stdin=subprocess.DEVNULL, stdout=2, env=self.environment, start_new_session=True
        )
        theirs.close()
        self.link = Connection(ours.detach())
        with suppress(OSError):
            self.link.send_bytes(self.setup)

    def _alive(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def _lost(self) -> Lost:
        """Why there is no answer, now that the process is over or has had its time."""
        assert self._process is not None
        code: int | None = None
        with suppress(subprocess.TimeoutExpired):  # a closed pipe comes a moment before the end
            code = self._process.wait(0 if time.monotonic() >= self.deadline else 5)
        if code is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(DUMP)
        at = self._place()
        self.end()
        if code is None:
            what = f"gave no answer within {self.limit:g} s" if self.began else f"did not load within {LOADING:g} s"
            return Lost("timeout", f"{what} and was stopped{at}; --timeout SECONDS allows more", True)
        if code >= 0:
            said = f"ended its process with exit code {code}: code that is called returns, and leaves exits alone"
            return Lost("crash", said, True)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code in OUTSIDE:
            return Lost("crash", f"its process was ended by {name}: by somebody, or by a system short of memory", False)
        return Lost("crash", f"ended its process by {name}{at}", True)

    def _place(self) -> str:
        """Where the main thread stood: the innermost line that is no library's, as Python itself wrote it down."""
        self._where.seek(0)
        *_, block = self._where.read().decode(errors="replace").split("hread 0x")  # the main one comes last
        lines = re.findall(r'File "(.*)", line (\d+) in (\S+)', block)
        own = [line for line in lines if f"{os.sep}lib{os.sep}python" not in line[0]] or lines
        return " at {}:{} in {}".format(*own[0]) if own else ""


def _bytes(do: Any, workers: int, memory: float | None) -> int | None:
    """The limit of a worker's data. On a GPU there is none unless asked for: drivers reserve more than they use."""
    if memory is not None:
        return int(memory * 1e9)
    return memory_here() // workers if getattr(do, "device", None) == "cpu" else None
