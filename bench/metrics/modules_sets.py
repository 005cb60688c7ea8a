"""The set metrics as ``torchmetrics.Metric`` classes, on the functions of :mod:`bench.metrics.distribution`.

States hold feature rows, never pixels. Without an extractor, ``update`` takes rows instead of pictures.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bench import extractors, registry, views
from bench.errors import UsageError, near
from bench.metrics import distribution
from bench.metrics.modules import Images, to_rgb
from bench.types import Canvas


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

    def __init__(
        self, extractor: str | extractors.Extractor | None = None, *, view: str = "whole", device: str = "cpu",
        **knobs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extractor = extractors.load(extractor, device) if isinstance(extractor, str) else extractor
        self.view, self.knobs = view, self.spec.resolve(knobs)
        views.parse(view)
        for name in self.spec.inputs:
            self.add_state(name, [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """The number of everything added so far, a float64 scalar. Raises ``UsageError`` with too few rows."""
        sets = {n: dim_zero_cat(s).cpu().numpy() if len(s := getattr(self, n)) else None for n in self.spec.inputs}
        if empty := [n for n, rows in sets.items() if rows is None]:
            raise UsageError(f"{self.spec.name}: no rows of {' and '.join(empty)} yet; call update first")
        return torch.tensor(self.spec.fn(*sets.values(), **self.knobs)[self.spec.name], dtype=torch.float64)

    def _add(self, name: str, batch: Images) -> None:
        if self.extractor is None:
            rows = batch if isinstance(batch, Tensor) else torch.from_numpy(np.asarray(batch))
        else:
            cut = [c for p in to_rgb(batch) for c in self._crops(p)]
            features = self.extractor.embed(cut)
            rows = torch.from_numpy(self.extractor.logits(features) if name == "logits" else features)
        getattr(self, name).append(rows.to(self.device))

    def _crops(self, rgb: np.ndarray) -> list[np.ndarray]:
        return views.crops(rgb, self.view, Canvas(rgb.shape[1], rgb.shape[0]))


class _Distance(_PerSet):
    def update(self, batch: Images, real: bool) -> None:
        """Add to the reference (``real``) or to the candidates.

        ``batch`` is (n, d) features without an extractor; pictures, as :meth:`bench.metrics.GSD.update` takes them,
        with one.
        """
        self._add("reference" if real else "features", batch)


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

    def update(self, batch: Images) -> None:
        """Add pictures with an extractor, (n, classes) logits without."""
        self._add("logits", batch)


class RelativeFID(_PerSet):
    """FID of panoramas minus FID of their base network's own pictures (:mod:`bench.metrics.distribution`)."""

    spec = distribution.relative_fid

    def update(self, batch: Images, of: str = "features") -> None:
        """Add panoramas (``features``), pictures of the ``reference`` or single pictures of the ``base`` network."""
        if of not in self.spec.inputs:
            raise UsageError(f"unknown set {of!r}; {near(of, self.spec.inputs)}")
        self._add(of, batch)
