"""Suites: which prompts on which canvases, by which methods, measured how. TOML files, resolved through the registry.

Methods and metrics are looked up only when asked for: pictures can be made where no metric is installed, and
scored where no generator is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.ids import digest
from bench.suites import uses
from bench.suites.tables import MetricFile, SuiteFile, default_label
from bench.suites.values import MethodUse, MetricUse, Unavailable

if TYPE_CHECKING:
    from bench.suites.values import Part


@dataclass(frozen=True, eq=False)
class Suite:
    """A resolved suite. ``methods`` and ``metrics`` are imported when first asked for and then raise ``UsageError``."""

    name: str
    version: str
    tier: str  # miniature or full; they never share a board
    title: str
    seeds: tuple[int, ...]
    parts: tuple[Part, ...]
    backbone: str | None  # registered name; None where all methods are controls
    backbone_options: Mapping[str, Any]
    references: Mapping[
        str, Mapping[str, Any]
    ]  # specifications, as bench.pipeline.references.load_reference takes them
    file: Path
    spec: SuiteFile
    knobs: tuple[tuple[str, str, str], ...] = ()  # --set: (method, knob, value)
    left_out: tuple[Unavailable, ...] = ()  # what the miniature has no stand-in for
    chosen: str = ""  # the options of the command line that choose it
    own_metrics: tuple[MetricFile, ...] | None = None  # those of the file, whatever --metric chose of them

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @cached_property
    def digest(self) -> str:
        """Identity of what is asked: parts, prompts, seeds and backbone, with ``--limit`` and ``--seed`` applied.

        Methods and metrics are left out: a new method joins the same board, and scores name their metric themselves.
        """
        parts = [[p.name, [p.canvas.width, p.canvas.height, p.canvas.loop], p.prompts.digest] for p in self.parts]
        options = {k: v for k, v in self.backbone_options.items() if k != "device"}
        backbone = self.backbone and default_label(self.backbone, None)
        return digest([self.ref, self.tier, parts, list(self.seeds), backbone, options])

    @property
    def shrunk(self) -> bool:
        """Whether this is a suite of tier full on the miniature."""
        return self.tier == "miniature" and self.spec.miniature is not None

    @property
    def methods(self) -> tuple[MethodUse, ...]:
        """The methods that are here, with all their knobs (:func:`bench.suites.uses.methods`)."""
        return self._methods[0]

    @property
    def metrics(self) -> tuple[MetricUse, ...]:
        """The metrics that are here, with all that they need (:func:`bench.suites.uses.metrics`)."""
        return self._metrics[0]

    @property
    def command(self) -> str:
        """The options that choose this very suite, for messages: ``--suite pano-1k --limit 25``."""
        return self.chosen or f"--suite {self.name}"

    @cached_property
    def whole(self) -> Suite:
        """The suite with all metrics of its file: which numbers are tested together does not depend on ``--metric``."""
        if self.own_metrics is None:
            return self
        return replace(self, spec=self.spec.model_copy(update={"metrics": list(self.own_metrics)}), own_metrics=None)

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """What the suite names that is not here: it spoils nothing and counts nowhere. Raises what the others raise."""
        return (*self.left_out, *self._methods[1], *self._metrics[1], *uses.references(self))

    @cached_property
    def _methods(self) -> tuple[tuple[MethodUse, ...], tuple[Unavailable, ...]]:
        return uses.methods(self)

    @cached_property
    def _metrics(self) -> tuple[tuple[MetricUse, ...], tuple[Unavailable, ...]]:
        return uses.metrics(self)
