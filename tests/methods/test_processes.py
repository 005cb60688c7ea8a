"""A training in two processes, as accelerate starts them: one network, gradients averaged, files written once."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import UsageError
from methods.training.loop import train
from methods.training.processes import Processes, own_device


class Drawn:
    """Its loss has the gradient of a number that it draws; one parameter is never used."""

    name, card, steps, batch, lr, data = "drawn", "card.json", 2, 1, 0.5, "numbers"
    averaged, gradient_norm = False, 100.0

    def __init__(self, bank: Path, work: Path, out: Path) -> None:
        self.module, self.notes = nn.ParameterDict({"w": torch.zeros(3), "idle": torch.ones(1)}), bank
        self.drawn: list[float] = []

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.module.parameters(), lr=self.lr, weight_decay=0.0)]

    def rate(self, step: int, steps: int) -> float:
        return 1.0

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        self.drawn.append(float(rng.normal()))
        torch.save(self.drawn, self.notes / f"drawn-{os.environ.get('RANK', 'alone')}")
        return self.module["w"].sum() * self.drawn[-1]

    def save(self, folder: Path) -> None:
        torch.save({k: v.detach() for k, v in self.module.items()}, folder / "weights.pt")

    def evaluate(self) -> dict[str, float]:
        return {}


def in_two(work: Callable[[], Any]) -> list[int]:
    """How two processes end that each do the work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()  # torch and all else is there already
        if not child:
            try:
                torch.set_num_threads(1)  # a fork has none of its parent's threads
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **place}
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_two_processes_draw_their_own_examples_and_take_the_mean_step_together(tmp_path: Path) -> None:
    def work() -> None:
        card = train(Drawn, "drawn", tmp_path / "work", tmp_path / "out", bank=tmp_path)
        assert bool(card) == (os.environ["RANK"] == "0")
        if card:
            assert card["settings"] == {"processes": 2}

    assert in_two(work) == [0, 0]
    first, second = (torch.load(tmp_path / f"drawn-{rank}", weights_only=True) for rank in range(2))
    assert len(first) == len(second) == 2
    assert first != second
    saved = torch.load(tmp_path / "out/weights.pt", weights_only=True)
    expected = -0.5 * sum(first + second) / 2
    torch.testing.assert_close(saved["w"], torch.full((3,), expected), rtol=1e-5, atol=1e-6)
    assert float(saved["idle"]) == 1

    alone = train(Drawn, "drawn", tmp_path / "alone", tmp_path / "alone-out", bank=tmp_path)  # the control
    assert "settings" not in alone
    assert torch.load(tmp_path / "drawn-alone", weights_only=True) == first
    assert not torch.allclose(torch.load(tmp_path / "alone-out/weights.pt", weights_only=True)["w"], saved["w"])
    with pytest.raises(UsageError, match="processes was 2, now None"):
        train(Drawn, "drawn", tmp_path / "work", tmp_path / "other", bank=tmp_path)


def test_one_process_needs_nothing_and_several_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    alone = Processes()
    assert (alone.number, alone.index, alone.average([], 0.5)) == (1, 0, 0.5)
    assert own_device({"device": "cuda"}) == {"device": "cuda"}
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device({"device": "cuda"}) == {"device": "cuda:1"}
    assert own_device({"device": "cpu"}) == {"device": "cpu"}
