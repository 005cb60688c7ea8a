"""A process that ends in the middle of its work, as under kill -9."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch


def killed(train: Callable[..., Any], step: int) -> int:
    """How a process ended that trains, ``train(report=...)``, and kills itself after a step."""
    child = os.fork()  # torch and all else is there already
    if not child:
        torch.set_num_threads(1)  # a fork has none of its parent's threads
        try:
            train(report=lambda at: at.step == step and os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
