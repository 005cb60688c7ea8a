"""The metrics as ``torchmetrics.Metric`` classes: ``update``, ``compute``, ``reset``, ``higher_is_better``.

They call the very functions the harness calls. States hold numbers and features, never pixels; pictures a number is
undefined for are counted in ``undefined`` and left out of the mean, which is NaN when nothing is left.
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
from bench.errors import UsageError
from bench.metrics import alignment, coherence, distribution, gsd
from bench.sample import Sample
from bench.types import Canvas, Prompt

Images = Tensor | Sequence[np.ndarray]


def to_rgb(images: Images) -> list[np.ndarray]:
    """uint8 (h, w, 3) arrays from a (n, 3, h, w) tensor, uint8 or float in [0, 1], or from such arrays themselves."""
    if not isinstance(images, Tensor):
        return list(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"expected pictures of shape (n, 3, h, w), got {tuple(images.shape)}")
    if images.is_floating_point():
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise UsageError(f"float pictures must lie in [0, 1], got [{low:g}, {high:g}]; scale them or pass uint8")
        images = (images * 255).round().to(torch.uint8)
    elif images.dtype != torch.uint8:
        raise UsageError(f"expected uint8 or float pictures, got {images.dtype}")
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


class _PerImage(Metric):  # type: ignore[misc]
    """Mean of one value of an image metric over pictures.

    Args:
        extractor: a name or ``ROLE@FOLDER`` (:mod:`bench.extractors`), or a loaded extractor.
        view: where to look; default the metric's own.
        loop: the pictures' left and right edges meet.
        device: where a named extractor runs.
        knobs: the metric's own.
    """

    is_differentiable = False
    full_state_update = False
    spec: ClassVar[registry.Metric]
    value: ClassVar[str]
    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(
        self, extractor: str | extractors.Extractor, *, view: str | None = None, loop: bool = False,
        device: str = "cpu", **knobs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extractor = extractors.load(extractor, device) if isinstance(extractor, str) else extractor
        if self.spec.extractor != self.extractor.role:
            raise UsageError(
                f"{self.spec.name} needs an extractor of role {self.spec.extractor}, "
                f"{self.extractor.name!r} has role {self.extractor.role}"
            )
        self.view, self.loop, self.knobs = view or self.spec.view, loop, self.spec.resolve(knobs)
        views.parse(self.view)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, images: Images) -> None:
        """Add pictures: (n, 3, h, w) uint8 or float in [0, 1], or a list of uint8 (h, w, 3)."""
        self._add(to_rgb(images), None)

    def compute(self) -> Tensor:
        """Mean over the pictures so far, a float64 scalar; NaN where there is none."""
        return self.total / self.count

    def _add(self, pictures: list[np.ndarray], texts: Sequence[str] | None) -> None:
        for i, rgb in enumerate(pictures):
            canvas = Canvas(rgb.shape[1], rgb.shape[0], self.loop)
            prompt = Prompt("", texts[i] if texts is not None else "")
            sample = Sample(rgb, prompt, canvas, extractor=self.extractor, view=self.view)
            found = {v.name: v.value for v in self.spec.fn(sample, **self.knobs) if v.index is None}[self.value]
            if found is None:
                self.undefined += 1
            else:
                self.total += found
                self.count += 1


class GSD(_PerImage):
    """GSD-DINO: mean cosine between the parts of a panorama; lower is less repetitive (:mod:`bench.metrics.gsd`)."""

    higher_is_better = False
    spec, value = gsd.gsd_dino, "gsd-dino"


class GSDLPIPS(_PerImage):
    """GSD-LPIPS: mean LPIPS between the parts of a panorama; higher is more diverse (:mod:`bench.metrics.gsd`)."""

    higher_is_better = True
    spec, value = gsd.gsd_lpips, "gsd-lpips"


class IntraLPIPS(_PerImage):
    """Intra-LPIPS: mean LPIPS between the parts of a panorama; lower is more coherent (SyncDiffusion)."""

    higher_is_better = False
    spec, value = coherence.intra_lpips, "intra-lpips"


class AdjacentLPIPS(_PerImage):
    """Mean LPIPS between neighbouring crops; lower is more coherent (PanoLlama)."""

    higher_is_better = False
    spec, value = coherence.adjacent, "adjacent-lpips"


class AdjacentSSIM(_PerImage):
    """Mean SSIM between neighbouring crops; higher is more coherent (PanoLlama)."""

    higher_is_better = True
    spec, value = coherence.adjacent, "adjacent-ssim"


class AdjacentTV(_PerImage):
    """Mean absolute step across the borders of crops; lower is smoother (PanoLlama)."""

    higher_is_better = False
    spec, value = coherence.adjacent, "adjacent-tv"


class CLIPScore(_PerImage):
    """Mean over pictures of the mean CLIPScore of their crops; floored at 0 as torchmetrics does."""

    higher_is_better = True
    spec, value = alignment.clip_score, "clip-score"

    def update(self, images: Images, texts: Sequence[str]) -> None:  # type: ignore[override]
        """Add pictures with one text each."""
        pictures = to_rgb(images)
        if isinstance(texts, str) or len(texts) != len(pictures):
            raise UsageError(f"expected one text a picture, got {len(pictures)} pictures and {len(texts)} texts")
        self._add(pictures, texts)

    def compute(self) -> Tensor:
        """Mean over the pictures so far, at least 0; NaN where there is none."""
        return super().compute().clamp(min=0)


class _PerSet(Metric):  # type: ignore[misc]
    """A distance between two sets of features.

    Args:
        extractor: a name, ``ROLE@FOLDER`` or a loaded extractor to update with pictures; None to update with features.
        view: which crops of a picture are its rows (default ``whole``, squashed by the network as usual for FID).
        knobs: the metric's own.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    spec: ClassVar[registry.Metric]
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(
        self, extractor: str | extractors.Extractor | None = None, *, view: str = "whole", device: str = "cpu",
        **knobs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extractor = extractors.load(extractor, device) if isinstance(extractor, str) else extractor
        self.view, self.knobs = view, self.spec.resolve(knobs)
        views.parse(view)
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, batch: Images, real: bool) -> None:
        """Add to the reference (``real``) or to the candidates.

        ``batch`` is (n, d) features without an extractor; pictures, as :meth:`GSD.update` takes them, with one.
        """
        if self.extractor is None:
            rows = batch if isinstance(batch, Tensor) else torch.from_numpy(np.asarray(batch))
        else:
            cut = [c for p in to_rgb(batch) for c in views.crops(p, self.view, Canvas(p.shape[1], p.shape[0]))]
            rows = torch.from_numpy(self.extractor.embed(cut))
        (self.real if real else self.fake).append(rows.to(self.device))

    def compute(self) -> Tensor:
        """The distance of everything added so far, a float64 scalar. Raises ``UsageError`` with too few rows."""
        ours, reference = (
            dim_zero_cat(s).cpu().numpy() if len(s) else np.zeros((0, 1)) for s in (self.fake, self.real)
        )
        if not len(ours) or not len(reference):
            raise UsageError(f"nothing to compare: {len(ours)} rows, {len(reference)} of reference; call update first")
        return torch.tensor(self.spec.fn(ours, reference, **self.knobs)[self.spec.name], dtype=torch.float64)


class FID(_PerSet):
    """Fréchet distance of features (:func:`bench.metrics.distribution.frechet_distance`)."""

    spec = distribution.fid


class KID(_PerSet):
    """Unbiased kernel distance of features (:func:`bench.metrics.distribution.kernel_distance`)."""

    spec = distribution.kid
