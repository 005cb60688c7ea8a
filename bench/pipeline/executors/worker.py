"""A child process: it does what it is sent, item by item, and says how it went (:mod:`.children` is the other end)."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from bench.errors import ScrollBenchError
from bench.pipeline.isolation import forks

WATCH = 1.0  # seconds between two looks at whether the parent is still there


def main(link: int, where: int) -> None:
    """Work until the parent closes the pipe.

    Args:
        link: handle of the pipe: first the setup, then items; back go (what, value, whether this process ends now).
        where: handle of a file for the place at which the process hangs or dies.
    """
    pipe, file = Connection(link), os.fdopen(where, "w")
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    me = os.getpid()
    do: Any = None
    try:
        setup = pipe.recv_bytes()
        while True:
            item = pipe.recv_bytes()
            before = forks()
            try:
                do = _set_up(setup) if do is None else do
                answer = ("done", _done(do, pickle.loads(item), pipe))
            except ScrollBenchError as error:
                answer = ("raised", error)
            except Exception:
                answer = ("raised", RuntimeError(f"in a worker:\n{traceback.format_exc()}"))
            if os.getpid() != me:  # a copy that the item's code forked and let return
                os._exit(0)
            pipe.send_bytes(pickle.dumps((*answer, forks() > before)))
    except EOFError:  # nothing more to do
        if hasattr(do, "close"):
            do.close()
        os._exit(0)


def _set_up(setup: bytes) -> Any:
    memory, do = pickle.loads(setup)
    if memory is not None:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return do


def _done(do: Any, item: Any, pipe: Connection) -> Any:
    if hasattr(do, "ready"):
        do.ready(item)
    pipe.send_bytes(pickle.dumps(("began", None, False)))
    return do(item)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: one that hangs would not see the pipe close."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(0)
