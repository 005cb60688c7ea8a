"""From a canvas in pixels to latents and back: what every latent sampler does first and last."""

from __future__ import annotations

from bench.errors import UsageError
from bench.noise import Noise
from bench.types import Canvas
from methods.backbones import LatentBackbone, Scheduler, Tensor, VideoBackbone

SEAM = 8  # cells of the opposite side decoded along at each end of a loop; more than a decoder's blur at the seam


def cells(backbone: LatentBackbone | VideoBackbone, canvas: Canvas) -> tuple[int, int]:
    """(height, width) of a canvas in latent cells. Raises ``UsageError`` where pixels do not fill whole tokens."""
    f = backbone.factor * backbone.patch
    for side, pixels in (("height", canvas.height), ("width", canvas.width)):
        if pixels % f:
            low, high = pixels // f * f, (pixels // f + 1) * f
            fits = f"{low} or {high}" if low else str(high)
            raise UsageError(
                f"{backbone.name} works in cells of {f} px: the canvas {side} must be a multiple of {f}, "
                f"got {pixels}; nearest: {fits}"
            )
    return canvas.height // backbone.factor, canvas.width // backbone.factor


def start(
    backbone: LatentBackbone | VideoBackbone, scheduler: Scheduler, noise: Noise, size: tuple[int, ...]
) -> Tensor:
    """The initial canvas (1, channels, *size): stream ``canvas`` of the noise, scaled as the scheduler wants it.

    Every latent method starts from these numbers, drawn on the CPU, whatever the device.
    """
    drawn = noise.normal("canvas", (1, backbone.channels, *size)).to(backbone.device, backbone.dtype)
    return drawn * float(scheduler.init_noise_sigma)


def picture(backbone: LatentBackbone, latents: Tensor, loop: bool = False) -> Tensor:
    """Decode a canvas (1, c, h, w) in one piece to (3, H, W) in [0, 1].

    A loop is decoded with a margin of the opposite side at each end, which is then cut off, so that the decoder sees
    no edge where there is none.
    """
    import torch

    if not loop:
        return backbone.decode(latents)[0]
    pad = min(SEAM, latents.shape[-1])
    wide = torch.cat([latents[..., -pad:], latents, latents[..., :pad]], dim=-1)
    cut = pad * backbone.factor
    return backbone.decode(wide)[0, :, :, cut:-cut]
