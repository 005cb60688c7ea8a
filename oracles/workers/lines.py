"""How a worker talks: one JSON object of settings and then one a job on stdin, versions and then scores on stdout.

Whatever the original packages print goes to stderr. Runs in the environment of the originals, without this project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def settings() -> dict[str, Any]:
    """The first line of stdin."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    return told


def answer(packages: Iterable[str], score: Callable[[str, str], float]) -> None:
    """Say the versions of the packages, then score every job ``{"image": path, "prompt": text}`` in turn."""
    _say({"versions": {name: version(name) for name in packages}})
    for line in sys.stdin:
        job = json.loads(line)
        _say({"score": float(score(job["image"], job["prompt"]))})


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), file=_OUT, flush=True)
