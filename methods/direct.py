"""Plain sampling straight at the canvas: the control every panorama method is measured against.

The network is simply asked for a canvas of another shape than the squares it was trained on. No paper; the
procedure is diffusers' ``StableDiffusionPipeline`` (Apache-2.0) with the scheduler of :meth:`LatentBackbone.scheduler`,
to which results are equal at equal noise. Steps 50 and guidance 7.5 are that pipeline's defaults. The presets are the
steps and guidance of the other families: their pipelines' defaults in diffusers, for FLUX.1-Krea-dev its model card's.

Deviations: all noise comes from this benchmark's streams, that of schedulers which draw in their steps (DDPM, LCM) too;
no safety checker.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.canvas import cells, picture, start
from methods.sampling import keyed


def direct_latents(guided: Callable[[Tensor, Tensor], Tensor], scheduler: Scheduler, x: Tensor) -> Tensor:
    """Run all steps on latents (n, c, h, w). ``guided(x, t)`` is the guided network."""
    for t in scheduler.timesteps:
        x = scheduler.step(guided(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


@method(
    "direct",
    family="latent",
    paper="no paper; as diffusers' StableDiffusionPipeline",
    licence="Apache-2.0",
    presets={
        "sdxl": {"steps": 50, "guidance": 5.0},
        "sd35": {"steps": 28, "guidance": 7.0},
        "flux": {"steps": 28, "guidance": 3.5},
        "krea": {"steps": 28, "guidance": 4.5},
        "pixart": {"steps": 20, "guidance": 4.5},
    },
)
def direct(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 50, guidance: float = 7.5
) -> Tensor:
    """Ask the network for the whole canvas at once; it repeats itself where the canvas outgrows its squares.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale, 1 is none; on FLUX the network's guidance input.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: a loop canvas (nothing here ties the edges together), sides that do not fill whole cells or that go
            beyond the network's positions.
    """
    import torch

    if canvas.loop:
        raise UsageError(
            "direct cannot make a loop: its edges never meet; use multidiffusion, or a canvas with loop=false"
        )
    size = cells(backbone, canvas)
    scheduler = keyed(backbone.scheduler(steps, size), noise)
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = direct_latents(
                lambda x, t: backbone.guided(x, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, size),
            )
        return picture(backbone, latents)
