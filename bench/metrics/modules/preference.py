"""Preference and quality scorers as ``torchmetrics.Metric`` classes, like those of
:mod:`bench.metrics.modules.images`."""

from __future__ import annotations

from bench.metrics import aesthetic, preference
from bench.metrics.modules.images import _PerImage


class HPS(_PerImage):
    """Mean HPS v2 of the pictures (:func:`bench.metrics.preference.hps`); the extractor says which version."""

    higher_is_better = True
    spec, value = preference.hps, "hps"


class ImageReward(_PerImage):
    """Mean ImageReward of the pictures (:func:`bench.metrics.preference.image_reward`)."""

    higher_is_better = True
    spec, value = preference.image_reward, "image-reward"


class PickScore(_PerImage):
    """Mean raw PickScore of the pictures (:func:`bench.metrics.preference.pick_score`)."""

    higher_is_better = True
    spec, value = preference.pick_score, "pick-score"


class Aesthetic(_PerImage):
    """Mean LAION aesthetic rating (:func:`bench.metrics.aesthetic.clip_aesthetic`); the extractor says which head."""

    higher_is_better = True
    spec, value = aesthetic.clip_aesthetic, "clip-aesthetic"


class CLIPIQA(_PerImage):
    """Mean CLIP-IQA probability of a good photo (:func:`bench.metrics.aesthetic.clip_iqa`)."""

    higher_is_better = True
    spec, value = aesthetic.clip_iqa, "clip-iqa"
