"""Plain sampling at PixArt's nearest listed size, resized and cropped to the canvas: what its pipelines do by default.

No paper; the procedure is ``use_resolution_binning=True`` of diffusers' ``PixArtSigmaPipeline`` (Apache-2.0), whose
tables and whose resizing are used as they are. The table belongs to the network's native side (256, 512, 1024 or 2048
px) and holds shapes of about as many pixels, from 1:4 to 4:1; the one of the nearest height / width is sampled. The
picture is enlarged (bilinear) until it covers the canvas, and cut to its middle. So 4096x512 is made at 2048x512, twice
enlarged, with half of it cut off, and ``direct`` is what the same network does when asked for the canvas itself.

Defaults: 20 steps, guidance 4.5, that pipeline's. Deviation: pictures are cut to [0, 1] before they are resized, not
after; captions as on the backbone.
"""

from __future__ import annotations

from typing import Any

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.direct import direct

PIPELINE = "diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma"
TABLES = {
    256: "ASPECT_RATIO_2048_BIN",
    128: "ASPECT_RATIO_1024_BIN",
    64: "ASPECT_RATIO_512_BIN",
    32: "ASPECT_RATIO_256_BIN",
}


def nearest_bin(window: int, canvas: Canvas) -> Canvas:
    """The size that PixArt's pipeline samples for a canvas; ``window`` is the native side in cells of 8 px."""
    import importlib

    from diffusers.image_processor import PixArtImageProcessor

    table: Any = getattr(importlib.import_module(PIPELINE), TABLES[window])
    height, width = PixArtImageProcessor.classify_height_width_bin(canvas.height, canvas.width, ratios=table)
    return Canvas(width, height)


@method(
    "direct-binned",
    family="latent",
    paper="no paper; as diffusers' PixArtSigmaPipeline with resolution binning",
    licence="Apache-2.0",
)
def direct_binned(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 4.5
) -> Tensor:
    """Sample PixArt at its nearest listed size, then resize and crop, as its pipeline does unasked.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale, 1 is none.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: a loop canvas, or a network that has no such table.
    """
    from diffusers.image_processor import PixArtImageProcessor

    if canvas.loop:
        raise UsageError("direct-binned cannot make a loop: it crops; use multidiffusion, or a canvas with loop=false")
    network = type(getattr(backbone, "transformer", None)).__name__
    if not network.startswith("PixArt") or backbone.window not in TABLES:
        sides = ", ".join(map(str, sorted(TABLES)))
        raise UsageError(
            f"direct-binned takes its sizes from PixArt's tables, for native sides of {sides} cells; "
            f"{backbone.name} has none: use direct, or backbone pixart-sigma"
        )
    made = direct.fn(backbone, prompt, nearest_bin(backbone.window, canvas), noise, steps=steps, guidance=guidance)
    fitted: Tensor = PixArtImageProcessor.resize_and_crop_tensor(made[None], canvas.width, canvas.height)[0]
    return fitted
