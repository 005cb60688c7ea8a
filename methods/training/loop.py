"""The loop that trains a network: seeded, resumable, budgeted in steps.

Every step draws its data and noise from a generator keyed by (recipe, step), so a run that was interrupted
and resumed equals one that was not, on the same machine. Recipes of the miniature live in ``bench.world.recipes``.
Under ``accelerate launch`` every process takes part in every step (:mod:`methods.training.processes`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.errors import UsageError
from methods.training import checkpoint, curves
from methods.training.processes import Processes

CHECKPOINT_EVERY = 250  # steps
CHECKPOINT_SECONDS = 600.0  # or so much time, where steps are long
RECENT = 50  # steps, whose losses are the usual one


class Recipe(Protocol):
    """One trainable network: what to optimise, one step's loss, and how its folder is written."""

    name: str
    card: str  # where the card goes, inside the out folder
    data: str  # what it is trained on, for the card
    steps: int
    batch: int
    lr: float
    module: nn.Module

    # What a recipe may also choose, and what happens where it does not:
    #   optimisers() -> list[torch.optim.Optimizer], each at the rate it begins with: adamw() at ``lr`` takes all;
    #   rate(step, steps) -> float, times those rates: warm_and_falling();
    #   accumulate: int, losses that are averaged in a step: 1;   gradient_norm: float, at most: 1;
    #   averaged: bool, whether what is saved is a moving average of the steps' weights: True;
    #   spike: float, how many times the median of the last losses ends the training, as no number does: never;
    #   measured() -> dict of numbers of the step just taken, kept as curves.csv and curves.png: none;
    #   settings: dict of plain values that decide the result, for the card; a checkpoint of others is refused: {}.

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        """Scalar loss of one seeded batch."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``module`` in the layout of its real loader, fp16 safetensors."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out figures for the card."""
        ...


def warm_and_falling(step: int, steps: int) -> float:
    """100 steps up, level, and from six tenths of the way on down to 2 %."""
    fraction = step / steps
    return min(1.0, (step + 1) / 100) * (1.0 if fraction < 0.6 else 0.02 + 0.98 * (1 - fraction) / 0.4)


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.AdamW:
    """The optimiser of every recipe that does not choose."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal, scaled to the size of AdamW's updates.

    That of ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, whose iterations are in bfloat16: CPUs without
    units for it take forty times as long. These are in the type of the weights.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": 0.95, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(update, alpha=group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Singular values of a matrix pushed near 1 by five steps of Newton and Schulz with Muon's polynomial."""
    x = matrix / matrix.norm().clamp(min=1e-7)
    x = x.T if len(matrix) > len(matrix.T) else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x.T if len(matrix) > len(matrix.T) else x


def muon_and_adamw(module: nn.Module, blocks: Iterable[nn.Module], lr: float) -> list[torch.optim.Optimizer]:
    """Muon on the matrices inside ``blocks``, AdamW on the rest of ``module``, both at ``lr``.

    For transformers: the blocks' matrices map one stream to another, which is what orthogonal updates are for;
    embeddings, heads, biases and norms do not.
    """
    matrices = {id(p): p for block in blocks for p in block.parameters() if p.requires_grad and p.ndim == 2}
    rest = [p for p in module.parameters() if p.requires_grad and id(p) not in matrices]
    return [Muon(matrices.values(), lr), adamw(rest, lr)]


def check_numbers(owner: str, knobs: Mapping[str, Any]) -> None:
    """Refuse the numbers of a training's usual knobs that are out of range; None is any knob's own default.

    Raises:
        UsageError: such a knob.
    """
    for knob in ("rank", "batch", "accumulate", "size", "frames"):
        if knobs.get(knob) is not None and knobs[knob] < 1:
            raise UsageError(f"{owner}: {knob} must be at least 1, got {knobs[knob]}")
    for knob in ("alpha", "lr", "clip", "shift"):
        if knobs.get(knob) is not None and not knobs[knob] > 0:
            raise UsageError(f"{owner}: {knob} must be above 0, got {knobs[knob]}")
    if not 0 <= knobs["drop"] <= 1:
        raise UsageError(f"{owner}: drop must be 0 to 1, a probability; got {knobs['drop']}")


@dataclass
class Step:
    """What the loop tells its caller after each step."""

    step: int
    steps: int
    loss: float
    seconds: float


@dataclass
class State:
    """Everything a resumed run needs."""

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    budgets: list[int] = field(default_factory=list)  # each decides the rates of its steps; more than one if prolonged
    curves: list[dict[str, float]] = field(default_factory=list)


