"""Mends the hpsv2 wheel, which lacks CLIP's vocabulary: copies the very file from the clip package beside it."""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

NAME = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def _folder(package: str) -> Path:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed in this environment; run this by `nox -s oracles`")
    return Path(found.origin).parent


if __name__ == "__main__":
    source = _folder("clip") / NAME
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{source} is not CLIP's vocabulary: expected sha256 {SHA256}")
    shutil.copy(source, _folder("hpsv2") / "src" / "open_clip" / NAME)
