"""Kill -9 at any step costs at most the picture in flight, and the same command again ends where no kill would have."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.pipeline.executors import EXECUTORS, Crew
from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.store import Store
from bench.store.commit import KILL_AT, POINTS
from bench.suites.load import load_suite
from tests.support.small import picture_ids, planned, write_suite

PICTURES = 2
WORK: dict[str, Any] = {"limit": PICTURES, "methods": ["latent"]}
# How often an undisturbed run passes each step: members, run started, pictures, run finished.
PASSAGES = {point: PICTURES if point.startswith("image") else PICTURES + 1 + PICTURES + 1 for point in POINTS}
DEATHS = [f"{point}:{n}" for point, passages in PASSAGES.items() for n in range(1, passages + 1)]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["bench.pipeline.score", "bench.pipeline.generate", "PIL.PngImagePlugin", "torch"])


def run_until_death(folder: str, root: str, kill_at: str) -> None:
    os.environ[KILL_AT] = kill_at
    store = Store(root)
    generate(make_plan(load_suite(Path(folder) / "small.toml", WORK), store), store)


def score_until_death(folder: str, root: str, kill_at: str) -> None:
    os.environ[KILL_AT] = kill_at
    score(load_suite(Path(folder) / "small.toml", WORK), Store(root))


def child(folder: Path, store: Store, kill_at: str, target: Any = run_until_death) -> int:
    """Exit code of a process that does the run and dies at the step."""
    process = context.Process(target=target, args=(str(folder), str(store.root), kill_at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    write_suite(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    generate(planned(folder, store, **WORK), store)
    return picture_ids(store)


@pytest.fixture(scope="module")
def everything(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    store = Store(tmp_path_factory.mktemp("everything"))
    generate(planned(folder, store), store)
    return picture_ids(store)


def members(store: Store) -> list[str]:
    return [r["recipe_id"] for r in store.records() if r["kind"] == "member"]


@pytest.mark.parametrize("death", DEATHS)
def test_a_run_killed_at_any_step_and_resumed_is_as_if_undisturbed(
    folder: Path, tmp_path: Path, undisturbed: dict[str, str], death: str
) -> None:
    store = Store(tmp_path)
    assert child(folder, store, death) == -signal.SIGKILL
    kept = picture_ids(store)
    assert kept.items() <= undisturbed.items()
    on_disk = sum(1 for _ in tmp_path.rglob("*.png"))
    assert on_disk - len(set(kept.values())) in (0, 1)  # one may lack its record

    result = generate(planned(folder, store, **WORK), store)
    assert result.made == PICTURES - len(kept)
    assert picture_ids(store) == undisturbed
    assert sorted(members(store)) == sorted(undisturbed)
    assert store.verify().ok


def test_the_steps_are_all_there_are(folder: Path, tmp_path: Path) -> None:
    for point, passages in PASSAGES.items():
        assert child(folder, Store(tmp_path / point), f"{point}:{passages + 1}") == 0


@pytest.mark.parametrize("bytes_left", [0, 1, 40])
def test_a_run_killed_in_the_middle_of_a_record_makes_only_that_picture_again(
    folder: Path, tmp_path: Path, undisturbed: dict[str, str], bytes_left: int
) -> None:
    store = Store(tmp_path)
    child(folder, store, f"record-after:{PICTURES + 1 + 1}")  # members, run, one picture
    [segment] = (tmp_path / "records").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:-1]) + lines[-1][:bytes_left])
    assert generate(planned(folder, store, **WORK), store).made == PICTURES
    assert picture_ids(store) == undisturbed


def test_a_run_killed_again_and_again_still_ends(folder: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    store = Store(tmp_path)
    codes = []
    while not codes or codes[-1] != 0:
        codes.append(child(folder, store, "image-temp-written:1" if not codes else "image-renamed:2"))
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]  # before the first, after the second, and through
    assert picture_ids(store) == undisturbed


@pytest.mark.parametrize(
    "death", [f"record-{side}:{n}" for side in ("before", "after") for n in range(1, PICTURES + 1)]
)
def test_a_scoring_killed_at_any_step_and_resumed_scores_what_is_missing_and_nothing_twice(
    folder: Path, tmp_path: Path, death: str
) -> None:
    store = Store(tmp_path)
    plan = planned(folder, store, **WORK)
    generate(plan, store)
    assert child(folder, store, death, score_until_death) == -signal.SIGKILL
    kept = {r["image_id"] for r in store.records() if r["kind"] == "score"}
    assert score(plan.suite, store).scored == PICTURES - len(kept)
    assert sorted(r["image_id"] for r in store.records() if r["kind"] == "score") == sorted(picture_ids(store).values())


@pytest.mark.parametrize("seed", range(3))
def test_pictures_do_not_depend_on_order_limit_or_shard(
    folder: Path, tmp_path: Path, everything: dict[str, str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)

    def shuffled(jobs: Any, do: Any, crew: Any, limit: Any) -> Iterator[Any]:
        waiting = list(jobs)
        return EXECUTORS["local"](rng.sample(waiting, len(waiting)), do, crew, limit)

    monkeypatch.setitem(EXECUTORS, "shuffled", shuffled)
    store = Store(tmp_path)
    generate(planned(folder, store, limit=1), store, crew=Crew("shuffled"))
    shards = [(i, 3) for i in (1, 2, 3)]
    for shard in rng.sample(shards, 3):
        generate(planned(folder, store, shard), store, crew=Crew("shuffled"))
    assert picture_ids(store) == everything


def test_another_seed_gives_other_pictures(folder: Path, tmp_path: Path, undisturbed: dict[str, str]) -> None:
    store = Store(tmp_path)
    generate(planned(folder, store, **WORK, seeds=[1]), store)
    assert not set(picture_ids(store).values()) & set(undisturbed.values())
