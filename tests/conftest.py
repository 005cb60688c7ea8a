"""What several test files share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bench.extractors.weights.manifest import Model
    from tests.support.fakehub import Hub

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub: no test asks the network
os.environ.setdefault("SCROLLBENCH_EXECUTOR", "local")  # a process for every command would be most of a test's time
if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch: there is a worker a core already
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """Set aside what is there before a file's tests: each failed picture of a run makes the collector look at the rest.

    With torch, transformers and all test files in the process, that would be most of the time of such tests.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Take back what was set aside: some libraries count at the end what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Files are written as ever, but not waited for: only a power cut could tell the difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Stable Diffusion pipeline: factor 4, 4 channels, 16 px squares, under half a megabyte."""
    from methods.backbones.tiny.stable_diffusion import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the hub's and of torch's; the folder both are in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def manifest(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts other models into the manifest's place."""
    from bench.catalogue import needs
    from bench.extractors import catalogue
    from bench.extractors.weights import manifest as weights_manifest

    def put(*models: Model) -> None:
        for module in (catalogue, weights_manifest, needs):
            monkeypatch.setattr(module, "load_manifest", lambda: {m.name: m for m in models})

    return put


@pytest.fixture
def hub(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that downloads go to, as HF_ENDPOINT makes them."""
    from huggingface_hub import constants, hf_api

    from tests.support import fakehub

    with fakehub.serve() as running:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(caches / "no-token"))
        monkeypatch.setattr(hf_api.api, "endpoint", running.url)
        yield running
