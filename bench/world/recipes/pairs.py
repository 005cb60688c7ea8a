"""ScrollWorld for trainings that want larger pictures than squares: enlarged squares, and panoramas."""

from __future__ import annotations

import numpy as np

from bench.errors import UsageError
from bench.ids import digest
from bench.source import source_digest
from bench.world.recipes.panoramas import Panoramas
from bench.world.render import HEIGHT, render
from bench.world.scene import caption, sample_scene
from methods.training.pictures import Key, Kind

LONG, CROP = 4, 3  # squares in a panorama, and a side of a crop of a larger square
EXAMPLES = 768  # of each kind


class World:
    """A few hundred scenes of each kind.

    ScrollWorld is pixel art of one height. A square on a canvas k times as large a side is that square with every pixel
    as k x k, and the square itself is the small picture of it; where k is above 3, examples are crops of 3 squares a
    side. A panorama is as high as a square, and its small picture is one that the world has not. Training draws render
    seeds below 2**31, fresh pictures have seeds above.
    """

    about = "ScrollWorld: squares enlarged, and panoramas of 4 squares (bench.world.recipes.pairs)"
    few = fresh = True

    def __init__(self, examples: int = EXAMPLES) -> None:
        self.examples, self.identity = examples, digest([source_digest(render), examples])

    def kinds(self, side: int, ratio: int) -> tuple[Kind, ...]:
        """Squares enlarged by 2, 4, ... up to ``ratio``, which is their ratio, and panoramas, equally often."""
        if side != HEIGHT:
            raise UsageError(
                f"--data world is for networks of {HEIGHT} px squares, world-flux; this one's have {side} px: give a "
                "folder of pictures with captions"
            )
        factors = [2**i for i in range(1, ratio.bit_length())]
        squares = [Kind(side * min(k, CROP), side * min(k, CROP), k) for k in factors]
        return *squares, Kind(LONG * side, side, ratio)

    def draw(self, kind: Kind, rng: np.random.Generator, fresh: bool = False) -> Key:
        """A scene's number."""
        return (int(rng.integers(0, self.examples)) + (2**31 if fresh else 0),)

    def look(self, kind: Kind, key: Key) -> tuple[np.ndarray, str]:
        """A scene drawn from its number, cut where the kind is smaller than it, with a caption in drawn words."""
        rng = np.random.default_rng([key[0], 2**44])
        scene = sample_scene(rng)
        k = kind.ratio if kind.height > HEIGHT else 1
        rgb = render(scene, HEIGHT if k > 1 else kind.width, key[0]).rgb
        y, x = (int(rng.integers(0, have - want // k + 1)) for have, want in zip(rgb.shape, (kind.height, kind.width)))
        rgb = rgb[y : y + kind.height // k, x : x + kind.width // k]
        return rgb.repeat(k, axis=0).repeat(k, axis=1), caption(scene, rng, fillers=0.3)

    def scrolls(self, side: int, unit: int, long: int) -> Panoramas:
        """Whole panoramas, longer than any frame. Raises ``UsageError`` for networks of other squares."""
        return Panoramas(side, unit)
