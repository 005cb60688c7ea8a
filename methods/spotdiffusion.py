"""SpotDiffusion: A Fast Approach For Seamless Panorama Generation Over Time.

Frolov, Moser, Dengel; WACV 2025, arXiv:2407.15507. Written from a description; the original code
(github.com/stanifrolov/spotdiffusion) carries no licence and none of it is used. Equation numbers were not checked.
Defaults are that code's: 50 DDIM steps (eta 0), guidance 7.5, windows of the network's native size (64 cells).

Windows stand side by side without overlap, so every cell is denoised once a step. After every step i, the last one
included, the canvas turns to the left by a random number of columns,

    J_{t-1}(y, x) = step(J_t)(y, (x + c_i) mod w),    c_i uniform in 0 .. w - 1,

so that the seams of one step fall inside windows of the next. Turns add up and are never undone: the picture is the
canvas turned by their sum. At shifts of 0 it is MultiDiffusion at a stride of one window.

While it is sampled the canvas is a ring, whatever becomes of it. On an open canvas the released code's decoder then
sees two open edges; a loop canvas is decoded without a seam here (the one deviation where ``loop`` is asked for).

Limits and deviations:

* only columns are turned: on canvases higher than a window, rows of windows never meet and their seams stay (as in the
  released code; flag ``rows-not-joined`` in the picture's record);
* a canvas that windows do not tile exactly is refused by default. The released code leaves the strip at the right and
  bottom uncovered: zero when the step is taken, and then turned into the picture (``remainder=zero``, as in the preset
  ``official``). ``clamp`` puts one more window flush with the edge, and cells under two windows are averaged;
* shifts come from this benchmark's stream ``spot-shifts``, one for each step; the released code draws them from torch's
  global generator. The windows of a step share network calls;
* schedulers that remember earlier steps are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import memoryless
from methods.shared.windows import Window, gather, grid, merge


def spotdiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    canvas: Tensor,
    windows: Sequence[Window],
    shifts: Sequence[int],
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window).
        scheduler: fresh, timesteps set; one that keeps no history.
        canvas: initial noise.
        windows: equal-sized windows at a stride of their size, from :func:`methods.shared.windows.grid`.
        shifts: columns the canvas turns to the left after each step, as many as there are steps.
        after_step: called with (index of the step, canvas after it and its turn).

    Returns:
        The final latents (1, c, h, w), turned, before scaling and decoding.
    """
    size = (canvas.shape[-2], canvas.shape[-1])
    for i, (t, shift) in enumerate(zip(scheduler.timesteps, shifts, strict=True)):
        views = gather(canvas, windows)
        views = scheduler.step(guided(scheduler.scale_model_input(views, t), t), t, views).prev_sample
        canvas = merge(views, windows, size).roll(-shift, -1)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


@method(
    "spotdiffusion",
    family="latent",
    paper="Frolov et al., WACV 2025, arXiv:2407.15507",
    licence="none (all rights reserved); written from a description",
    presets={"official": {"remainder": "zero"}},
)
def spotdiffusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    window: int | None = None,
    remainder: str = "refuse",
) -> Tensor:
    """Denoise windows side by side, and turn the canvas by a random number of columns after every step.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        window: side of a window in cells, and the stride; none is the network's native size.
        remainder: cells that whole windows do not reach: ``refuse``, ``zero`` (official) or ``clamp``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas or scheduler do not fit (see the module's text).
    """
    import torch

    height, width = cells(backbone, canvas)
    side = backbone.window if window is None else window
    windows = grid(height, width, side, side, remainder=remainder, loop=canvas.loop, factor=backbone.factor)
    scheduler = backbone.scheduler(steps, (side, side))
    memoryless(scheduler, "spotdiffusion")
    if windows[-1].y > 0:
        backbone.meter.flag("rows-not-joined")
    turns = noise.generator("spot-shifts").integers(0, width, size=len(scheduler.timesteps)).tolist()
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = spotdiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, (height, width)),
                windows,
                turns,
            )
        return picture(backbone, latents, canvas.loop)
