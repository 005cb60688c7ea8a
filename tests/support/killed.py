"""A process that ends in the middle of its work, as under kill -9."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def killed(train: Callable[..., Any], step: int, every: int) -> int | None:
    """How a process ended that trains, ``train(report=...)``, and kills itself after a step.

    It begins anew, since autograd of a fork fails where other tests have made its parent's work with threads.

    Args:
        train: a function of a module, or a partial of one.
        every: steps between checkpoints.
    """
    child = multiprocessing.get_context("spawn").Process(target=_run, args=(train, step, every))
    child.start()
    child.join()
    return child.exitcode


def _run(train: Callable[..., Any], step: int, every: int) -> None:
    import torch

    from methods.training import loop

    torch.set_num_threads(1)
    loop.CHECKPOINT_EVERY = every
    train(report=lambda at: at.step == step and os.kill(os.getpid(), signal.SIGKILL))
