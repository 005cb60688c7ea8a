"""Preference and quality scorers as ``torchmetrics.Metric`` classes, like those of :mod:`bench.metrics.modules`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import UsageError
from bench.metrics import aesthetic, preference
from bench.metrics.modules import Images, _PerImage, to_rgb


class _Prompted(_PerImage):
    higher_is_better = True

    def update(self, images: Images, prompts: Sequence[str]) -> None:  # type: ignore[override]
        """Add pictures, as :meth:`bench.metrics.GSD.update` takes them, with one prompt each."""
        pictures = to_rgb(images)
        if isinstance(prompts, str) or len(prompts) != len(pictures):
            raise UsageError(f"expected one prompt a picture, got {len(pictures)} pictures and {len(prompts)} prompts")
        self._add(pictures, prompts)


class HPS(_Prompted):
    """Mean HPS v2 of the pictures (:func:`bench.metrics.preference.hps`); the extractor says which version."""

    spec, value = preference.hps, "hps"


class ImageReward(_Prompted):
    """Mean ImageReward of the pictures (:func:`bench.metrics.preference.image_reward`)."""

    spec, value = preference.image_reward, "image-reward"


class PickScore(_Prompted):
    """Mean raw PickScore of the pictures (:func:`bench.metrics.preference.pick_score`)."""

    spec, value = preference.pick_score, "pick-score"


class Aesthetic(_PerImage):
    """Mean LAION aesthetic rating (:func:`bench.metrics.aesthetic.clip_aesthetic`); the extractor says which head."""

    higher_is_better = True
    spec, value = aesthetic.clip_aesthetic, "clip-aesthetic"


class CLIPIQA(_PerImage):
    """Mean CLIP-IQA probability of a good photo (:func:`bench.metrics.aesthetic.clip_iqa`)."""

    higher_is_better = True
    spec, value = aesthetic.clip_iqa, "clip-iqa"
