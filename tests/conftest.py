"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub: no test asks the network


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Stable Diffusion pipeline: factor 4, 4 channels, 16 px squares, under half a megabyte."""
    from methods.backbones.tiny import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("tiny-sd"))
