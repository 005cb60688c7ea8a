"""Loading of extractors; torch is imported with the first network."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from bench.errors import UsageError
from bench.extractors.catalogue import wrapper
from bench.extractors.locate import Found, find
from bench.extractors.protocol import ASKS, Extractor, asked
from bench.extractors.weights.manifest import offline


def load(ref: str, device: str = "cpu") -> Extractor:
    """Load an extractor: fp32, evaluation mode, on ``device``. Raises what :func:`find` raises."""
    found = find(ref)
    return build(found, device)


def build(found: Found, device: str = "cpu") -> Extractor:
    """Load a located extractor on a device, from its own files: a config that names a repository is not followed.

    Raises:
        UsageError: files that are torn, of another architecture, or not all that is needed.
    """
    import torch

    if found.declared:
        kind: Any = found.declared.fn
    else:
        module, _, name = wrapper(found.role, found.path).partition(":")
        kind = getattr(import_module(module), name)
    try:
        # some constructors draw weights before reading them
        with _quiet(), offline(), torch.random.fork_rng(devices=[]):
            made: Extractor = kind(found, device)
    except OSError as error:
        raise UsageError(f"extractor {found.name!r} does not load from its own files: {error}") from error
    return _checked(made, found) if found.declared else made


def _checked(network: Any, found: Found) -> Extractor:
    """A declared network, named as its declaration says, with all that metrics ask of its role."""
    if lacking := [name for name in asked(found.role) if not hasattr(network, name)]:
        raise UsageError(
            f"extractor {found.name!r} is declared as of role {found.role} and lacks {', '.join(lacking)}; "
            f"bench.extractors.protocol.{ASKS[found.role].__name__} says what is asked of it"
        )
    network.name, network.role, network.digest = found.name, found.role, found.digest
    loaded: Extractor = network
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Loaders of other libraries chat on stdout, in warnings and in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
