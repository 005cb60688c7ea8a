"""Errors a user can act on: what was expected, what came, what to do next. The CLI maps them to exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScrollBenchError(Exception):
    """Base of all errors that are printed without a traceback."""

    exit_code = 2


class UsageError(ScrollBenchError):
    """A wrong name, type or file: exit code 2."""


class PrerequisiteError(ScrollBenchError):
    """Something must be installed or fetched first: exit code 3. The message names the command."""

    exit_code = 3


class StoreError(ScrollBenchError):
    """The store holds something unreadable, or cannot be written: exit code 5."""

    exit_code = 5


class IncompleteError(ScrollBenchError):
    """Work is left undone (failures, missing cells): exit code 5."""

    exit_code = 5


class DeviceLostError(ScrollBenchError):
    """The GPU no longer answers in this process: exit code 5. What was made is kept; the same command goes on."""

    exit_code = 5


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'a' or 'b'?"`` for a misspelt name, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + (", ".join(names) if names else "none")
