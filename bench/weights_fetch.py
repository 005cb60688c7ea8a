"""Getting the models of the manifest: from the hub, from URLs, or from a local mirror; every file checked.

Downloads are huggingface_hub's and torch.hub's own, with their progress bars, and so respect HF_HUB_OFFLINE,
HF_ENDPOINT, HF_TOKEN and HF_HUB_CACHE. A fetch that was interrupted goes on file by file: files that are complete stay.
A mirror's files are put into the hub's cache in its own layout, so that every loader finds them by repository id.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.errors import PrerequisiteError, UsageError
from bench.ids import digest as short_digest
from bench.weights import COMMIT, Found, Model, checkpoints, command, inventory, repository_folder, state, unlock
from bench.weights_check import ETAG, blob_name, check, compare, complaint, digest, expected


def _silent(line: str) -> None:
    pass


def fetch(models: Iterable[Model], mirror: Path | None = None, say: Callable[[str], None] = _silent) -> list[Found]:
    """Bring models here and check every file of theirs, also of those that were here already.

    Args:
        models: which, see :func:`bench.weights_suite.choose`.
        mirror: a folder to take them from instead of the network: ``MIRROR/owner/name/...`` with plain files (what
            ``hf download owner/name --local-dir`` writes), or a copy of a hub cache; files from URLs lie directly in
            it, or in its ``hub/checkpoints``.
        say: gets a line before each step.

    Raises:
        UsageError: the mirror is no folder.
        PrerequisiteError: something could not be fetched, or is not what its source published. Other models were
            fetched all the same; the message names each problem and what to do.
    """
    if mirror is not None and not mirror.is_dir():
        raise UsageError(f"--mirror takes a folder; {mirror} is none")
    done, problems = [], []
    for model in models:
        try:
            found = state(model)
            if mirror is not None and found.state != "present":
                say(f"{model.name}: taking {model.repository} from {mirror}")
                (_place if model.hub else _place_file)(model, mirror)
            elif found.state != "present":
                say(f"{model.name}: fetching {model.repository} ({model.size_gb:g} GB)")
                _download(model)
            found = state(model)
            if found.state != "present":
                lacking = ", ".join(found.lacking)
                raise PrerequisiteError(f"{model.name}: {model.repository} at {model.revision} lacks {lacking}")
            say(f"{model.name}: checking {len(found.files)} files")
            _check(found)
            done.append(found)
        except PrerequisiteError as error:
            problems.append(str(error))
    if problems:
        raise PrerequisiteError("\n".join(problems))
    return done


def _check(found: Found) -> None:
    bad = [c for c in check(found) if c.state == "damaged"]
    if bad:
        raise PrerequisiteError("\n".join(complaint(found.model, c) for c in bad))


# -- from the network


def _download(model: Model) -> None:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    again = command(model)
    if constants.HF_HUB_OFFLINE:
        raise PrerequisiteError(
            f"{model.name} is not complete on this machine, and HF_HUB_OFFLINE forbids to ask the network. With a "
            f"network, or with --mirror FOLDER:\n  HF_HUB_OFFLINE=0 {again}"
        )
    try:
        if not model.hub:
            _download_file(model)
            return
        snapshot_download(model.repository, revision=model.revision, allow_patterns=model.files)
    except GatedRepoError as error:
        raise PrerequisiteError(
            f"{model.name}: {model.repository} is gated ({model.licence}). Once, {unlock(model)}. Then:\n  {again}"
        ) from error
    except RepositoryNotFoundError as error:
        raise PrerequisiteError(
            f"{model.name}: {constants.ENDPOINT} has no {model.repository}, or does not show it to you. {model.notes}"
        ) from error
    except RevisionNotFoundError as error:
        raise PrerequisiteError(
            f"{model.name}: {model.repository} has no revision {model.revision}; name another as the backbone's option"
        ) from error
    except Exception as error:  # of the network, of the disk, of each version of the libraries
        raise PrerequisiteError(
            f"{model.name}: {model.repository} could not be fetched: {str(error).strip() or repr(error)}. Files that "
            f"are complete were kept; the same command goes on:\n  {again}"
        ) from error
    if model.pinned:
        _refer(model, "main", model.revision, again=False)


def _download_file(model: Model) -> None:
    from torch.hub import download_url_to_file

    (file,) = model.files
    checkpoints().mkdir(parents=True, exist_ok=True)
    prefix = model.digests.get(file)
    download_url_to_file(model.repository, str(checkpoints() / file), prefix, progress=sys.stderr.isatty())


def _refer(model: Model, name: str, commit: str, again: bool = True) -> None:
    """Let a name stand for a commit in the cache; one that stands for something is left alone unless ``again``.

    Other tools ask for ``main``, so that a pinned commit alone would not be found by them.
    """
    ref = repository_folder(model.repository) / "refs" / name
    if again or not ref.exists():
        ref.parent.mkdir(parents=True, exist_ok=True)
        part = ref.with_name(f"{name}.{uuid.uuid4().hex[:8]}.tmp")
        part.write_text(commit, encoding="utf-8")
        part.replace(ref)


# -- from a mirror


def _place(model: Model, mirror: Path) -> None:
    """Check a repository's files in a mirror and put them into the hub's cache, as the hub would have."""
    folder, commit = _source(model, mirror)
    files, lacking = inventory(folder, model.files)
    if lacking:
        raise PrerequisiteError(f"{model.name}: the mirror's {folder} lacks {', '.join(lacking)}")
    blobs = {}
    for file in files:
        recorded = _recorded(folder, file)[1]
        seen = compare(folder / file, expected(model, file, recorded))
        if seen.state == "damaged":
            raise PrerequisiteError(
                f"{model.name}: the mirror's {seen.path} is damaged or another file: expected {seen.expected}, got "
                f"{seen.got}. Nothing of {model.name} was taken; copy it into the mirror again"
            )
        full = seen.got if len(seen.got) == 64 else None
        blobs[file] = recorded or full or digest(folder / file)
    if commit is None and model.pinned:
        raise PrerequisiteError(
            f"{model.name}: {folder} does not say which commit it holds; wanted is {model.revision}. Make the mirror "
            f"where there is a network with\n  hf download {model.repository} --revision {model.revision} "
            f"--local-dir {mirror / model.repository}"
        )
    commit = commit or f"mirror-{short_digest(sorted(blobs.items()))}"  # not to be taken for a commit of the hub
    target = repository_folder(model.repository)
    for file, blob in blobs.items():
        _copy(folder / file, target / "blobs" / blob)
        _point(target / "snapshots" / commit / file, target / "blobs" / blob)
    for name in (model.revision, commit):  # other tools ask for the branch, then for what it stands for
        if not COMMIT.fullmatch(name):
            _refer(model, name, commit)
    if model.pinned:
        _refer(model, "main", commit, again=False)


def _place_file(model: Model, mirror: Path) -> None:
    (file,) = model.files
    for path in (mirror / file, mirror / "hub" / "checkpoints" / file):
        if path.is_file():
            seen = compare(path, expected(model, file, None))
            if seen.state == "damaged":
                raise PrerequisiteError(
                    f"{model.name}: the mirror's {path} is damaged or another file: expected {seen.expected}, got "
                    f"{seen.got}"
                )
            _copy(path, checkpoints() / file)
            return
    raise PrerequisiteError(f"{model.name}: the mirror {mirror} has no {file}")


def _source(model: Model, mirror: Path) -> tuple[Path, str | None]:
    """(folder of a repository's files in a mirror, the commit it says it holds)."""
    plain = mirror / model.repository
    if plain.is_dir():
        commits = {_recorded(plain, file)[0] for file in inventory(plain, model.files)[0]} - {None}
        if model.pinned and commits - {model.revision}:
            raise PrerequisiteError(f"{model.name}: {plain} holds commit {commits.pop()}, wanted is {model.revision}")
        return plain, commits.pop() if len(commits) == 1 else None
    for root in (mirror, mirror / "hub"):
        cached = root / repository_folder(model.repository).name
        ref = cached / "refs" / model.revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else model.revision
        if (cached / "snapshots" / commit).is_dir():
            return cached / "snapshots" / commit, commit
    cached = repository_folder(model.repository)
    raise PrerequisiteError(
        f"{model.name}: the mirror {mirror} has neither {model.repository}/ nor {cached.name}/ at {model.revision}"
    )


def _recorded(folder: Path, file: str) -> tuple[str | None, str | None]:
    """(commit, digest) that the hub's library noted of a file: in a note beside it, or by what a link points to."""
    note = folder / ".cache" / "huggingface" / "download" / f"{file}.metadata"
    if not note.is_file():
        return None, blob_name(folder / file)
    commit, etag = ([*note.read_text(encoding="utf-8").splitlines(), "", ""])[:2]
    return commit if COMMIT.fullmatch(commit) else None, etag if ETAG.fullmatch(etag) else None


def _copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows it, else a copy; never half of one."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.incomplete")
    try:
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _point(link: Path, blob: Path) -> None:
    """A snapshot's entry: a relative link to its blob, or the file itself where there are no links."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:
        _copy(blob, link)
