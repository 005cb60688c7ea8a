"""On a Ray cluster, here one of this machine: the pictures and numbers of one process, also where actors are lost."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import PrerequisiteError, UsageError
from bench.pipeline.executors import ray as executor
from bench.pipeline.executors.children import Lost
from bench.pipeline.executors.choose import chosen
from bench.pipeline.executors.crew import LOCAL, Crew
from bench.pipeline.executors.ray import Host, Hosts, connected
from bench.pipeline.generate import generate
from bench.pipeline.score import score
from bench.store import Store
from tests.support.small import picture_ids, planned


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scrollbench[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else 15, and other tests keep the cores
        try:
            module.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27, log_to_driver=False)
        except Exception as error:  # a sandbox without room for its sockets or shared memory
            pytest.skip(f"no Ray cluster starts on this machine: {error}")
        yield module
        module.shutdown()


class Pid:
    """Answers with its process's id; some items end that process, or its parent, which is the actor."""

    device = "cpu"

    def on(self, device: str) -> Pid:
        return self

    def __call__(self, item: str) -> int:
        if item == "exit":
            os._exit(3)
        if item == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        if item == "wrong":
            raise UsageError("a wrong item")
        return os.getpid()


def numbers(store: Store) -> dict[str, Any]:
    return {r["key"]: r["values"] for r in store.records() if r["kind"] in ("score", "set_score")}


def test_two_actors_draw_and_score_as_this_process_does_though_actors_are_killed(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    generate(planned(tmp_path, here), here)
    score(planned(tmp_path, here).suite, here, crew=LOCAL)
    lost: list[Any] = []
    dice, give = random.Random(1), Hosts._give

    def giving(self: Hosts, actor: Any, item: Any, limit: float) -> None:
        give(self, actor, item, limit)
        if len(lost) < 2 and dice.random() < 0.6:
            ray.kill(actor)
            lost.append(item)

    monkeypatch.setattr(Hosts, "_give", giving)
    crew = Crew("ray", workers=2)
    assert generate(planned(tmp_path, there), there, crew=crew).complete
    score(planned(tmp_path, there).suite, there, crew=crew)
    assert len(lost) == 2
    assert picture_ids(there) == picture_ids(here)
    assert numbers(there) == numbers(here)
    attempts = [r["message"] for r in there.records() if r["kind"] in ("failure", "score_failure")]
    assert attempts
    assert all("its actor was lost" in said for said in attempts)


def test_what_a_child_does_is_the_childs_and_what_befalls_an_actor_is_nobodys_fault(ray: Any) -> None:
    with Hosts(Pid(), Crew("ray", workers=1)) as hosts:
        (_, first), (_, again) = hosts.work(["", ""], lambda _: 60)
        assert first == again != os.getpid()  # one child, kept
        ((_, ended),) = hosts.work(["exit"], lambda _: 60)
        ((_, gone),) = hosts.work(["node"], lambda _: 60)
        assert isinstance(ended, Lost)
        assert (ended.final, "exit code 3" in ended.message) == (True, True)
        assert isinstance(gone, Lost)
        assert (gone.final, gone.reason) == (False, "crash")
        with pytest.raises(UsageError, match="a wrong item"):
            list(hosts.work(["wrong"], lambda _: 60))
        ((_, after),) = hosts.work([""], lambda _: 60)
        assert after != first


def test_more_actors_than_a_cluster_has_room_for_only_wait(ray: Any) -> None:
    with Hosts(Pid(), Crew("ray", workers=5)) as hosts:
        answers = [answer for _, answer in hosts.work([""] * 6, lambda _: 60)]
    assert len(answers) == 6
    assert 1 <= len(set(answers)) <= 2  # two cores


def test_a_gpu_that_no_node_has_and_an_actor_that_does_not_start_are_said(ray: Any, tmp_path: Path) -> None:
    class Asks(Pid):
        device = "cuda"

    with pytest.raises(UsageError, match="no node of the Ray cluster has a GPU"):
        Hosts(Asks(), Crew("ray"))

    class Breaks(Host):
        def __init__(self, *told: Any) -> None:
            raise ValueError("no such folder")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "Host", Breaks)
        with Hosts(Pid(), Crew("ray", workers=1)) as hosts, pytest.raises(PrerequisiteError, match="does not start"):
            list(hosts.work([""], lambda _: 60))


def test_an_address_asks_for_ray_and_nothing_else_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(Crew(address="auto"), []) == "ray"
    with pytest.raises(UsageError, match="--address is a Ray cluster's"):
        chosen(Crew("processes", address="auto"), [])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PrerequisiteError, match=r"scrollbench\[ray\]"):
        connected(None)
