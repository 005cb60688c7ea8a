"""HPS, ImageReward, PickScore and the aesthetic head against the official packages, in their own environment."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oracles import materials
from oracles.materials import Place, pairs

WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Compared:
    """One check's numbers. ``control`` is ours with a deliberate mistake: it must not pass for the original's."""

    original: str
    ours: np.ndarray
    theirs: np.ndarray
    control: np.ndarray
    weights: str = "random"
    allowed: float = 1e-4  # largest difference, relative where theirs is above 1


def ask(place: Place, worker: str, settings: dict[str, Any], jobs: list[tuple[Path, np.ndarray, str]]) -> Any:
    """Scores of a worker for (picture, prompt) jobs, and the versions it runs: ((n,) float64, "name 1.2, ...")."""
    lines = [settings, *({"image": str(path), "prompt": prompt} for path, _, prompt in jobs)]
    told = "".join(json.dumps(line) + "\n" for line in lines)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [str(place.rewards), str(WORKERS / f"{worker}.py")]
    done = subprocess.run(command, input=told, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the worker {worker} failed:\n{done.stderr[-3000:]}")
    first, *rest = (json.loads(line) for line in done.stdout.splitlines())
    if len(rest) != len(jobs):
        raise RuntimeError(f"the worker {worker} answered {len(rest)} of {len(jobs)} jobs:\n{done.stderr[-3000:]}")
    return np.array([r["score"] for r in rest]), ", ".join(f"{k} {v}" for k, v in first["versions"].items())


def _built(name: str, role: str, model: str, path: Path, *also: Path) -> Any:
    """A scorer from official files, as the hub's cache would give them."""
    from bench.extractors.loading import build
    from bench.extractors.locate import Found

    return build(Found(name, role, "", path, model, also))


def _fitting(net: Any, rows: str, jobs: list[tuple[Path, np.ndarray, str]]) -> np.ndarray:
    embed = getattr(net, rows)
    return np.array([net.scale * embed([rgb])[0] @ net.embed_text([prompt])[0] for _, rgb, prompt in jobs])


def hps(place: Place) -> Compared:
    """HPS v2 against hpsv2's own score(); every version that the user has, or a random checkpoint."""
    from bench import extractors

    jobs, found = pairs(place, materials.ENTITIES), []
    if folder := place.official("hps"):
        files = sorted(folder.glob("HPS*.pt"))
        nets = [(f, None, _built(f.stem, "hps", "ViT-H-14", f)) for f in files]
    else:
        folder = place.made("hps", lambda f: materials.hps(f, place.full))
        files = sorted(folder.glob("HPS*.pt"))
        nets = [(files[0], str(folder / "open_clip_config.json"), extractors.load(f"hps@{folder}"))]
    for file, config, net in nets:
        theirs, versions = ask(place, "hps", {"weights": str(file), "config": config}, jobs)
        found.append((_fitting(net, "embed_stock", jobs), theirs, _fitting(net, "embed", jobs)))
    weights = ", ".join(f.name for f in files) if place.official("hps") else "random, full" if place.full else "random"
    return Compared(versions, *(np.concatenate(column) for column in zip(*found)), weights)


def image_reward(place: Place) -> Compared:
    """ImageReward against image-reward's own score()."""
    from bench import extractors

    jobs, official = pairs(place, materials.ENTITIES), place.official("image-reward")
    folder = official or place.made("image-reward", materials.image_reward)
    theirs, versions = ask(place, "image_reward", {"folder": str(folder)}, jobs)
    net: Any = extractors.load(f"reward@{folder}")
    ours = np.array([net.score_stock([rgb], prompt)[0] for _, rgb, prompt in jobs])
    squashed = np.array([net.score([rgb], prompt)[0] for _, rgb, prompt in jobs])
    return Compared(versions, ours, theirs, squashed, "official" if official else "random, full")


def pick_score(place: Place) -> Compared:
    """PickScore against the program of its model card."""
    from bench import extractors

    jobs, official = pairs(place), place.official("pick-score")
    folder = official or place.made("pick-score", lambda f: materials.pick_score(f, place.full))
    words = place.made("clip-vocabulary", materials.clip_vocabulary)
    theirs, versions = ask(place, "pick_score", {"folder": str(folder), "tokenizer": str(words)}, jobs)
    net = extractors.load(f"pick@{folder}")
    weights = "official" if official else "random, full" if place.full else "random"
    return Compared(versions, _fitting(net, "embed_stock", jobs), theirs, _fitting(net, "embed", jobs), weights)


def clip_aesthetic(place: Place) -> Compared:
    """The aesthetic predictor v2 against image-reward's copy of it on OpenAI's clip package."""
    from bench import extractors

    jobs = pairs(place)
    if official := place.official("clip-aesthetic"):
        (head,) = official.glob("*.pth")
        clip, trunk = official / "ViT-L-14.pt", official / "open_clip_model.safetensors"
        net: Any = _built("aesthetic-v2", "aesthetic", "ViT-L-14-quickgelu", head, trunk)
    else:
        folder = place.made("clip-aesthetic", materials.aesthetic)
        head, clip, net = folder / "head.pth", folder / "clip.pt", extractors.load(f"aesthetic@{folder}")
    theirs, versions = ask(place, "aesthetic", {"head": str(head), "clip": str(clip)}, jobs)
    ours, squashed = (
        np.concatenate([net.rate(embed([rgb])) for _, rgb, _ in jobs]) for embed in (net.embed_stock, net.embed)
    )
    return Compared(versions, ours, theirs, squashed, "official" if official else "random")
