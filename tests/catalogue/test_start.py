"""``start`` goes from nothing to a number, asks before it takes anything, and says what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.catalogue import start as module
from bench.catalogue.start import outlook, start, words
from bench.errors import PrerequisiteError
from bench.store import Store
from bench.store.index import query


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose", lambda asked=None: asked or "cpu")


def test_without_a_gpu_it_says_so_and_goes_all_the_way_on_the_miniature(tmp_path: Path, no_gpu: None) -> None:
    lines: list[str] = []
    store = Store(tmp_path / "store")
    done = start(store, lambda question: "miniature" in question, say=lines.append)
    assert lines[0] == "no GPU is here: Stable Diffusion in half precision needs one"
    assert [line.partition(" loads")[0] for line in lines[1:]] == ["world-sd", "world-vit", "world-lpips"]
    assert (done.suite.tier, done.results.made.made, done.outlooks) == ("miniature", 4, ())
    _, rows = query(store, "select distinct method from leaderboard where metric = 'gsd-dino' order by 1")
    assert rows == [("direct",), ("multidiffusion",)]
    again = start(store, lambda question: True)
    assert again.results.made.made == 0


def test_nothing_is_done_without_consent(tmp_path: Path, no_gpu: None, caches: Path) -> None:
    asked: list[str] = []

    def refuse(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(PrerequisiteError, match="nothing was done"):
        start(Store(tmp_path / "store"), refuse)
    with pytest.raises(PrerequisiteError, match="nothing was fetched; later: scrollbench weights fetch start"):
        start(Store(tmp_path / "store"), refuse, device="cuda")
    assert "3 models, 6.1 GB" in asked[1]
    assert list(caches.rglob("*.safetensors")) == []
    assert not (tmp_path / "store").exists()


def test_too_little_room_is_said_before_anything_is_asked(
    tmp_path: Path, no_gpu: None, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**9})
    monkeypatch.setattr("bench.catalogue.needs.shutil.disk_usage", lambda place: usage)
    with pytest.raises(PrerequisiteError, match=r"1\.0 GB free at .*, which is not enough; set HF_HOME"):
        start(Store(tmp_path / "store"), _never, device="cuda")


def _never(question: Any) -> bool:
    raise AssertionError(question)


def test_what_comes_next_is_gigabytes_and_commands(caches: Path) -> None:
    found = outlook("msd-fig4", rate=None)
    assert found.commands == ("scrollbench weights fetch msd-fig4", "scrollbench run --suite msd-fig4")
    assert words(found)[0].startswith("msd-fig4: ")
    assert found.bill.size_gb > 3
