"""Training of the miniature's networks: seeded, resumable, budgeted in steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.world.recipes.bank import Bank, load_bank
from methods.training import checkpoint
from methods.training.loop import Muon, Step, muon_and_adamw, save_half, train
from methods.training.prodigy import Prodigy


class Mean:
    """Learns the mean colour of the bank."""

    name, card, steps, batch, lr = "mean", "card.json", 200, 4, 0.05
    data = "a bank of a few pictures"

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        self.bank, self.module = bank, nn.Linear(1, 3)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        picks = rng.integers(0, len(self.bank.squares), self.batch)
        target = torch.from_numpy(self.bank.squares[picks].mean((1, 2)) / 255).float()
        return (self.module(torch.randn((self.batch, 1), generator=noise) * 0.1) - target).square().mean()

    def evaluate(self) -> dict[str, float]:
        return {"bias": float(self.module.bias.detach().mean())}

    def save(self, folder: Path) -> None:
        save_half(self.module, folder / "model.safetensors")


class Squared(Mean):
    """The same through a hidden matrix, which Muon takes."""

    def __init__(self, bank: Bank, work: Path, out: Path) -> None:
        super().__init__(bank, work, out)
        self.module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3))

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return muon_and_adamw(self.module, [self.module[1]], self.lr)

    def evaluate(self) -> dict[str, float]:
        return {}


class Stop(Exception):
    pass


def stop_at(step: int) -> Any:
    def report(progress: Step) -> None:
        if progress.step == step:
            raise Stop

    return report


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return load_bank(tmp_path_factory.mktemp("bank"), squares=12, wide=2)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("recipe", [Mean, Squared])
def test_an_interrupted_training_ends_with_the_same_weights(
    recipe: type[Mean], tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 8)
    train(recipe, "mean", tmp_path / "a", tmp_path / "whole", bank=bank)
    with pytest.raises(Stop):
        train(recipe, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank, report=stop_at(20))
    train(recipe, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    train(recipe, "mean", tmp_path / "c", tmp_path / "other", bank=bank, seed=1)
    assert weights(tmp_path / "other") != weights(tmp_path / "whole")


def test_a_resumed_training_that_forgets_muons_momentum_ends_elsewhere(
    tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 8)
    train(Squared, "mean", tmp_path / "a", tmp_path / "whole", bank=bank)
    with pytest.raises(Stop):
        train(Squared, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank, report=stop_at(20))
    monkeypatch.setattr(Muon, "load_state_dict", lambda self, state: None)
    train(Squared, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank)
    assert weights(tmp_path / "resumed") != weights(tmp_path / "whole")


def test_what_a_recipe_chooses_is_done_and_what_it_does_not_is_as_ever(tmp_path: Path, bank: Bank) -> None:
    """One step of SGD from zero shows the gradient; half of two equal losses is one of them."""

    class Chooses(Mean):
        data, steps = "nothing", 1
        seen: ClassVar[list[tuple[int, int]]] = []

        def __init__(self, bank: Bank, work: Path, out: Path) -> None:
            super().__init__(bank, work, out)
            nn.init.zeros_(self.module.weight)
            nn.init.zeros_(self.module.bias)

        def optimisers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(self.module.parameters(), lr=1.0)]

        def rate(self, step: int, steps: int) -> float:
            self.seen.append((step, steps))
            return 0.5

        def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
            return 30 * self.module.bias.sum()

        def evaluate(self) -> dict[str, float]:
            return {"moved": float(self.module.bias.detach()[0])}

    def moved(name: str, **choices: Any) -> float:
        chosen = type("Chosen", (Chooses,), choices)
        card = train(chosen, name, tmp_path / name, tmp_path / f"out-{name}", bank=bank)
        return float(card["held_out"]["moved"])

    cut = -0.5 * 3**-0.5  # a gradient of (30, 30, 30) cut to length 1, at rate 0.5
    assert moved("plain", averaged=False) == pytest.approx(cut, abs=1e-4)
    assert moved("twice", averaged=False, accumulate=2) == pytest.approx(cut, abs=1e-4)
    assert moved("loose", averaged=False, accumulate=2, gradient_norm=1e3) == pytest.approx(-15.0, abs=1e-4)
    assert moved("average") == pytest.approx(0.9 * cut, abs=1e-4)  # of the start with weight 0.1
    assert set(Chooses.seen) == {(0, 1)}


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, bank: Bank) -> None:
    class Set(Mean):
        settings: ClassVar[dict[str, Any]] = {"rank": 4}

    card = train(Set, "mean", tmp_path, tmp_path / "out", bank=bank, steps=1)
    assert card["settings"] == {"rank": 4}
    Set.settings = {"rank": 8, "lr": 0.1}
    with pytest.raises(UsageError, match=r"other settings \(lr was None, now 0.1; rank was 4, now 8\): choose another"):
        train(Set, "mean", tmp_path, tmp_path / "out", bank=bank, steps=2)


def test_prodigys_steps_are_the_authors_and_its_d_grows() -> None:
    """A weighted square distance in float64, against prodigyopt 1.1.2 with bias correction and safeguarded warm-up.

    While d is 1e-6, x - x_0 is known to 1e-10 of itself, and so is d.
    """
    moved = [nn.Parameter(torch.zeros(3, 2).double()), nn.Parameter(torch.ones(4).double())]
    optimiser, found = Prodigy(moved), {}
    for k in range(60):
        for i, p in enumerate(moved):
            goal = torch.arange(1.0, p.numel() + 1).double().view(p.shape) / 4 * (-1) ** i
            p.grad = torch.linspace(0.5, 2, p.numel()).double().view(p.shape) * (p.detach() - goal)
        optimiser.param_groups[0]["lr"] = min(1, (k + 1) / 10)
        optimiser.step()
        found[k + 1] = optimiser.param_groups[0]["d"]
    expected = {10: 1e-06, 30: 2.5086429950853354e-06, 60: 0.000660016373577802}
    assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-9, abs=0)
    ends = [
        0.004628729704, 0.004627371422, 0.004626919158, 0.004626693076, 0.004626557434, 0.004626467007, 0.995366768352,
        0.995366858087, 0.995366922564, 0.995366971,
    ]  # fmt: skip
    assert torch.cat([p.detach().flatten() for p in moved]).tolist() == pytest.approx(ends, abs=2e-12)
    assert found[30] != pytest.approx(expected[60], rel=0.5)  # the control


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_muons_steps_are_torchs_up_to_its_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    mine = Muon([ours], lr=0.1)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape, generator=generator)
        mine.step()
        other.step()
    apart = float((ours - theirs).norm() / theirs.norm())
    assert apart < 0.02  # bfloat16 has 8 bits, five rounds of them
    mine.step()  # the control: one step more
    assert float((ours - theirs).norm() / theirs.norm()) > 0.1


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_all_else() -> None:
    module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    muon, rest = muon_and_adamw(module, [module[1]], 1e-3)
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(module[1].weight)]
    assert len(rest.param_groups[0]["params"]) == 5


def test_a_training_that_is_prolonged_says_so_and_is_repeated_by_the_same_two_commands(
    tmp_path: Path, bank: Bank
) -> None:
    for place in ("a", "b"):
        plain = train(Mean, "mean", tmp_path / place, tmp_path / f"out-{place}", bank=bank, steps=120)
        longer = train(Mean, "mean", tmp_path / place, tmp_path / f"out-{place}", bank=bank, steps=200)
        assert "budgets" not in plain
        assert (longer["steps"], longer["budgets"]) == (200, [120, 200])
    assert weights(tmp_path / "out-a") == weights(tmp_path / "out-b")
    train(Mean, "mean", tmp_path / "c", tmp_path / "whole", bank=bank)
    assert weights(tmp_path / "whole") != weights(tmp_path / "out-a")  # rates had fallen and rose again


def test_the_loss_falls_and_the_card_says_what_was_done(tmp_path: Path, bank: Bank) -> None:
    losses: list[float] = []
    card = train(Mean, "mean", tmp_path, tmp_path / "out", bank=bank, report=lambda p: losses.append(p.loss))
    assert losses[-1] < losses[0] / 2
    assert card == json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["steps"], card["batch"], card["seed"], card["parameters"]) == (200, 4, 0, 6)


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_checkpoint(
    tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 8)

    class Broken(Mean):
        def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return super().loss(rng, noise) * (float("nan") if self.calls > 10 else 1.0)

    with pytest.raises(FloatingPointError, match="step 11"):
        train(Broken, "mean", tmp_path, tmp_path / "out", bank=bank)
    assert torch.load(tmp_path / "mean" / "checkpoint.pt", weights_only=True)["step"] == 8


def test_the_bank_is_rendered_once_and_reproducible(tmp_path: Path) -> None:
    first = load_bank(tmp_path / "a", squares=3, wide=2)
    again, elsewhere = load_bank(tmp_path / "a", squares=3, wide=2), load_bank(tmp_path / "b", squares=3, wide=2)
    assert np.array_equal(first.squares, again.squares)
    assert np.array_equal(first.wide, elsewhere.wide)
    assert not np.array_equal(first.squares[0], first.squares[1])


def kept(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.keep(folder, {"step": step, "weights": torch.full((100,), float(step))})


@pytest.mark.parametrize("damage", ["cut short", "one bit"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    assert checkpoint.last(tmp_path) is None
    kept(tmp_path, 2, 4)
    whole = checkpoint.last(tmp_path)
    assert whole is not None
    assert whole["step"] == 4
    file = tmp_path / checkpoint.NAME
    data = bytearray(file.read_bytes())
    where = data.find(torch.full((4,), 4.0).numpy().tobytes())
    data[where] ^= 1
    file.write_bytes(data[: len(data) // 2] if damage == "cut short" else data)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged and not used"):
        before = checkpoint.last(tmp_path)
    assert before is not None
    assert before["step"] == 2
    (tmp_path / checkpoint.BEFORE).write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(UsageError, match=r"no checkpoint in .* is whole: .*Delete the folder"),
    ):
        checkpoint.last(tmp_path)


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.training.loop.CHECKPOINT_EVERY", 8)
    train(Mean, "mean", tmp_path / "a", tmp_path / "whole", bank=bank)
    with pytest.raises(Stop):
        train(Mean, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank, report=stop_at(20))
    (tmp_path / "b/mean" / checkpoint.NAME).write_bytes(b"torn")
    with pytest.warns(UserWarning, match="is damaged"):
        train(Mean, "mean", tmp_path / "b", tmp_path / "resumed", bank=bank)
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
