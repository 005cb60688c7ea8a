"""What an image metric is handed: one picture, its prompt, and a network to look at it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench import views
from bench.errors import UsageError
from bench.extractors import Extractor
from bench.store.features import Features
from bench.store.raster import Raster
from bench.types import Canvas, Cost, Prompt


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture as a metric sees it.

    Attributes:
        pixels: uint8 (canvas.height, canvas.width, 3), an array or, where they are many, on disk; of either kind
            ``pixels[y0:y1, x0:x1]`` is a window as an array. Degenerate pictures (black, once NaN) are pictures too.
        prompt: what was asked for.
        canvas: its size, and whether it loops.
        cost: what it took, or None where that is not known.
        extractor: the loaded network of the metric's role, or None for metrics that need none.
        view: where to look (:mod:`bench.views`).
        image_id, cache: where features are kept between runs; without them they are computed on the spot.
        turn: the picture's place in its set, from 0, which the view ``random-2023`` goes by.
    """

    pixels: np.ndarray | Raster
    prompt: Prompt
    canvas: Canvas
    cost: Cost | None = None
    extractor: Extractor | None = None
    view: str = "whole"
    image_id: str = ""
    cache: Features | None = None
    turn: int = 0

    @cached_property
    def rgb(self) -> np.ndarray:
        """All pixels in memory: 0.4 GB at 32768x4096, where :attr:`pixels` and :meth:`crops` read what is looked at."""
        return np.asarray(self.pixels)

    def boxes(self) -> tuple[views.Box, ...]:
        """Where the view's crops lie."""
        return views.boxes(self.view, self.canvas, self._drawn_by)

    def crops(self) -> Sequence[np.ndarray]:
        """The view's crops, uint8 (h, w, 3), in the order of :meth:`boxes`; of a picture on disk cut when asked for."""
        return views.cuts(self.pixels, self.view, self.canvas, self._drawn_by)

    def features(self) -> np.ndarray:
        """(n, d) float32, one row a crop; computed once per picture, extractor and view."""
        network = self.network()
        return self._kept(lambda: network.embed(self.crops()))

    def distances(self) -> np.ndarray:
        """(n, n) float32 distances between all crops; computed once per picture, extractor and view."""
        network = self.network()
        return self._kept(lambda: network.distances(self.crops()))

    def network(self) -> Extractor:
        """The extractor. Raises ``UsageError`` where the sample has none."""
        if self.extractor is None:
            raise UsageError("this metric needs an extractor and none was given; name one in the suite's metric")
        return self.extractor

    def _kept(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        if self.cache is None:
            return compute()
        return self.cache.get((self.image_id, views.key(self.view, self.canvas, self._drawn_by)), compute)

    @property
    def _drawn_by(self) -> str:
        return views.drawn_by(self.view, self.prompt.id, self.turn)
