"""FlashVSR's released files: where they are and what they are, without reading them.

Three files in a repository of the hub for each version, and one tensor that takes the place of a text encoder, which
lies in the authors' code repository. Versions 1 and 1.1 have files of the same names and shapes, which work with the
projector of their version alone; so a version is always named, and a projector known to be the other's is refused.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from bench.errors import PrerequisiteError, UsageError, near
from bench.extractors.weights.digests import blob_name
from bench.extractors.weights.manifest import checkpoints, load_manifest, remedy, require, state
from bench.ids import LENGTH, digest, file_digest
from bench.reading import is_file

VERSIONS = ("flashvsr-v1.1", "flashvsr-v1")
TRANSFORMER = "diffusion_pytorch_model_streaming_dmd.safetensors"
PROJECTOR, DECODER = "LQ_proj_in.ckpt", "TCDecoder.ckpt"
PROMPT = "posi_prompt.pth"
PROMPT_MODEL = "flashvsr-prompt"
SHA256 = 64  # hex digits


class Found(NamedTuple):
    """The files of one version, and the digest of all that decides."""

    digest: str
    version: str
    transformer: Path
    projector: Path
    decoder: Path
    prompt: Path


def version_of(model: str) -> tuple[str, str]:
    """A model's version, and the folder of its files where it names one. Raises ``UsageError`` on unknown versions."""
    version, _, folder = model.partition(":")
    if version not in VERSIONS:
        raise UsageError(f"unknown version {version!r} of FlashVSR; {near(version, VERSIONS)}")
    return version, folder


def locate(model: str) -> Found:
    """Where FlashVSR's files are on this machine; nothing is loaded.

    Args:
        model: ``flashvsr-v1.1`` or ``flashvsr-v1``, fetched; or ``flashvsr-v1.1:FOLDER`` with the three files, and
            the prompt's unless that was fetched.

    Raises:
        UsageError: another name, a folder that is none or lacks files, a projector of the other version.
        PrerequisiteError: files that are not here; the message names the command.
    """
    (version, place), manifest = version_of(model), load_manifest()
    if not place:
        folder, prompt = (found.folder for found in require(manifest[version], manifest[PROMPT_MODEL]))
    else:
        folder = Path(place).expanduser()
        prompt = folder if is_file(folder / PROMPT) else checkpoints()
    paths = [folder / TRANSFORMER, folder / PROJECTOR, folder / DECODER]
    if lacking := [path.name for path in paths if not is_file(path)]:
        raise UsageError(
            f"{folder} lacks {', '.join(lacking)}; expected a folder with the files that "
            f"`scrollbench weights fetch {version}` brings"
        )
    if not is_file(prompt / PROMPT):
        raise PrerequisiteError(
            f"{folder} holds no {PROMPT}, which takes the place of the prompt. Fetch it with:\n"
            f"  {remedy([state(manifest[PROMPT_MODEL])])}"
        )
    paths.append(prompt / PROMPT)
    contents = [_content(path) for path in paths]
    _check_projector(version, contents[1])
    return Found(digest([version, contents]), version, *paths)


def _check_projector(version: str, content: str) -> None:
    """Refuse the other version's projector, where its digest is published."""
    for other in VERSIONS:
        known = load_manifest()[other].digests.get(PROJECTOR)
        if other != version and known is not None and known.startswith(content):
            raise UsageError(
                f"{PROJECTOR} is that of {other}, which does not work as {version}; name {other} as the model"
            )


def _content(path: Path) -> str:
    """Digest of a file; the hub's cache names large files by it, so that they need not be read."""
    name = blob_name(path) or ""
    seen = path.stat()
    return name[:LENGTH] if len(name) == SHA256 else _hashed(path, seen.st_mtime_ns, seen.st_size)


@lru_cache
def _hashed(path: Path, changed: int, size: int) -> str:
    return file_digest(path)
