"""Features of sets of pictures, group by group, for comparisons of distances between sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import views
from bench.analysis.samplers import standing_protocol
from bench.errors import StoreError
from bench.pipeline.score_plan import reference
from bench.store.features import Features

if TYPE_CHECKING:
    from bench.analysis.columns import Measure
    from bench.analysis.samplers import Side
    from bench.stats.means import Array
    from bench.suites.suite import Suite
    from bench.suites.values import MetricUse


class SetReader:
    """Stored features for one set measure: rows by prompt, and the reference sets beside them. Loads no network.

    ``caches`` holds what was opened, by folder, for the next reader.
    """

    def __init__(self, suite: Suite, side: Side, measure: Measure, caches: dict[Path, Features]) -> None:
        store = side.store
        self.suite, self.side, self.measure = suite, side, measure
        self.protocol = standing_protocol(side, measure)
        if self.protocol is None:
            raise StoreError(f"{measure.name} is not scored yet; `scrollbench score {suite.command}` does it")
        fresh = (self.protocol["extractor"], self.protocol["extractor_digest"])
        folder = store.root / "features" / "-".join(fresh)
        self.cache = caches.setdefault(folder, caches.get(folder) or Features(folder.parent, *fresh))

    @property
    def use(self) -> MetricUse:
        """How the suite measures it."""
        assert self.measure.use is not None
        return self.measure.use

    def prompts(self, part: str) -> dict[str, Array]:
        """(crops of all seeds, d) of each prompt of a part whose pictures are all made. Raises ``StoreError``."""
        found: dict[str, Array] = {}
        (place,) = [p for p in self.suite.parts if p.name == part]
        asked = place.prompts.prompts
        for i, prompt in enumerate(asked):
            cells = [self.side.cells.get((part, prompt.id, seed)) for seed in self.suite.seeds]
            if any(c is None or c.image_id is None for c in cells):
                continue
            rows = []
            for s, cell in enumerate(cells):
                assert cell is not None
                drawn_by = views.drawn_by(self.use.view, prompt.id, s * len(asked) + i)
                kind = "logits:" if "logits" in self.use.metric.inputs else ""
                rows.append(self._stored((str(cell.image_id), kind + views.key(self.use.view, place.canvas, drawn_by))))
            found[prompt.id] = np.concatenate(rows).astype(np.float64)
        return found

    def beside(self) -> tuple[Array, ...]:
        """What the metric is handed beside the pictures: its reference, the base network's pictures."""
        named = {"reference": str(self.use.reference), "base": f"base-{self.side.sampler.get('backbone')}"}
        sets = []
        for name in (named[i] for i in self.use.metric.inputs if i in named):
            if name not in self.suite.references:
                raise StoreError(f"{self.measure.name}: there is no reference {name!r} in suite {self.suite.ref}")
            found = reference(name, self.suite, self.side.store)
            sets.append(found.features(_NoNetwork(self), self.use.view, self.cache).astype(np.float64))  # type: ignore[arg-type]
        return tuple(sets)

    def absent(self) -> Array:
        """Raises: comparing reads what scoring has kept, and computes no features."""
        raise StoreError(
            f"features for {self.measure.name} are not in {self.cache.folder}; "
            f"`scrollbench score {self.suite.command}` computes them"
        )

    def _stored(self, key: tuple[str, str]) -> Array:
        return self.cache.get(key, self.absent)


class _NoNetwork:
    """Stands where a reference expects an extractor."""

    def __init__(self, reader: SetReader) -> None:
        self.embed = lambda crops: reader.absent()
