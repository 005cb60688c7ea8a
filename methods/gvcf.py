"""GVCF: Guided and Variance-Corrected Fusion with One-shot Style Alignment for Large-Content Image Generation.

Sun, Xian, Yao, Xu, Capriotti; AAAI 2025, arXiv:2412.12771. The original code (github.com/TitorX/GVCFDiffusion) is
CC BY-NC 4.0: none of it is used, and this is written from the method's equations; their numbers were not checked.
Defaults are that code's: windows of 64 cells at a stride of 48, guidance 7.5, no style alignment; 50 DDIM steps for GF,
1000 DDPM steps for VCF and GVCF (``steps_offset`` 0).

MultiDiffusion averages stepped windows equally. With w_i a map over window i, 1 at its centre c = size // 2 and falling
linearly with the distance from it,

    w(y, x) = 1 - |(y, x) - (c, c)| / sqrt(2 c^2),

``fusion=gf`` (guided fusion) steps by DDIM and takes  sum w_i x_i / sum w_i  over each cell. For a stochastic sampler
an average shrinks the noise, which windows draw independently. With mu_i and sigma the mean and deviation of window i's
step by DDPM (Ho et al. 2020, equations 6 and 7) and x_i = mu_i + sigma noise_i,

    J_{t-1} = rho x_mean + (1 - rho) mu_mean,    rho = sum w_i / sqrt(sum w_i^2)

has the mean of the mu_i and the variance sigma^2. ``fusion=gvcf`` takes both means with w, ``fusion=vcf`` with equal
weights, where rho is the square root of the number of windows over the cell. GF with equal weights is MultiDiffusion.

``slerp`` above 0 is one-shot style alignment: the initial noise is turned towards one window's noise, repeated over the
canvas, by that share of the angle between the two.

Presets ``gf``, ``vcf`` and ``gvcf`` are the released code's settings. Limits and deviations:

* the map is 0 in a window's top left corner, so that the canvas's cell (0, 0) has no weight and is 0, as in the
  released code (GF and GVCF);
* a canvas that whole strides do not fill is an error in the released code and refused in the presets. By default one
  more window is put flush with the edge (``remainder=clamp``), as few widths fit a stride of 48; the picture's record
  then says so (flag ``clamped-window``);
* GF steps by the backbone's own scheduler, which is DDIM on Stable Diffusion (SDXL: backbone option sampler=ddim);
* fewer than 1000 steps of VCF and GVCF are an option (``steps``), and no setting of the paper's;
* loops are refused: the paper defines none;
* noise comes from this benchmark's streams ``gvcf-step-0``, ... (all windows of a step in reading order) and
  ``gvcf-style``; the released code has its own order of draws. Windows of a step share network calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.canvas import cells, picture, start
from methods.sampling import reschedule, undrawn
from methods.windows import Window, add_up, gather, grid

FUSIONS = ("gf", "vcf", "gvcf")


def guidance_map(side: int) -> Tensor:
    """Weights (side, side) of a window's cells, float64: 1 at its centre, 0 in the top left corner."""
    import torch

    away = (torch.arange(side, dtype=torch.float64) - side // 2).square()
    weights: Tensor = 1 - ((away[:, None] + away) / (2 * max(side // 2, 1) ** 2)).sqrt()
    return weights


def aligned(canvas: Tensor, patch: Tensor, share: float) -> Tensor:
    """Noise (1, c, h, w) turned towards a patch of noise (1, c, side, side) repeated over it.

    Spherical interpolation, with one angle between the two for all of their numbers. ``share`` is 0 (the canvas) to 1
    (the repeated patch); sides of the canvas are multiples of the patch's.
    """
    repeated = patch.repeat(1, 1, canvas.shape[-2] // patch.shape[-2], canvas.shape[-1] // patch.shape[-1])
    angle = ((canvas * repeated).sum() / (canvas.norm() * repeated.norm())).acos()
    turned: Tensor = (((1 - share) * angle).sin() * canvas + (share * angle).sin() * repeated) / angle.sin()
    return turned


def posterior(scheduler: Any, prediction: Tensor, i: int, views: Tensor) -> tuple[Tensor, float]:
    """Mean and standard deviation of DDPM's step i (Ho et al. 2020, equations 6 and 7; their smaller variance).

    Args:
        scheduler: DDIM, timesteps set; asked for its schedule and for the clean latents of a prediction. The step leads
            to the next of its timesteps; the last one to clean latents, without noise.
        prediction: the network's answer on ``views``, of whatever type the scheduler is told.
    """
    t = scheduler.timesteps[i]
    kept = scheduler.alphas_cumprod
    now = float(kept[t])
    then = float(kept[scheduler.timesteps[i + 1]]) if i + 1 < len(scheduler.timesteps) else 1.0
    clean = scheduler.step(prediction, t, views).pred_original_sample
    ratio = now / then
    mean = (then**0.5 * (1 - ratio) * clean + ratio**0.5 * (1 - then) * views) / (1 - now)
    return mean, ((1 - then) * (1 - ratio) / (1 - now)) ** 0.5


def gvcf_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    windows: Sequence[Window],
    weights: Tensor,
    noise: Callable[[int], Tensor] | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with views (n, c, window, window).
        scheduler: fresh, timesteps set. DDIM where there is ``noise``.
        canvas: initial noise.
        windows: equal-sized windows.
        weights: (window, window), of :func:`guidance_map`, or ones for equal weights.
        noise: index of a step, the last excluded -> standard normal noise (n, c, window, window) for its windows in
            their order: DDPM with corrected variance. None: the scheduler's own step, plainly averaged.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    import torch

    size = (canvas.shape[-2], canvas.shape[-1])
    weights = weights.to(canvas)

    def total(views: Tensor) -> Tensor:
        return add_up(views, windows, size)

    flat = weights.expand(len(windows), 1, *weights.shape)
    sums, squares = total(flat), total(flat.square())
    share = torch.where(sums > 0, 1 / sums, 0.0)
    rho = torch.where(squares > 0, sums / squares.sqrt(), 0.0)

    last = len(scheduler.timesteps) - 1
    for i, t in enumerate(scheduler.timesteps):
        views = gather(canvas, windows)
        prediction = guided(scheduler.scale_model_input(views, t), t)
        if noise is None:
            canvas = share * total(weights * scheduler.step(prediction, t, views).prev_sample)
        else:
            mean, deviation = posterior(scheduler, prediction, i, views)
            canvas = share * total(weights * mean)
            if i < last:
                canvas = canvas + rho * share * deviation * total(weights * noise(i))
        if after_step is not None:
            after_step(i, canvas)
    return canvas


@method(
    "gvcf",
    family="latent",
    paper="Sun et al., AAAI 2025, arXiv:2412.12771",
    licence="CC BY-NC 4.0; written from the equations",
    presets={name: {"fusion": name, "remainder": "refuse"} for name in FUSIONS},
)
def gvcf(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    fusion: str = "gvcf",
    steps: int | None = None,
    guidance: float = 7.5,
    stride: int | None = None,
    window: int | None = None,
    remainder: str = "clamp",
    slerp: float = 0.0,
) -> Tensor:
    """Denoise overlapping windows together, weighing centres over edges and keeping the variance of the noise.

    Args:
        fusion: ``gf`` (guided, DDIM), ``vcf`` (variance-corrected, DDPM) or ``gvcf`` (both, DDPM).
        steps: sampling steps; none is 50 for ``gf`` and 1000 for the others.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows; none is three quarters of the window (the official 48 of 64).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``clamp`` one more window to the edge, ``refuse`` (the
            presets), or ``zero``.
        slerp: style alignment, 0 (none) to 1; above 0 the canvas must be whole windows.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or backbone do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("gvcf defines no loop; use multidiffusion or spotdiffusion, or a canvas with loop=false")
    if fusion not in FUSIONS:
        raise UsageError(f"unknown fusion {fusion!r}; {near(fusion, FUSIONS)}")
    height, width = cells(backbone, canvas)
    side = backbone.window if window is None else window
    step = max(1, side * 3 // 4) if stride is None else stride
    windows = grid(height, width, side, step, remainder=remainder, factor=backbone.factor)
    if not 0 <= slerp <= 1 or (slerp and (height % side or width % side)):
        raise UsageError(
            f"slerp must be from 0 to 1, got {slerp}, and above 0 the canvas must be whole windows of "
            f"{side * backbone.factor} px, got {canvas}"
        )
    if fusion == "gf":
        scheduler: Any = backbone.scheduler(50 if steps is None else steps, (side, side))
        undrawn(scheduler, "gvcf")
    else:
        scheduler = reschedule(backbone, "gvcf", "DDIMScheduler", 1000 if steps is None else steps, steps_offset=0)
    if remainder == "clamp" and any((v.x % step or v.y % step) for v in windows):
        backbone.meter.flag("clamped-window")
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            x = start(backbone, scheduler, noise, (height, width))
            shape = (len(windows), backbone.channels, side, side)
            if slerp:
                style = noise.normal("gvcf-style", (1, *shape[1:])).to(x)
                x = aligned(x, style * float(scheduler.init_noise_sigma), slerp)
            latents = gvcf_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                x,
                windows,
                torch.ones(side, side) if fusion == "vcf" else guidance_map(side),
                None if fusion == "gf" else lambda i: noise.normal(f"gvcf-step-{i}", shape).to(x),
            )
        return picture(backbone, latents)
