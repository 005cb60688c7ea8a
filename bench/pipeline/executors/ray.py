"""Jobs on a Ray cluster: an actor for each device, and in it a child process that does the work (:mod:`.children`).

The child ends, hangs and fills memory as one of ``processes`` does, with the same records. The actor puts it on a
device anywhere in the cluster, and may be lost with its node; then another one is asked for. The store lies under one
path on all nodes, where this package and the weights are too.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from bench.errors import PrerequisiteError, ScrollBenchError, UsageError
from bench.pipeline.executors.children import CLOSING, TICK, Children, Lost
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.patience import LOADING

STARTS = 10  # actors that may be lost before they are there

T = TypeVar("T")


class Host:
    """What runs in an actor. Items and answers are bytes, which Ray does not look into."""

    def __init__(self, do: bytes, memory: float | None, folder: str) -> None:
        os.chdir(folder)  # where paths of the command begin
        self.children = Children([pickle.loads(do)], memory)

    def up(self) -> None:
        """Answered as soon as the actor is there."""

    def work(self, item: bytes, limit: float) -> bytes:
        """The item's answer, or the error that the child raised of it."""
        try:
            ((_, answer),) = self.children.work([pickle.loads(item)], lambda _: limit)
        except (ScrollBenchError, RuntimeError) as error:
            return pickle.dumps((None, error))
        return pickle.dumps((answer, None))

    def close(self) -> None:
        """Let the child keep what it has to keep."""
        self.children.__exit__(None, None, None)


class Hosts:
    """One :class:`Host` for each device of a cluster; to be used as :class:`Children` are.

    Args:
        do: a callable of an item, to be pickled, with a ``device``.
        crew: ``address`` of the cluster (one on this machine is started where there is none), ``workers``: actors, by
            default one for each GPU, on the CPU one for each node; ``memory``: GB of each, which Ray places them by.

    Raises:
        PrerequisiteError: Ray is not installed, or its cluster cannot be reached.
        UsageError: a GPU is asked for and the cluster has none.
    """

    def __init__(self, do: Any, crew: Crew) -> None:
        self.ray = connected(crew.address)
        gpu = not do.device.startswith("cpu")
        there = self.ray.cluster_resources()
        if gpu and not there.get("GPU"):
            raise UsageError(f"device {do.device!r} is asked for, and no node of the Ray cluster has a GPU")
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        count = crew.workers or (int(there["GPU"]) if gpu else nodes)
        kind = self.ray.remote(Host).options(
            num_cpus=max(1, int(there.get("CPU", 1)) // count),
            num_gpus=int(gpu),
            memory=int(crew.memory * 1e9) if crew.memory else None,
        )
        place = "cuda" if gpu else do.device  # an actor sees its own GPU alone
        told = (pickle.dumps(do.on(place)), crew.memory, os.getcwd())
        self._host: Callable[[], Any] = lambda: kind.remote(*told)
        self._free: list[Any] = []
        self._busy: dict[Any, tuple[Any, Any]] = {}  # answer that will come -> actor, item
        self._coming: dict[Any, Any] = {}  # word that it is there -> actor
        self._begun: set[Any] = set()
        self._spare = STARTS
        for _ in range(count):
            self._ask()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._begun:
            self.ray.wait([a.close.remote() for a in self._begun], num_returns=len(self._begun), timeout=CLOSING)
        for actor in (*self._free, *self._coming.values(), *(actor for actor, _ in self._busy.values())):
            self.ray.kill(actor)

    def work(
        self, items: Iterable[T], limit: Callable[[T], float], most: int | None = None
    ) -> Iterator[tuple[T, Any | Lost]]:
        """As :meth:`Children.work`."""
        waiting, more = iter(items), True
        while True:
            while more and self._free and (most is None or len(self._busy) < most):
                try:
                    item = next(waiting)
                except StopIteration:
                    more = False
                else:
                    self._give(self._free.pop(0), item, limit(item))
            if not more and not self._busy:
                return
            yield from self._answers()

    def all(self, item: T, limit: float) -> None:
        """As :meth:`Children.all`."""
        for actor in [a for a in self._free if a in self._begun]:
            self._free.remove(actor)
            self._give(actor, item, limit)
        while self._busy:
            list(self._answers())

    def _ask(self) -> None:
        actor = self._host()
        self._coming[actor.up.remote()] = actor
        self._asked = time.monotonic()

    def _give(self, actor: Any, item: Any, limit: float) -> None:
        self._begun.add(actor)
        self._busy[actor.work.remote(pickle.dumps(item), limit)] = actor, item

    def _answers(self) -> Iterator[tuple[Any, Any | Lost]]:
        """What actors have to say by now."""
        if not self._free and not self._busy and time.monotonic() > self._asked + LOADING:
            raise PrerequisiteError(
                f"no actor was placed within {LOADING:g} s; `ray status` says what the cluster lacks"
            )
        ready, _ = self.ray.wait([*self._busy, *self._coming], timeout=TICK)
        for word in ready:
            if word in self._coming:
                self._came(word)
                continue
            actor, item = self._busy.pop(word)
            try:
                answer, error = pickle.loads(self.ray.get(word))
            except self.ray.exceptions.RayActorError as gone:
                self._begun.discard(actor)
                self.ray.kill(actor)
                self._ask()
                why = str(gone).strip().partition("\n")[0]
                yield item, Lost("crash", f"its actor was lost, or the node that it was on: {why}", False)
                continue
            self._free.append(actor)
            if error is not None:
                raise error
            yield item, answer

    def _came(self, word: Any) -> None:
        actor = self._coming.pop(word)
        try:
            self.ray.get(word)
        except self.ray.exceptions.RayActorError as error:
            if error.actor_init_failed or self._spare == 0:
                said = str(error).strip().splitlines()[-1]
                raise PrerequisiteError(f"an actor does not start: {said}; every node needs this package") from error
            self._spare -= 1
            self._ask()
        else:
            self._free.append(actor)


def connected(address: str | None) -> Any:
    """The module ``ray``, connected to a cluster."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise PrerequisiteError("Ray is not installed: pip install 'scrollbench[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level=logging.WARNING, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise PrerequisiteError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    return ray
