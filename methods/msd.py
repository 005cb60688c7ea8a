"""Multi-Scale Diffusion (MSD): a coarse canvas is denoised first and guides the fine one.

Zhang, Zhou, Zhang, Wei, Tang; arXiv:2410.18830 (first version), section 3.2, equations 7 to 9, and algorithm 1. No code
was released. Written from the paper; defaults are its section 4.1 where it says: two scales, windows of 64 cells at a
stride of 32, weight 10, cosine decay, guidance from T down to 0.7 T.

With ds halving both sides (bilinear: the mean of 2 x 2 cells), Phi one guided sampling step, F_i cutting window i out
and F'_i the same region out of the canvas of half the size, a step at time t is

    z_t^(s-1) = ds(z_t^s)                                       down from the canvas z_t^S
    z_(t-1)^1 = MultiDiffusion step of z_t^1
    x_i = F_i(z_t^s),    x'_i = x_i - w_t grad || ds(Phi(x_i)) - F'_i(z_(t-1)^(s-1)) ||^2,      s = 2 .. S      (9)
    z_(t-1)^s = average over each cell of all Phi(x'_i)

with w_t = w (1 + cos(pi k / K)) / 2 at step k of K, for the first 30 % of the steps; after them it is MultiDiffusion.
One scale, or weight 0, is MultiDiffusion throughout.

What the paper leaves open, and what is done here (proposals of this benchmark, marked as such):

* steps and guidance: 50 DDIM steps and 7.5, as MultiDiffusion (proposal);
* the norm: equation 9 is a squared norm, the text speaks of the mean squared error. ``norm=sum`` (default) is the sum
  over channels and cells of a window, ``norm=mean`` the mean, 4096 times less at windows of 64 cells. Where Phi is the
  identity a sum multiplies the residual by 1 - w/2 a step: exact at 2, unstable beyond 4, yet the paper's best is 10;
  at the mean 10 does next to nothing. Seen on the embedded miniature at 256 x 64 px: sum at 10 gives the coarse canvas'
  layout (two prompts), sum at 2 and mean at 10 little or nothing of it (one prompt). ``norm=polyak`` (proposal) takes
  the step length from the gradient g itself, (w_t / w) |residual|^2 / |g|^2 for each window, which halves the residual
  where Phi is linear; ``weight`` then only switches guidance on (above 0);
* the noise of the coarse canvas: the mean of four halves its deviation, so ds(z_t) has less noise than the network
  expects at t. ``ds_noise=keep`` is the paper; ``ds_noise=renorm`` (proposal) adds the missing three quarters of the
  variance before the coarse step, one fixed draw for each scale, and takes out what DDIM leaves of it after the step;
* "t from T to 0.7 T" is read as the first 30 % of the steps, by count; the coarse canvas is not computed after them.

Limits: every scale must hold a window, so that two scales ask for canvases at least two windows high and wide (1024 px
for Stable Diffusion); loops are refused, as the paper defines none, and so are uncovered strips (``remainder=zero``),
which would guide towards zero.

Memory: blocks of the network are recomputed in the backward pass, ``batch`` windows of the backbone at a time. Counted
on the meta device (:mod:`bench.pipeline.meta`), SD 2.0 at fp16 on 1024 x 4096 px peaks at 16.3 GB, weights included;
that peak is the last decoding, as of MultiDiffusion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.gradients import checkpointing, needs_ddim
from methods.shared.windows import Window, gather, grid, merge, sides

NORMS = ("sum", "mean", "polyak")
DS_NOISES = ("keep", "renorm")


def halve(latents: Tensor) -> Tensor:
    """Bilinear down-sampling (n, c, h, w) -> (n, c, h/2, w/2): the mean of every 2 x 2 cells."""
    import torch

    return torch.nn.functional.avg_pool2d(latents, 2)


def msd_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    scales: Sequence[Sequence[Window]],
    *,
    weight: float = 10.0,
    until: float = 0.7,
    norm: str = "sum",
    extra: Sequence[Tensor] = (),
    chunk: int = 16,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window); differentiable.
        scheduler: DDIM, timesteps set.
        canvas: initial noise of the finest scale.
        scales: windows of every scale, coarsest first, the last one's on ``canvas`` itself; at even cells but on the
            coarsest.
        weight, until: w and tau / T of the paper.
        norm: ``sum``, ``mean`` or ``polyak``, see the module's text.
        extra: standard normal noise like the canvas of every scale but the last, to make up for the noise that
            down-sampling takes (``ds_noise=renorm``); empty to keep the canvas as it is.
        chunk: windows whose gradients are in memory at once.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    import torch

    def denoise(views: Tensor, t: Tensor) -> Tensor:
        stepped: Tensor = scheduler.step(guided(views, t), t, views).prev_sample
        return stepped

    def pull(views: Tensor, t: Tensor, target: Tensor, decay: float) -> Tensor:
        with torch.enable_grad():
            views = views.detach().requires_grad_()
            residual = (halve(denoise(views, t)) - target).square().sum((1, 2, 3))
            gradient = torch.autograd.grad(residual.sum(), views)[0]
        if norm == "polyak":
            length = gradient.square().sum((1, 2, 3))
            ratio = residual.detach() / torch.where(length > 0, length, 1)
            return decay * ratio[:, None, None, None] * gradient
        return weight * decay * gradient / (target[0].numel() if norm == "mean" else 1)

    steps = len(scheduler.timesteps)
    guided_steps = round((1 - until) * steps) if weight > 0 else 0
    for i, t in enumerate(scheduler.timesteps):
        levels, decay = [canvas], (1 + math.cos(math.pi * i / steps)) / 2
        made, left = _missing(scheduler, i) if extra else (0.0, 0.0)
        if i < guided_steps:
            for s in reversed(range(len(scales) - 1)):
                levels.insert(0, halve(levels[0]) + (made * extra[s] if extra else 0.0))
        for s, (z, windows) in enumerate(zip(levels, scales[-len(levels) :])):
            views = gather(z, windows)
            if s > 0:  # canvas is the next coarser scale at t - 1
                targets = gather(canvas, [Window(v.y // 2, v.x // 2, v.height // 2, v.width // 2) for v in windows])
                pairs = zip(torch.split(views, chunk), torch.split(targets, chunk))
                views = views - torch.cat([pull(x, t, y, decay) for x, y in pairs])
            canvas = merge(denoise(views, t), windows, (z.shape[-2], z.shape[-1]))
            if extra and s < len(levels) - 1:
                canvas = canvas - left * extra[s]
        if after_step is not None:
            after_step(i, canvas)
    return canvas


def _missing(scheduler: Any, i: int) -> tuple[float, float]:
    """Deviation of the noise that a mean of 2 x 2 cells lacks before and after step i: 3/4 of the variance."""
    t = int(scheduler.timesteps[i])
    then = t - scheduler.config.num_train_timesteps // len(scheduler.timesteps)
    after = scheduler.alphas_cumprod[then] if then >= 0 else scheduler.final_alpha_cumprod
    return (0.75 * (1 - float(scheduler.alphas_cumprod[t]))) ** 0.5, (0.75 * (1 - float(after))) ** 0.5


@method(
    "msd",
    family="latent",
    paper="Zhang et al., 2024, arXiv:2410.18830",
    licence="no code released; written from the paper",
    presets={"paper": {}, "polyak": {"norm": "polyak"}, "renorm": {"norm": "polyak", "ds_noise": "renorm"}},
)
def msd(
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
    scales: int = 2,
    weight: float = 10.0,
    until: float = 0.7,
    norm: str = "sum",
    ds_noise: str = "keep",
) -> Tensor:
    """Denoise a coarse canvas first and pull the windows of the fine one towards it by a gradient, early on.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows at every scale; none is half the window (the paper's 32 of 64).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``refuse``, or ``clamp`` one more window to the edge.
        scales: how many, each half the size of the next; 1 is MultiDiffusion.
        weight: w of the paper; 0 is MultiDiffusion.
        until: tau / T of the paper in [0, 1]: no guidance below this share of the steps to go.
        norm: of the residual, ``sum``, ``mean`` or ``polyak`` (see the module's text).
        ds_noise: noise lost in down-sampling, ``keep`` it so or ``renorm`` (see the module's text).

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or backbone do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("msd defines no loop; use multidiffusion or syncdiffusion, or a canvas with loop=false")
    for knob, value, known in (("norm", norm, NORMS), ("ds_noise", ds_noise, DS_NOISES)):
        if value not in known:
            raise UsageError(f"unknown {knob} {value!r}; {near(value, known)}")
    if weight < 0 or not 0 <= until <= 1:
        raise UsageError(f"weight must be at least 0 and until from 0 to 1, got {weight} and {until}")
    sizes, windows = _pyramid(backbone, canvas, window, stride, remainder, scales)
    side = windows[-1][0].width
    scheduler = backbone.scheduler(steps, (side, side))
    needs_ddim(scheduler, "msd")
    with torch.no_grad(), checkpointing(backbone, "msd"):
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            extra = [
                noise.normal(f"msd-scale-{s}", (1, backbone.channels, *size)).to(backbone.device, backbone.dtype)
                for s, size in enumerate(sizes[:-1])
                if ds_noise == "renorm"
            ]
            latents = msd_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, sizes[-1]),
                windows,
                weight=weight,
                until=until,
                norm=norm,
                extra=extra,
                chunk=backbone.batch,
            )
        return picture(backbone, latents)


def _pyramid(
    backbone: LatentBackbone, canvas: Canvas, window: int | None, stride: int | None, remainder: str, scales: int
) -> tuple[list[tuple[int, int]], list[list[Window]]]:
    """Sizes of the canvas in cells and windows of every scale, coarsest first, or the reason why there are none."""
    height, width = cells(backbone, canvas)
    side, step = sides(backbone.window, window, stride, 2)
    if scales < 1:
        raise UsageError(f"scales must be at least 1, got {scales}")
    fold = 2 ** (scales - 1)
    low = fold * side * backbone.factor
    if min(height, width) < fold * side:
        raise UsageError(
            f"msd with {scales} scales halves the canvas {scales - 1} times and the coarsest must still hold a window "
            f"of {side * backbone.factor} px: both sides must be at least {low} px, got {canvas.width} x "
            f"{canvas.height}"
        )
    if remainder == "zero":
        raise UsageError("msd cannot leave strips uncovered (remainder=zero), they would guide towards zero; use clamp")
    if scales > 1 and (side % 2 or step % 2 or height % fold or width % fold):
        raise UsageError(
            f"msd with {scales} scales halves windows and canvases: window and stride must be even, got {side} and "
            f"{step} cells; sides of the canvas multiples of {fold * backbone.factor} px, got {canvas}"
        )
    sizes = [(height // 2**k, width // 2**k) for k in reversed(range(scales))]
    grids = [
        grid(*size, side, step, remainder=remainder, factor=backbone.factor * 2**k)
        for size, k in zip(sizes, reversed(range(scales)))
    ]
    return sizes, grids
