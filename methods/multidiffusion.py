"""MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation.

Bar-Tal, Yariv, Lipman, Dekel; ICML 2023, arXiv:2302.08113, section 3 (equations 3 to 5) and section 4.1 (panoramas).
Written from the equations; the original code (github.com/omerbt/MultiDiffusion) carries no licence and none of it is
used. Defaults are that code's: 50 DDIM steps (eta 0), guidance 7.5, windows of the network's native size (64 cells)
at a stride of an eighth of it (8 cells), equal weights, negative prompt from the prompt (empty there).

With F_i cutting window i out of the canvas J and Phi one guided sampling step of the network, each step solves

    J_{t-1} = argmin_J  sum_i || F_i(J) - Phi(F_i(J_t)) ||^2

whose solution for equal weights is the average, cell by cell, of all windows over the cell.

Preset ``official`` reproduces the released code to rounding, uncovered strips included. Deviations:

* a canvas that windows do not tile exactly is refused by default. The released code leaves the strip at the right
  and bottom uncovered, where it is zero from the first step on (``remainder=zero``, as in the preset ``official``);
  ``clamp`` puts one more window flush with the edge, which is neither. Where windows fit, all three are the same;
* a canvas lower or narrower than a window is refused; the released code returns zeros there;
* loop canvases: windows wrap round the right edge, as in diffusers' panorama pipeline with ``circular_padding``,
  also where there are several rows (that pipeline mixes up rows then);
* windows of a step share network calls, and the noise comes from this benchmark's streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.canvas import cells, picture, start
from methods.sampling import undrawn
from methods.windows import Window, gather, grid, merge, sides


def multidiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    canvas: Tensor,
    windows: Sequence[Window],
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window).
        scheduler: fresh, timesteps set. All windows take a step in one call, so a multistep solver would keep a
            history for each window; the paper's DDIM keeps none.
        canvas: initial noise.
        windows: equal-sized windows, e.g. from :func:`methods.windows.grid`.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    size = (canvas.shape[-2], canvas.shape[-1])
    for i, t in enumerate(scheduler.timesteps):
        views = gather(canvas, windows)
        views = scheduler.step(guided(scheduler.scale_model_input(views, t), t), t, views).prev_sample
        canvas = merge(views, windows, size)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


@method(
    "multidiffusion",
    family="latent",
    paper="Bar-Tal et al., ICML 2023, arXiv:2302.08113",
    licence="none (all rights reserved); written from the equations",
    presets={"official": {"remainder": "zero"}, "stride-16": {"stride": 16}},
)
def multidiffusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    stride: int | None = None,
    window: int | None = None,
    remainder: str = "refuse",
) -> Tensor:
    """Denoise overlapping windows of one canvas together, averaging them after every step.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows; none is an eighth of the window (the official 8 of 64). Later papers run it
            at 16 of 64 (preset ``stride-16``).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``refuse``, ``zero`` (official) or ``clamp``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where the canvas does not fit (see the module's text), or a scheduler
            draws in its steps.
    """
    import torch

    height, width = cells(backbone, canvas)
    side, step = sides(backbone.window, window, stride, 8)
    windows = grid(height, width, side, step, remainder=remainder, loop=canvas.loop, factor=backbone.factor)
    scheduler = backbone.scheduler(steps, (side, side))
    undrawn(scheduler, "multidiffusion")
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = multidiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, (height, width)),
                windows,
            )
        return picture(backbone, latents, canvas.loop)
