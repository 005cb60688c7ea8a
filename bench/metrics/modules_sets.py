"""The set metrics as ``torchmetrics.Metric`` classes, on the functions of :mod:`bench.metrics.distribution`.

States hold feature rows, never pixels: copies, in float64 (``set_dtype`` may choose less), so that nothing done to a
batch after ``update`` reaches them. They are kept flat beside their one width, because flat states of any length, none
included, are gathered over processes. Without an extractor, ``update`` takes rows instead of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bench import extractors, registry, views
from bench.errors import UsageError, near
from bench.metrics import distribution
from bench.metrics.modules import Images, draws, to_rgb
from bench.types import Canvas


def one_width(widths: Tensor) -> Tensor:
    """The width of rows that all processes agree on; 0 stands for a process without rows.

    Raises:
        UsageError: different widths.
    """
    known = sorted({int(w) for w in widths if w})
    if len(known) > 1:
        raise UsageError(f"expected rows of one width in all processes, got {', '.join(map(str, known))}")
    return widths.max()


class _PerSet(Metric):  # type: ignore[misc]
    """A number of whole sets of pictures; each of the metric's inputs is a state.

    Args:
        extractor: a name, ``ROLE@FOLDER`` or a loaded extractor to update with pictures; None to update with rows.
        view: which crops of a picture are its rows (default ``whole``, squashed by the network as usual for FID).
        device: where a named extractor runs.
        knobs: the metric's own.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    spec: ClassVar[registry.Metric]
    width: Tensor

    def __init__(
        self, extractor: str | extractors.Extractor | None = None, *, view: str = "whole", device: str = "cpu",
        **knobs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extractor = extractors.load(extractor, device) if isinstance(extractor, str) else extractor
        self.view, self.knobs = view, self.spec.resolve(knobs)
        views.parse(view)
        self.set_dtype(torch.float64)
        self.add_state("width", torch.zeros((), dtype=torch.long), dist_reduce_fx=one_width)
        for name in self.spec.inputs:
            self.add_state(name, [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """The number of everything added so far, a float64 scalar; the order of adding does not count.

        Raises:
            UsageError: too few rows.
        """
        flat = {n: dim_zero_cat(s) if len(s := getattr(self, n)) else torch.zeros(0) for n in self.spec.inputs}
        if empty := [n for n, values in flat.items() if not len(values)]:
            raise UsageError(f"{self.spec.name}: no rows of {' and '.join(empty)} yet; call update first")
        sets = (values.cpu().double().numpy().reshape(-1, int(self.width)) for values in flat.values())
        return torch.tensor(self.spec.fn(*sets, **self.knobs)[self.spec.name], dtype=torch.float64)

    def _add(self, name: str, batch: Images, drawn_by: Sequence[str | int] | None) -> None:
        if len(batch) == 0:
            return
        if self.extractor is None:
            rows = batch if isinstance(batch, Tensor) else np.asarray(batch)
        else:
            features = self.extractor.embed(self._crops(to_rgb(batch), drawn_by))
            rows = self.extractor.logits(features) if name == "logits" else features
        if rows.ndim != 2:
            raise UsageError(
                f"{self.spec.name}: expected rows (n, d), got {tuple(rows.shape)}; pictures need an extractor"
            )
        if int(self.width) not in (0, rows.shape[1]):
            raise UsageError(f"{self.spec.name}: expected rows of width {int(self.width)}, got {rows.shape[1]}")
        self.width = torch.full_like(self.width, rows.shape[1])
        getattr(self, name).append(self._own(rows))

    def _own(self, rows: Tensor | np.ndarray) -> Tensor:
        """A flat copy that shares no memory and no graph with what was given."""
        if not isinstance(rows, Tensor):
            rows = torch.from_numpy(rows.astype(np.float64))  # whatever its byte order and strides
        return rows.detach().to(self.device, self.dtype, copy=True).flatten()

    def _crops(self, pictures: list[np.ndarray], drawn_by: Sequence[str | int] | None) -> list[np.ndarray]:
        places = zip(pictures, draws(self.view, drawn_by, len(pictures)), strict=True)
        return [c for p, by in places for c in views.crops(p, self.view, Canvas(p.shape[1], p.shape[0]), by)]


class _Distance(_PerSet):
    def update(self, batch: Images, real: bool, drawn_by: Sequence[str | int] | None = None) -> None:
        """Add to the reference (``real``) or to the candidates.

        ``batch`` is (n, d) features of any float type without an extractor; with one it is pictures, and those and
        ``drawn_by`` are as :meth:`bench.metrics.GSD.update` takes them.
        """
        self._add("reference" if real else "features", batch, drawn_by)


class FID(_Distance):
    """Fréchet distance of features (:func:`bench.metrics.distribution.frechet_distance`)."""

    spec = distribution.fid


class KID(_Distance):
    """Unbiased kernel distance of features (:func:`bench.metrics.distribution.kernel_distance`)."""

    spec = distribution.kid


class FDDino(_Distance):
    """Fréchet distance of DINO features; give it an extractor such as ``dinov2-vitl14``."""

    spec = distribution.fd_dino


class KDDino(_Distance):
    """Unbiased kernel distance of DINO features."""

    spec = distribution.kd_dino


class IS(_PerSet):
    """Inception Score of pictures, or of rows of class logits (:func:`bench.metrics.distribution.inception_scores`)."""

    higher_is_better = True
    spec = distribution.inception_score

    def update(self, batch: Images, drawn_by: Sequence[str | int] | None = None) -> None:
        """Add pictures with an extractor, (n, classes) logits without."""
        self._add("logits", batch, drawn_by)


class RelativeFID(_PerSet):
    """FID of panoramas minus FID of their base network's own pictures (:mod:`bench.metrics.distribution`)."""

    spec = distribution.relative_fid

    def update(self, batch: Images, of: str = "features", drawn_by: Sequence[str | int] | None = None) -> None:
        """Add panoramas (``features``), pictures of the ``reference`` or single pictures of the ``base`` network."""
        if of not in self.spec.inputs:
            raise UsageError(f"unknown set {of!r}; {near(of, self.spec.inputs)}")
        self._add(of, batch, drawn_by)
