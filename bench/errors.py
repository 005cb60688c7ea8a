"""Errors a user can act on: what was expected, what came, what to do next. The CLI maps them to exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says, the same for every verb. Nothing shares a code with a verdict."""

    DONE = 0  # gate: passed
    FAILED = 1  # a check failed; gate: regressed
    USAGE = 2
    PREREQUISITE = 3
    UNDECIDED = 4  # gate: inconclusive
    INCOMPLETE = 5
    CRASHED = 70  # a fault of ScrollBench's own code, with a traceback
    INTERRUPTED = 130  # Ctrl-C, a question that was declined, or nobody reads the output any more


class ScrollBenchError(Exception):
    """Base of all errors that are printed without a traceback."""

    exit_code = Exit.USAGE


class UsageError(ScrollBenchError):
    """A wrong name, type or file: exit code 2."""


class PrerequisiteError(ScrollBenchError):
    """Something must be installed or fetched first: exit code 3. The message names the command."""

    exit_code = Exit.PREREQUISITE


class StoreError(ScrollBenchError):
    """The store holds something unreadable, or cannot be written: exit code 5."""

    exit_code = Exit.INCOMPLETE


class IncompleteError(ScrollBenchError):
    """Work is left undone (failures, missing cells): exit code 5."""

    exit_code = Exit.INCOMPLETE


class DeviceLostError(ScrollBenchError):
    """The GPU no longer answers in this process: exit code 5. What was made is kept; the same command goes on."""

    exit_code = Exit.INCOMPLETE


def text_of(error: BaseException) -> str:
    """What an error says, also where its own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:
        return "an error whose text cannot be made"


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'a' or 'b'?"`` for a misspelt name, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + (", ".join(names) if names else "none")
