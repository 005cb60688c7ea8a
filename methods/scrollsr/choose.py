"""Which network a name stands for: FlashVSR or, frame by frame, any upscaler of single pictures."""

from __future__ import annotations

from typing import Any

from methods.scrollsr import files
from methods.scrollsr.protocol import FrameByFrame, VideoUpscaler
from methods.shared import upscaler


def of_video(model: str) -> bool:
    """Whether a name stands for a network of clips."""
    return model.partition(":")[0].startswith("flashvsr") and not model.endswith((".pth", ".safetensors"))


def identify(model: str) -> str:
    """The digest of a model's weights; nothing is loaded.

    Raises:
        UsageError: a name that stands for nothing.
        PrerequisiteError: weights that are not here; the message names the command.
    """
    return files.locate(model).digest if of_video(model) else upscaler.locate(model).digest


def load(model: str, device: Any, precision: str, dtype: Any) -> VideoUpscaler:
    """The network of a name, frozen; on the meta device without weights.

    Args:
        model: what :func:`methods.scrollsr.files.locate` or :func:`methods.shared.upscaler.locate` takes.
        precision: of networks of clips.
        dtype: of networks of single pictures.

    Raises:
        UsageError, PrerequisiteError: as those say.
    """
    meta = str(device) == "meta"
    if not of_video(model):
        return FrameByFrame(upscaler.blank(model) if meta else upscaler.load(upscaler.locate(model), device, dtype))
    from methods.scrollsr import flashvsr  # imports torch, and plans need identities only

    if meta:
        return flashvsr.blank(files.version_of(model)[0])
    return flashvsr.load(files.locate(model), device, precision)
