"""The image metrics as ``torchmetrics.Metric`` classes: ``update``, ``compute``, ``reset``, ``higher_is_better``.

They call the very functions the harness calls. States hold numbers, never pixels; pictures a number is undefined for
are counted in ``undefined`` and left out of the mean, which is NaN when nothing is left. Distances between sets are in
:mod:`bench.metrics.modules_sets`, preference scores in :mod:`bench.metrics.modules_preference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from bench import extractors, registry, views
from bench.errors import UsageError
from bench.metrics import alignment, coherence, gsd, panollama, style
from bench.pictures import levels
from bench.sample import Sample
from bench.types import Canvas, Prompt

Images = Tensor | Sequence[np.ndarray]


def to_rgb(images: Images) -> list[np.ndarray]:
    """uint8 (h, w, 3) arrays from a (n, 3, h, w) tensor, uint8 or float in [0, 1], or from such arrays themselves."""
    if not isinstance(images, Tensor):
        return list(images)
    images = images.detach()
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"expected pictures of shape (n, 3, h, w), got {tuple(images.shape)}")
    if images.is_floating_point():
        low, high = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
        if not (low >= 0 and high <= 1):
            raise UsageError(f"float pictures must lie in [0, 1], got [{low:g}, {high:g}]; scale them or pass uint8")
        return list(levels(images.permute(0, 2, 3, 1)))
    if images.dtype != torch.uint8:
        raise UsageError(f"expected uint8 or float pictures, got {images.dtype}")
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


def draws(view: str, drawn_by: Sequence[str | int] | None, count: int) -> list[str]:
    """What a view draws the place of each of ``count`` pictures from (:func:`bench.views.drawn_by`).

    Raises:
        UsageError: a view that draws, and not one prompt id (``random``) or turn (``random-2023``) a picture. Turns are
            not counted here: a process knows its own pictures only.
    """
    name, _ = views.parse(view)
    if name not in views.DRAWN:
        return [""] * count
    said = [] if drawn_by is None or isinstance(drawn_by, str) else [str(d) for d in drawn_by]
    if len(said) != count or (name == "random-2023" and not all(d.isdecimal() for d in said)):
        wanted = "the turn of each picture in its set, from 0" if name == "random-2023" else "one prompt id a picture"
        raise UsageError(f"view {view!r} draws its places: expected drawn_by, {wanted}; got {drawn_by!r}")
    return said


class _PerImage(Metric):  # type: ignore[misc]
    """Mean of one value of an image metric over pictures.

    Args:
        extractor: a name or ``ROLE@FOLDER`` (:mod:`bench.extractors`), or a loaded extractor; None takes the default
            of the metric's role (``dinov2-vitb14``), whose weights must be there.
        view: where to look; default the metric's own.
        loop: the pictures' left and right edges meet.
        device: where a named extractor runs.
        knobs: the metric's own.

    Raises:
        UsageError: an extractor of another role, an unknown view or knob.
        PrerequisiteError: the extractor's weights are not here; the message has the command that fetches them.
    """

    is_differentiable = False
    full_state_update = False
    spec: ClassVar[registry.Metric]
    value: ClassVar[str]
    total: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(
        self, extractor: str | extractors.Extractor | None = None, *, view: str | None = None, loop: bool = False,
        device: str = "cpu", **knobs: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        extractor = extractor or extractors.default(str(self.spec.extractor), "full")
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

    def update(
        self, images: Images, prompts: Sequence[str] | None = None, drawn_by: Sequence[str | int] | None = None
    ) -> None:
        """Add pictures.

        Args:
            images: (n, 3, h, w) uint8 or any float in [0, 1], or a list of uint8 (h, w, 3).
            prompts: one text a picture, read by metrics of prompts; the others do without.
            drawn_by: where the view draws its places: one prompt id a picture (``random``), or its turn in the set of
                all processes, from 0 (``random-2023``).

        Raises:
            UsageError: other pictures, or too few prompts or places.
        """
        pictures = to_rgb(images)
        if prompts is None and self.spec.prompted:
            raise UsageError(f"{self.spec.name} reads prompts: expected one text a picture, got none")
        if prompts is not None and (isinstance(prompts, str) or len(prompts) != len(pictures)):
            raise UsageError(f"expected one text a picture, got {len(pictures)} pictures and {len(prompts)} texts")
        self._add(pictures, prompts, draws(self.view, drawn_by, len(pictures)))

    def compute(self) -> Tensor:
        """Mean over the pictures so far, a float64 scalar; NaN where there is none."""
        return self.total / self.count

    def _add(self, pictures: list[np.ndarray], texts: Sequence[str] | None, places: list[str]) -> None:
        for i, rgb in enumerate(pictures):
            canvas = Canvas(rgb.shape[1], rgb.shape[0], self.loop)
            prompt = Prompt(places[i], texts[i] if texts is not None else "")
            turn = int(places[i]) if places[i].isdecimal() else 0
            sample = Sample(rgb, prompt, canvas, extractor=self.extractor, view=self.view, turn=turn)
            found = {v.name: v.value for v in self.spec.fn(sample, **self.knobs) if v.index is None}[self.value]
            if found is None:
                self.undefined = self.undefined + 1
            else:
                self.total = self.total + found
                self.count = self.count + 1


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


class PanoramaTV(_PerImage):
    """Total variation of the whole panorama; lower is smoother (:mod:`bench.metrics.panollama`)."""

    higher_is_better = False
    spec, value = panollama.panollama, "pl-tv"


class SeamTV(_PerImage):
    """Step at seams beyond the step elsewhere; lower is smoother (:mod:`bench.metrics.panollama`)."""

    higher_is_better = False
    spec, value = panollama.panollama, "pl-tv-seam"


class StyleL(_PerImage):
    """Intra-Style-L, mean over pairs of crops; lower is more coherent (:mod:`bench.metrics.style`)."""

    higher_is_better = False
    spec, value = style.intra_style, "intra-style"


class StyleLSum(_PerImage):
    """Intra-Style-L summed over pairs, as SyncDiffusion's released script has it; grows with the panorama."""

    higher_is_better = False
    spec, value = style.intra_style, "intra-style-sum"


class CLIPScore(_PerImage):
    """Mean over pictures of the mean CLIPScore of their crops; floored at 0 as torchmetrics does."""

    higher_is_better = True
    spec, value = alignment.clip_score, "clip-score"

    def compute(self) -> Tensor:
        """Mean over the pictures so far, at least 0; NaN where there is none."""
        return super().compute().clamp(min=0)
