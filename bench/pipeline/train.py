"""Training of the weights that a method brings: one door for all methods, one loop (:mod:`methods.training.loop`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.reading import expanded
from bench.registry import find, trainer_of
from bench.world.recipes.pairs import World
from methods.backbones.factory import Choice
from methods.shared import lora
from methods.training.drspo import accuracy
from methods.training.loop import Step
from methods.training.loop import train as fit
from methods.training.pictures import Folder, Pictures
from methods.training.preferences import Preferences, is_preferences
from methods.training.processes import own_device

WORLD = "world"  # what --data calls ScrollWorld


def train(
    method: str,
    data: str,
    backbone: str,
    out: Path,
    *,
    work: Path = Path("build/train"),
    steps: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[Step], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train a method's weights, or go on with a training that was interrupted; the end is the same.

    ``accelerate launch`` starts it once for each GPU: steps then see as many times as many examples.

    Args:
        method: a method that has a training.
        data: a folder of pictures with captions, ``world`` for ScrollWorld, or a folder of preferences.
        backbone: what is trained on; its own weights stay as they are.
        out: folder for the weights and ``card.json``.
        work: checkpoints; safe to delete, costs only time.
        steps: budget; the training's own by default.
        seed: decides first weights, order of pictures, noise.
        options: of the backbone: ``device``, ``precision``, ``model``.
        settings: of the training, by name: ``scrollbench show METHOD`` lists them.
        report: called after every step.

    Returns:
        the card, as written; under ``accelerate launch`` from the first process, and empty from the others.

    Raises:
        UsageError: anything wrong with what is asked, before networks are loaded; ``out`` or ``work`` hold another one.
        PrerequisiteError: the backbone's weights are not here.
    """
    trainer = trainer_of(method)
    given = trainer.resolve(settings or {})
    chosen = Choice(find("backbones", backbone), own_device(dict(options or {})))
    chosen.describe()  # weights that are not here, first
    make = trainer.fn(chosen, pictures(data), **given)
    card = out / "card.json"
    if card.exists() and not (work / method / "checkpoint.pt").exists():
        raise UsageError(f"{card} tells of a training that is not in {work}: choose another --out, or its --work")
    return fit(make, method, work, out, bank=None, steps=steps, seed=seed, report=report)


def preference_accuracy(
    folder: Path,
    weights: str,
    stage: str,
    backbone: str,
    *,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """:func:`methods.training.drspo.accuracy` of a folder: how often a stage's weights prefer the winner.

    Args:
        weights: a file, or the folder it lies in.
        options: of the backbone, as for :func:`train`.
        settings: of the training, as for :func:`train`.

    Raises:
        UsageError: no preferences, weights of another network, settings out of range.
        PrerequisiteError: no such weights.
    """
    path = lora.find(weights, "--weights takes what `scrollbench train drspo` writes to its --out")
    chosen = Choice(find("backbones", backbone), dict(options or {}))
    return accuracy(chosen, Preferences(folder), stage, path, **(settings or {}))


def pictures(data: str) -> Pictures | Preferences:
    """What ``data`` names: ScrollWorld, preferences, or a folder of pictures."""
    if data == WORLD:
        return World()
    folder = expanded(data)
    return Preferences(folder) if is_preferences(folder) else Folder(folder)
