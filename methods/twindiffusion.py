"""TwinDiffusion: Enhancing Coherence and Efficiency in Panoramic Image Generation with Diffusion Models.

Zhou, Tang; ECAI 2024, arXiv:2404.19475, "Crop Fusion" and "Cross Sampling". Written from a description; the original
code (github.com/0606zt/TwinDiffusion) carries no licence and none of it is used. Equation numbers were not checked.
Defaults are that code's: 50 DDIM steps (eta 0), guidance 7.5, windows of 64 cells at a stride of 16, lambda 1, two view
sets. Preset ``sdxl`` is its SDXL setting: guidance 5, stride 32 of 128, DDIM (backbone option sampler=ddim), and the
whole panorama as the size that every window is told.

MultiDiffusion with two changes. Cross sampling: step i moves all views but the first and the last to the right by

    delta = (i mod c) floor(s / c),    c view sets, stride s.

Crop fusion, in the first half of the steps: going from left to right, the part of each stepped view z that lies under
its left neighbour p, itself fused already, is drawn towards it before all are averaged on the canvas,

    z  <-  argmin_z |p - z|^2 + lambda |z - z_pre|^2  =  (p + lambda z_pre) / (1 + lambda).

At an infinite lambda, or ``fused=0``, nothing is drawn; with ``cross_time=1`` that is MultiDiffusion.

Limits and deviations:

* with exactly two views neither moves, yet the released code fuses the second as if it had, delta cells off (kept: it
  is in its numbers);
* rows: the released code goes through the views of all rows as one list, so that the first of a row is fused with the
  last of the row above, and with more than one view set it fails on most such canvases. Canvases higher than a window
  are refused by default, tall ones of a single column too; ``rows=official`` runs what the released code can run;
* loops are refused: the first and last view are the ends of an open canvas;
* a canvas that windows do not tile exactly is refused by default; preset ``official`` leaves the strip empty, as the
  released code. ``clamp`` is refused: fusion counts on equal strides;
* strides that would leave a gap between the first view and a moved second one are refused (an error there);
* an empty negative prompt is what the backbone makes of it (zeros on SDXL; not compared with the released code there);
* views of a step share network calls, schedulers that remember earlier steps are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import memoryless, sized
from methods.shared.windows import Window, gather, grid, merge, sides

ROWS = ("refuse", "official")


def crossed(windows: Sequence[Window], shift: int) -> list[Window]:
    """A view set: all windows but the first and the last moved to the right by ``shift`` cells."""
    return [*windows[:1], *(v._replace(x=v.x + shift) for v in windows[1:-1]), *windows[1:][-1:]]


def fuse(views: Tensor, stride: int, shift: int, lam: float) -> Tensor:
    """Draw the left part of each stepped view (n, c, h, w) towards the right part of the fused one before it."""
    fused, last = views.clone(), len(views) - 1
    for j in range(1, len(views)):
        offset = stride + shift if j == 1 else stride - shift if j == last else stride
        under = fused[j, ..., : views.shape[-1] - offset]
        under += (fused[j - 1, ..., offset:] - under) / (1 + lam)
    return fused


def twindiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    canvas: Tensor,
    windows: Sequence[Window],
    stride: int,
    *,
    cross_time: int = 2,
    lam: float = 1.0,
    fused: float = 0.5,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window).
        scheduler: fresh, timesteps set; one that keeps no history.
        canvas: initial noise.
        windows: the first view set, equal-sized windows from left to right at ``stride``.
        stride: cells between windows.
        cross_time: number of view sets.
        lam: weight of a view's own numbers in fusion against those of its neighbour; may be infinite.
        fused: share of the steps, from the first on, with fusion.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    size = (canvas.shape[-2], canvas.shape[-1])
    until = int(fused * len(scheduler.timesteps))
    for i, t in enumerate(scheduler.timesteps):
        shift = i % cross_time * (stride // cross_time)
        moved = crossed(windows, shift)
        views = gather(canvas, moved)
        views = scheduler.step(guided(scheduler.scale_model_input(views, t), t), t, views).prev_sample
        if i < until:
            views = fuse(views, stride, shift, lam)
        canvas = merge(views, moved, size)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


@method(
    "twindiffusion",
    family="latent",
    paper="Zhou and Tang, ECAI 2024, arXiv:2404.19475",
    licence="none (all rights reserved); written from a description",
    presets={"official": {"remainder": "zero", "rows": "official"}, "sdxl": {"guidance": 5.0}},
)
def twindiffusion(
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
    cross_time: int = 2,
    lam: float = 1.0,
    fused: float = 0.5,
    rows: str = "refuse",
) -> Tensor:
    """Denoise overlapping windows that move to and fro, and draw each towards its left neighbour early on.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows; none is a quarter of the window (the official 16 of 64, 32 of 128).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``refuse`` or ``zero`` (official).
        cross_time: c, the number of view sets taken in turn; 1 moves nothing.
        lam: lambda of the fusion, at least 0; 0 takes the neighbour's numbers, larger leaves a view more its own.
        fused: share of the steps with fusion, from the first on, 0 to 1.
        rows: canvases higher than a window: ``refuse``, or ``official`` (see the module's text).

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or scheduler do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError(
            "twindiffusion defines no loop: its first and last views are the ends of an open canvas; use "
            "multidiffusion or spotdiffusion, or a canvas with loop=false"
        )
    if rows not in ROWS:
        raise UsageError(f"unknown rows {rows!r}; {near(rows, ROWS)}")
    if cross_time < 1 or not lam >= 0 or not 0 <= fused <= 1:
        raise UsageError(
            f"cross_time must be at least 1, lam at least 0 and fused from 0 to 1; got {cross_time}, {lam} and {fused}"
        )
    if remainder == "clamp":
        raise UsageError("twindiffusion counts on equal strides between views: remainder=clamp breaks them; use refuse")
    height, width = cells(backbone, canvas)
    side, step = sides(backbone.window, window, stride, 4)
    windows = grid(height, width, side, step, remainder=remainder, factor=backbone.factor)
    _fits(windows, width, step, (cross_time - 1) * (step // cross_time), rows, backbone.factor)
    scheduler = backbone.scheduler(steps, (side, side))
    memoryless(scheduler, "twindiffusion")
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        # the whole panorama's size, whatever a view shows of it
        conditioning = sized(conditioning, [(0, 0)] * conditioning.rows, (height, width), backbone.factor)
        with backbone.meter.stage("denoise"):
            latents = twindiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, (height, width)),
                windows,
                step,
                cross_time=cross_time,
                lam=lam,
                fused=fused,
            )
        return picture(backbone, latents)


def _fits(windows: Sequence[Window], width: int, stride: int, shift: int, rows: str, factor: int) -> None:
    """Refuse what fusion and moving views cannot do; ``shift`` is the furthest a view moves."""
    side = windows[0].width
    if windows[-1].y > 0 and rows == "refuse":
        raise UsageError(
            f"twindiffusion fuses each view with the one on its left and defines one row of views: use a canvas "
            f"{side * factor} px high, or rows=official (row ends are fused with the next row's beginning, as in the "
            f"released code)"
        )
    if len(windows) > 1 and stride + shift > side:
        raise UsageError(
            f"views that move by {shift} cells leave a gap at a stride of {stride}: stride and move together must not "
            f"exceed the window, {side} cells; use a smaller stride or cross_time=1"
        )
    if max(v.x + v.width for v in crossed(windows, shift)) > width:
        raise UsageError(
            f"in a canvas of several rows the views at row ends would move {shift} cells past the right edge: use "
            f"cross_time=1, or a canvas one window high"
        )
