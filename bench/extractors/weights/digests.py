"""Whether the files of models are what their sources published: digests computed and compared."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.extractors.weights.manifest import Model, Presence, command

ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # the hub's name of a file: git's id of it, or (large files) its sha256


@dataclass(frozen=True)
class FileCheck:
    """One file: ``sound``, ``damaged`` (``expected`` and ``got`` differ), or ``unchecked`` (no digest is known)."""

    path: Path
    state: str
    expected: str = ""
    got: str = ""


def check(found: Presence) -> Iterator[FileCheck]:
    """Compute the digest of every file of a model that is here, and compare.

    The manifest's digest counts where it has one, else the name that the hub's cache gives to what a file points to:
    its sha256 (large files), or git's id of it.
    """
    for file in found.files:
        path = found.folder / file
        yield compare(path, expected(found.model, file, blob_name(path)))


def compare(path: Path, wanted: str | None) -> FileCheck:
    """Check one file against a digest: 40 digits are git's, 8 or 64 a sha256's."""
    if wanted is None:
        return FileCheck(path, "unchecked")
    got = digest(path, git=len(wanted) == 40)
    return FileCheck(path, "sound" if got.startswith(wanted) else "damaged", wanted, got)


def expected(model: Model, file: str, recorded: str | None) -> str | None:
    """The digest a file must have: the manifest's, else the recorded one, else None."""
    return model.digests.get(file, recorded)


def digest(path: Path, git: bool = False) -> str:
    """sha256 of a file, or its git blob id."""
    with path.open("rb") as f:
        if not git:
            return hashlib.file_digest(f, "sha256").hexdigest()
        seen = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while part := f.read(1 << 20):
            seen.update(part)
        return seen.hexdigest()


def blob_name(path: Path) -> str | None:
    """The digest that a hub cache names a file by, read off the link to it; None where there is none."""
    name = Path(os.readlink(path)).name if path.is_symlink() else ""
    return name if ETAG.fullmatch(name) else None


def complaint(model: Model, bad: FileCheck) -> str:
    """What is wrong with a damaged file, and on a second line what to do."""
    algorithm = "git id" if len(bad.expected) == 40 else "sha256"
    return (
        f"{model.name}: {bad.path} is damaged or not what its source published: expected {algorithm} {bad.expected}, "
        f"got {bad.got}. Delete it and fetch it again:\n"
        f"  rm '{bad.path.resolve()}' && {command(model)}"
    )