def train(
    make: Callable[[Any, Path, Path], Recipe],
    name: str,
    work: Path,
    out: Path,
    *,
    bank: Any,
    steps: int | None = None,
    seed: int = 0,
    report: Callable[[Step], None] = lambda progress: None,
) -> dict[str, Any]:
    """Run (or resume) the recipe ``make`` and write its folder and card.

    Args:
        make: builds the recipe from the bank, the work folder and the out folder.
        name: the recipe's name; part of every seed.
        work: checkpoints and what the recipe renders; safe to delete, costs only time.
        out: the folder that ends up holding the weights and ``card.json``.
        steps: budget; the recipe's own by default. A training that is done goes on where it is given more: its rates
            rise again, as those of a longer training, and the card lists every budget.
        seed: decides weights, data and noise.
        report: called after every step.
        bank: what the recipe draws its batches from; handed to ``make`` as it is.

    Returns:
        the card, as written; of several processes the first one's, empty from the others.

    Raises:
        UsageError: the work folder holds a training of this name with other settings, or damaged checkpoints only.
        FloatingPointError: a loss that is no number, or a spike; the last checkpoint is as it was.
    """
    torch.manual_seed(seed)
    processes = Processes()
    recipe = make(bank, work, out)
    total = steps or recipe.steps
    parameters = [p for p in recipe.module.parameters() if p.requires_grad]
    choose = getattr(recipe, "optimisers", None)
    optimisers = choose() if choose else [adamw(parameters, recipe.lr)]
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    rate, clip = getattr(recipe, "rate", warm_and_falling), getattr(recipe, "gradient_norm", 1.0)
    parts, settings = getattr(recipe, "accumulate", 1), dict(getattr(recipe, "settings", {}))
    settings |= {"processes": processes.number} if processes.number > 1 else {}
    averaged = getattr(recipe, "averaged", True)
    ema = {k: v.detach().clone() for k, v in recipe.module.state_dict().items()} if averaged else {}
    state = State()
    measured, spike = getattr(recipe, "measured", None), getattr(recipe, "spike", None)
    folder = work / name
    saved = checkpoint.last(folder)
    if saved is not None:
        _check_settings(saved.get("settings", {}), settings, folder / checkpoint.NAME)
        recipe.module.load_state_dict(saved["module"])
        for optimiser, kept in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        ema = saved["ema"]
        state = State(saved["step"], saved["seconds"], saved["losses"], saved["budgets"], saved.get("curves", []))

    if state.step < total and state.budgets[-1:] != [total]:
        state.budgets.append(total)
    key = sum(ord(c) << (8 * (i % 4)) for i, c in enumerate(name))
    recipe.module.train()
    kept_at = time.monotonic()
    while state.step < total:
        began = time.monotonic()
        others = [processes.index] if processes.index else []
        rng = np.random.default_rng([seed, key, state.step, *others])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        factor = rate(state.step, total)
        for optimiser, begun in zip(optimisers, rates):
            for group, first in zip(optimiser.param_groups, begun):
                group["lr"] = first * factor
            optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        for _ in range(parts):
            part = recipe.loss(rng, noise) / parts
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        loss = processes.average(parameters, loss)
        _check_loss(name, state, loss, spike)
        nn.utils.clip_grad_norm_(parameters, clip)
        for optimiser in optimisers:
            optimiser.step()
        memory = min(0.999, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for k, v in recipe.module.state_dict().items() if averaged else ():
                if v.is_floating_point():
                    ema[k].lerp_(v, 1 - memory)
                else:
                    ema[k].copy_(v)
        state.step += 1
        state.losses.append(loss)
        if measured:
            state.curves.append(measured())
        state.seconds += time.monotonic() - began
        if processes.index:
            continue
        report(Step(state.step, total, float(np.mean(state.losses[-50:])), state.seconds))
        late = time.monotonic() - kept_at > CHECKPOINT_SECONDS  # when it is written changes nothing of what is learnt
        if state.step % CHECKPOINT_EVERY == 0 or state.step == total or late:
            _keep(folder, recipe.module, optimisers, ema, state, settings)
            kept_at = time.monotonic()

    if averaged:
        recipe.module.load_state_dict(ema)
    recipe.module.eval()
    if processes.index:
        processes.wait()
        return {}
    out.mkdir(parents=True, exist_ok=True)
    recipe.save(out)
    if state.curves:
        curves.write_table(out / "curves.csv", state.curves)
        curves.draw(out / "curves.png", state.curves)
    card = {
        "name": name,
        "data": recipe.data,
        "steps": state.step,
        **({"budgets": state.budgets} if len(state.budgets) > 1 else {}),
        "batch": recipe.batch,
        **({"settings": settings} if settings else {}),
        "seed": seed,
        "seconds": round(state.seconds),
        "threads": torch.get_num_threads(),
        "final_loss": round(float(np.mean(state.losses[-200:])), 5),
        "parameters": sum(p.numel() for p in recipe.module.parameters()),
        "torch": torch.__version__,
        "held_out": {k: round(float(v), 4) for k, v in recipe.evaluate().items()},
    }
    (out / recipe.card).write_text(json.dumps(card, indent=1) + "\n")
    processes.wait()
    return card


def _check_settings(begun: dict[str, Any], wanted: dict[str, Any], checkpoint: Path) -> None:
    changed = sorted(k for k in {*begun, *wanted} if begun.get(k) != wanted.get(k))
    if changed:
        told = "; ".join(f"{k} was {begun.get(k)!r}, now {wanted.get(k)!r}" for k in changed)
        raise UsageError(f"{checkpoint} was begun with other settings ({told}): choose another --work, or those again")


def _check_loss(name: str, state: State, loss: float, spike: float | None) -> None:
    usual = float(np.median(state.losses[-RECENT:])) if len(state.losses) >= RECENT else np.inf
    if not np.isfinite(loss):
        what = f"loss is {loss}"
    elif spike is not None and loss > spike * usual:
        what = f"loss {loss:.4g} is more than {spike:g} times the {usual:.4g} of the last {RECENT} steps"
    else:
        return
    raise FloatingPointError(f"{name}: {what} at step {state.step + 1}; nothing was overwritten")


def _keep(
    folder: Path,
    module: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    ema: dict[str, Tensor],
    state: State,
    settings: dict[str, Any],
) -> None:
    checkpoint.keep(folder, {
        "module": module.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "ema": ema,
        "settings": settings, **asdict(state),
    })  # fmt: skip
    if state.curves:
        curves.write_table(folder / "curves.csv", state.curves)


def save_half(module: nn.Module, path: Path) -> None:
    """A module's state as one fp16 safetensors file."""
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in module.state_dict().items()}
    save_file(state, str(path), metadata={"format": "pt"})
