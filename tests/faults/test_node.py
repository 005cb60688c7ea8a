"""A node of a Ray cluster that is lost costs what it was doing and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.pipeline.executors import ray as executor
from bench.pipeline.executors.children import Lost
from bench.pipeline.executors.crew import Crew
from bench.pipeline.executors.ray import Hosts
from bench.pipeline.generate import generate
from bench.store import Store
from tests.support.small import picture_ids, planned


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A node with one core on this machine, and this process connected to it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'scrollbench[ray]'")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        try:
            made = Cluster(initialize_head=True, head_node_args=node)
            ray.init(made.address, log_to_driver=False)
        except Exception as error:  # a sandbox without room for its sockets or shared memory
            pytest.skip(f"no Ray cluster starts on this machine: {error}")
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Any:
    """That and another node with one core."""
    head.add_node(num_cpus=1, object_store_memory=2**27)
    head.wait_for_nodes(timeout=120)
    return head


@pytest.mark.parametrize("again", [True, False])
def test_a_node_that_is_lost_on_the_way_loses_no_picture_if_what_it_did_is_done_again(
    again: bool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.state import actors

    alone, store = Store(tmp_path / "alone"), Store(tmp_path / "store")
    generate(planned(tmp_path, alone), alone)
    (worker,) = cluster.worker_nodes
    give = Hosts._give

    def giving(self: Hosts, actor: Any, item: Any, limit: float) -> None:
        if cluster.worker_nodes and self._coming:  # else one node may end all work before the other is there
            self.ray.wait([*self._coming], num_returns=len(self._coming))
        give(self, actor, item, limit)
        if cluster.worker_nodes and actors(actor._actor_id.hex())["Address"]["NodeID"] == worker.node_id:
            cluster.remove_node(worker, allow_graceful=False)

    monkeypatch.setattr(Hosts, "_give", giving)
    if not again:
        monkeypatch.setattr(executor, "Lost", lambda reason, message, final: Lost(reason, message, True))
    result = generate(planned(tmp_path, store), store, crew=Crew("ray", workers=2))
    (failure,) = [r for r in store.records() if r["kind"] == "failure"]
    assert "its actor was lost, or the node that it was on" in failure["message"]
    assert not cluster.worker_nodes
    assert result.complete is again
    assert (picture_ids(store) == picture_ids(alone)) is again
