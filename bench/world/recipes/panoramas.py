"""ScrollWorld panoramas to train on, whole, of scenes that no evaluation asks for."""

from __future__ import annotations

from functools import cache

import numpy as np

from bench.errors import UsageError
from bench.ids import digest
from bench.prompts import load_prompts
from bench.source import source_digest
from bench.world.render import HEIGHT, render
from bench.world.scene import UNIQUES, Scene, caption, sample_scene
from methods.training.pictures import Key, Kind

SQUARES = {4: 1.0, 8: 3.0}  # squares in a panorama, how often it comes
EXAMPLES = 2000  # of each kind
ASKED = "scrollworld@1"  # the prompts of the miniature's suites


class Panoramas:
    """Panoramas of 4 and of 8 squares, some thousand scenes of each.

    Each kind of unique thing comes as often as an empty sky, where scenes as they are drawn elsewhere hold few
    lighthouses and moons: a training of some hundred steps would leave those out. Scenes of ``scrollworld@1`` are not
    among them. Training draws render seeds below 2**31, fresh pictures have seeds above.
    """

    about = "ScrollWorld panoramas of 4 and 8 squares, without the scenes of scrollworld@1 (bench.world.recipes)"
    fresh = True

    def __init__(self, side: int, unit: int) -> None:
        if side != HEIGHT:
            raise UsageError(
                f"--data world is for networks of {HEIGHT} px squares, world-wan; this one's have {side} px: give a "
                "folder of wide pictures with captions"
            )
        if HEIGHT % unit:
            raise UsageError(f"--data world has pictures {HEIGHT} px high, which are no whole tokens of {unit} px")
        self.kinds = tuple(Kind(n * HEIGHT, HEIGHT, 1, share) for n, share in SQUARES.items())
        self.identity = digest([source_digest(render), EXAMPLES, sorted(map(repr, asked()))])

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """A scene's number."""
        return (int(rng.integers(0, EXAMPLES)) + (2**31 if fresh else 0),)

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """A scene drawn from its number, with a caption in drawn words."""
        scene, rng = scene_of(key[0])
        return render(scene, kind.width, key[0]).rgb, caption(scene, rng, fillers=0.3)


@cache
def asked() -> frozenset[Scene]:
    """The scenes of the evaluation's prompts."""
    return frozenset(Scene.from_dict(p.attributes["scene"]) for p in load_prompts(ASKED).prompts)


def scene_of(number: int) -> tuple[Scene, np.random.Generator]:
    """The scene of a number, and the generator that has drawn it."""
    rng = np.random.default_rng([number, 2**45])
    unique = (None, *UNIQUES)[int(rng.integers(0, 1 + len(UNIQUES)))]
    while True:
        scene = sample_scene(rng)
        if scene.unique == unique and scene not in asked():
            return scene, rng
