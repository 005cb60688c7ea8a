"""Training pictures: a seeded bank of rendered ScrollWorld pictures, made once and kept in a cache folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.source import source_digest
from bench.world.render import HEIGHT, render
from bench.world.scene import Scene, sample_scene

SQUARES, WIDE, WIDE_WIDTH = 60_000, 6_000, 128

DATA = "ScrollWorld renders, squares and panoramas of the training seeds (bench.world.recipes.bank)"  # on cards


@dataclass
class Bank:
    """``squares`` (n, 32, 32, 3) uint8 and ``wide`` (m, 32, 128, 3), with one scene each.

    ``wide`` shows 0 to 5 of the unique thing that its scene asks for.
    """

    squares: np.ndarray
    scenes: list[Scene]
    wide: np.ndarray
    wide_scenes: list[Scene]


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a .npy file, mapped into memory; made where the file is missing, and then whole or not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_suffix(".tmp.npy")
        np.save(temp, make())
        temp.replace(path)
    found: np.ndarray = np.load(path, mmap_mode="r")
    return found


def load_bank(cache: Path, squares: int = SQUARES, wide: int = WIDE, seed: int = 1) -> Bank:
    """The training bank, rendered on first use (about a minute) and cached as one .npy file a part.

    Held-out pictures use other seeds: training draws render seeds below 2**31, evaluation draws above.
    """
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(squares)]
    wide_scenes = [sample_scene(rng) for _ in range(wide)]
    seeds = rng.integers(0, 2**31, squares + wide)
    copies = rng.integers(0, 6, wide)
    tag = f"{source_digest(render)[:8]}-{squares}-{wide}-{seed}"

    def cached(name: str, n: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
        return kept(cache / f"{name}-{tag}.npy", lambda: np.stack([make(i) for i in range(n)]))

    return Bank(
        squares=cached("squares", squares, lambda i: render(scenes[i], HEIGHT, int(seeds[i])).rgb),
        scenes=scenes,
        wide=cached(
            "wide",
            wide,
            lambda i: render(wide_scenes[i], WIDE_WIDTH, int(seeds[squares + i]), copies=int(copies[i])).rgb,
        ),
        wide_scenes=wide_scenes,
    )


def evenly(scenes: list[Scene]) -> np.ndarray:
    """Chances (n,) that draw each kind of unique thing, and none, as often as any other."""
    kinds, of = np.unique([s.unique or "" for s in scenes], return_inverse=True)
    each = 1 / np.bincount(of)[of]
    return np.asarray(each / len(kinds))
