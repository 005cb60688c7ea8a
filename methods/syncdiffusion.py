"""SyncDiffusion: Coherent Montage via Synchronized Joint Diffusions.

Lee, Kim, Kim, Sung; NeurIPS 2023, arXiv:2306.05178, section 4 and algorithm 1. The original code
(github.com/KAIST-Visual-AI-Group/SyncDiffusion) is MIT; none of it is used. Defaults are those of its sampling
function: 50 DDIM steps (eta 0), guidance 7.5, weight 20 with a decay of 0.95 a step, all 50 steps synchronised, windows
of 64 cells at a stride of 16.

A step of MultiDiffusion, before which windows are pulled towards the look of one of them, the anchor a (the middle of
the list of windows). With x_i window i of the canvas, clean(x) = DDIM's prediction of the end from the guided network,
D the decoder and L = LPIPS on pictures in [-1, 1],

    x_i  <-  x_i - w r^k  d/dx_i L( D(clean(x_i)), D(clean(x_a)) )        for i != a, at step k

The gradient is raw, taken through the decoder and the network; the anchor's picture is made once a step from the canvas
before anything moved; the network is then asked again at the moved windows, and those predictions are stepped and
averaged. Presets: ``function`` (the defaults), ``script`` (the repository's command: only the first 10 steps) and
``argparse`` (what the command line does if nothing is said: weight 0.1, decay 0.99, 40 steps, stride 8).

Deviations and limits:

* loops: the released code appends window / stride - 2 wrapped windows to a row, one fewer than an even cover takes;
  that is ``closure=official``, for canvases one window high. ``closure=ring`` puts wrapped windows at every stride;
* a loop is decoded without a seam (the released code decodes it as an open picture), canvases may be of any size that
  windows fit (it wants at least 512 px and multiples of eight strides), cells left over are refused by default;
* the network runs in the backbone's precision instead of under autocast, and there as here without loss scaling;
* at weight 0 nothing is pulled and nothing computed for it;
* on the embedded miniature the loss is its own ``world-lpips``, as the picture's record says (flag ``loss=...``). LPIPS
  is a mean over the picture: of the miniature's 64 cells each is pulled 64 times harder than of the 4,096 of Stable
  Diffusion, so that 20 / 64, about 0.3, is what the paper's weight is there; 20 leaves blots;
* the raw gradient amplifies rounding: pictures of the miniature in float32 differ to the eye in places with another
  ``batch``, and so they may on another device. The golden cases in float64 stay within 1e-9.

Memory: blocks of the network are recomputed in the backward pass, ``batch`` windows of the backbone at a time, and
decoder and loss see one window of 512 px at a time, or as many smaller ones as cover it. Counted on the meta device
(:mod:`bench.pipeline.meta`), SD 2.0 at fp16 on 512 x 5120 px peaks at 11.5 GB, weights included; that peak is the last
decoding, as of MultiDiffusion. Workspaces of libraries come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.gradients import LPIPS_MIN, checkpointing, needs_ddim, perceptual_loss
from methods.shared.windows import Window, gather, grid, merge, sides

CLOSURES = ("official", "ring")
SQUARE = 512 * 512  # px whose way through decoder and loss is in memory at once


def syncdiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    windows: Sequence[Window],
    *,
    weight: float = 20.0,
    decay: float = 0.95,
    threshold: int = 50,
    frequency: int = 1,
    anchor: int | None = None,
    chunk: int = 16,
    decoded: int = 1,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window); differentiable.
        decode: latents (n, c, h, w) -> pictures in [0, 1]; differentiable.
        loss: pictures (n, 3, H, W) in [-1, 1] and the anchor's (1, 3, H, W) -> (n,); differentiable.
        scheduler: DDIM, timesteps set.
        canvas: initial noise.
        windows: equal-sized windows.
        weight, decay: windows move against the gradient by ``weight * decay**step`` times its length.
        threshold, frequency: synchronised are steps 0 to ``threshold`` - 1 and of those every ``frequency``-th, at
            frequency 2 the second, fourth, ...
        anchor: index of the window the others follow; the middle of the list if None.
        chunk: windows whose way through the network is in memory at once.
        decoded: windows whose way through decoder and loss is in memory at once.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    import torch

    size = (canvas.shape[-2], canvas.shape[-1])
    middle = len(windows) // 2 if anchor is None else anchor

    def clean(views: Tensor, t: Tensor) -> Tensor:
        ended: Tensor = scheduler.step(guided(views, t), t, views).pred_original_sample
        return ended

    def pull(views: Tensor, t: Tensor, target: Tensor) -> Tensor:
        with torch.enable_grad():
            views = views.detach().requires_grad_()
            ends = clean(views, t)
            slopes = []
            for end in torch.split(ends.detach(), decoded):
                end.requires_grad_()
                slopes.append(torch.autograd.grad(loss(2 * decode(end) - 1, target).sum(), end)[0])
            return torch.autograd.grad(ends, views, torch.cat(slopes))[0]

    for i, t in enumerate(scheduler.timesteps):
        views = gather(canvas, windows)
        strength = weight * decay**i
        if strength and i < threshold and (i + 1) % frequency == 0:
            with torch.no_grad():
                target = 2 * decode(clean(views[middle : middle + 1], t)) - 1
            pulls = torch.cat([pull(some, t, target) for some in torch.split(views, chunk)])
            pulls[middle] = 0
            views = views - strength * pulls
        views = scheduler.step(guided(views, t), t, views).prev_sample
        canvas = merge(views, windows, size)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


def closing(windows: Sequence[Window], width: int, window: int, stride: int) -> list[Window]:
    """Windows of a row of cells, and the wrapped ones with which the released code closes the loop.

    Raises:
        UsageError: more than one row of windows, or a stride at which nothing would be wrapped.
    """
    if len({v.y for v in windows}) > 1:
        raise UsageError(
            "closure=official closes a loop of one row of windows: use a canvas as high as a window, or closure=ring"
        )
    if window % stride or window // stride < 3:
        fits = ", ".join(str(s) for s in range(1, window // 3 + 1) if window % s == 0)
        raise UsageError(
            f"closure=official appends window/stride - 2 wrapped windows, none at a stride of {stride} cells for a "
            f"window of {window}; strides that close the loop: {fits or 'none'}. Or use closure=ring"
        )
    ends = [width - window + (j + 1) * stride for j in range(window // stride - 2)]
    return [*windows, *(Window(windows[0].y, x, window, window) for x in ends)]


@method(
    "syncdiffusion",
    family="latent",
    paper="Lee et al., NeurIPS 2023, arXiv:2306.05178",
    licence="MIT; written from the equations",
    optimises=("lpips-vgg",),
    presets={
        "function": {},
        "script": {"threshold": 10},
        "argparse": {"weight": 0.1, "decay": 0.99, "threshold": 40, "stride": 8},
    },
)
def syncdiffusion(
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
    weight: float = 20.0,
    decay: float = 0.95,
    threshold: int = 50,
    frequency: int = 1,
    closure: str = "official",
    loss: str | None = None,
) -> Tensor:
    """Denoise overlapping windows together, pulling their looks towards the middle one's by a perceptual gradient.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows; none is a quarter of the window (the official 16 of 64).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``refuse``, ``zero`` (they stay empty) or ``clamp``.
        weight: how far windows move along the gradient in the first step; 0 is MultiDiffusion.
        decay: by what the weight is multiplied after every step.
        threshold: how many steps, from the first on, are synchronised.
        frequency: every how many of them.
        closure: wrapped windows of a loop canvas, ``official`` or ``ring`` (see the module's text).
        loss: the perceptual network, an extractor of role lpips; none is the paper's ``lpips-vgg``, on the embedded
            miniature its stand-in ``world-lpips``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or backbone do not fit (see the module's text).
        PrerequisiteError: the loss network is not on this machine.
    """
    import torch

    height, width = cells(backbone, canvas)
    side, step = sides(backbone.window, window, stride, 4)
    if closure not in CLOSURES:
        raise UsageError(f"unknown closure {closure!r}; {near(closure, CLOSURES)}")
    if frequency < 1:
        raise UsageError(f"frequency must be at least 1 (every step), got {frequency}")
    if side * backbone.factor < LPIPS_MIN:
        raise UsageError(
            f"LPIPS compares windows of at least {LPIPS_MIN} px, this one is {side * backbone.factor} px: "
            f"ask for window={-(-LPIPS_MIN // backbone.factor)} cells or more"
        )
    ring = canvas.loop and closure == "ring"
    windows = grid(height, width, side, step, remainder=remainder, loop=ring, factor=backbone.factor)
    if canvas.loop and not ring:
        windows = closing(windows, width, side, step)
    scheduler = backbone.scheduler(steps, (side, side))
    needs_ddim(scheduler, "syncdiffusion")
    distance = perceptual_loss(loss or ("world-lpips" if backbone.name == "world-sd" else "lpips-vgg"), backbone)
    with torch.no_grad(), checkpointing(backbone, "syncdiffusion"):
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = syncdiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                backbone.decode,
                distance,
                scheduler,
                start(backbone, scheduler, noise, (height, width)),
                windows,
                weight=weight,
                decay=decay,
                threshold=threshold,
                frequency=frequency,
                chunk=backbone.batch,
                decoded=max(1, SQUARE // (side * backbone.factor) ** 2),
            )
        return picture(backbone, latents, canvas.loop)
