"""DemoFusion: Democratising High-Resolution Image Generation With No $$$.

Du, Chang, Hospedales, Song, Ma; CVPR 2024, arXiv:2311.16973, section 3. Written from the equations and a description;
the original (github.com/PRIS-CV/DemoFusion) has no licence file (headers say Apache-2.0), diffusers' community copy of
it is Apache-2.0, and none of either is used. Equation numbers were not checked. Defaults are the original's: 50 steps,
guidance 5, windows of the native size at half of it, exponents 3, 1, 1, sigma 1. Its README runs guidance 7.5 and sigma
0.8 (preset ``readme``); its negative prompt is the prompt set's business here.

With S = longest side / native side, the picture is made S times, p = 1..S, the longest side p native sides long. p = 1
is plain sampling. For p > 1 the latents are upsampled (bicubic) to z, one noise n is drawn, x^_i = noised(z, n, t_i),
x = x^_0, and every step i at t, with c = (1 + cos(pi (T - t) / T)) / 2, does

    x <- (1 - c^a1) x + c^a1 x^_i                                         skip residual
    L = average of one step on overlapping windows, jittered at random     local paths
    G = one step on each of the p^2 subsamples (every p-th cell)           global paths, dilated
    x <- (1 - c^a2) L + c^a2 G

Global paths show the network the canvas blurred by a Gaussian of sigma (0.99 c^a3 + 0.01) cells, brought back to mean
and deviation, but step the canvas as it is. After a phase the latents get mean and deviation of phase 1's. On SDXL the
size conditioning is the final size, its crop corner that of the window on the canvas padded by the jitter.

``compat_scaling`` (default) reproduces the original's scaling of the network's input under Euler: its sigma is the next
step's for all calls of a step but the first, and the last one's, 0, for the first call of a phase. Which windows that
hits depends on ``view_batch``, so that is part of the recipe. ``compat_scaling=False`` scales as the sampler asks
(preset ``paper``); then ``view_batch`` changes nothing. Under DDIM inputs are not scaled and both are the same.

Limits and deviations:

* one side may be at most twice the other: phases above the first would have canvases lower than a window, where the
  original fails. The longest side must be whole native squares (it silently rounds down). Loops are refused;
* the shorter side of a phase is p / S of the canvas rounded down to whole cells, as there: on SDXL 3072x2048 px is made
  from 85, 170 and 256 rows. From 7 phases on, rounding of its aspect ratio makes some canvases there a cell lower than
  asked for; here they are as asked for;
* DDIM is accepted (the original's pipeline only runs on schedulers with a step index, such as Euler), flow matching and
  schedulers with a memory are not;
* noise of phase p comes from the stream ``demofusion-noise-p``, jitter from ``demofusion-jitter-p``; the original draws
  from three generators, one of them never seeded;
* the picture is decoded as there, in cores of a quarter window with 3/8 of one around them, averaged where cores
  overlap (``decoder=whole``: in one piece; the community copy has 3/4 around). The decoder sees zeros beyond the
  canvas, which colours the miniature's edges. Smaller phases are not decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.canvas import cells, picture, start
from methods.sampling import noisable, noised, sized
from methods.windows import Window, gather, grid, merge, starts, unit

DECODERS = ("tiled", "whole")


def phase_sizes(height: int, width: int, window: int, factor: int | None = None) -> list[tuple[int, int]]:
    """(height, width) in cells of every phase, rounded down, the last one being the canvas.

    Args:
        height, width: of the canvas in cells.
        window: the native side in cells.
        factor: pixels per cell, so that errors speak of pixels; without it they speak of cells.

    Raises:
        UsageError: a longest side that is not whole native sides, or more than 2:1 (see the module's text).
    """
    longest, shortest = max(height, width), min(height, width)
    phases, (f, px) = longest // window, unit(factor)
    if phases < 1 or longest % window:
        fits = max(1, phases)
        raise UsageError(
            f"demofusion makes pictures whose longest side is whole native sides of {window * f} {px}; got "
            f"{longest * f} {px}, nearest: {fits * window * f} or {(fits + 1) * window * f} {px}"
        )
    if phases > 1 and 2 * shortest < longest:
        raise UsageError(
            f"demofusion makes pictures of at most 2:1; got {width * f}x{height * f} {px}: beyond, canvases of "
            f"its phases are lower than a window, and the original fails. Ask for sides of at least "
            f"{longest * f // 2} {px}, or use multidiffusion"
        )
    return [(p * height // phases, p * width // phases) for p in range(1, phases + 1)]


def jitter_range(window: int, stride: int) -> int:
    """How far windows are moved at most, and by how much the canvas is padded, in cells."""
    return (window - stride) // 4


def jittered(size: tuple[int, int], window: int, stride: int, draw: Callable[[int, int], int]) -> list[Window]:
    """Windows of one step on a canvas padded by :func:`jitter_range`, in reading order, the last ones clamped.

    Each is moved along each axis by ``draw(low, high)`` (both inclusive): anywhere inside, only outwards at an edge,
    and not at all along an axis that it spans.
    """
    reach = jitter_range(window, stride)

    def moved(at: int, length: int) -> int:
        low = 0 if at + window == length and at > 0 else -reach
        high = 0 if at == 0 else reach
        return at + reach + (0 if window == length else draw(low, high))

    columns = starts(size[1], window, stride, "clamp")
    found = []
    for y in starts(size[0], window, stride, "clamp"):
        for x in columns:
            left = moved(x, size[1])
            found.append(Window(moved(y, size[0]), left, window, window))
    return found


def blurred(canvas: Tensor, size: int, sigma: float) -> Tensor:
    """A Gaussian filter of size x size over every channel, zero beyond the edge, brought back to mean and deviation."""
    import torch

    at = torch.arange(size, dtype=canvas.dtype, device=canvas.device) - (size - 1) / 2
    line = torch.exp(-(at**2) / (2 * sigma**2))
    line = line / line.sum()
    kernel = torch.outer(line, line).expand(canvas.shape[1], 1, size, size)
    soft = torch.nn.functional.conv2d(canvas, kernel, padding=size // 2, groups=canvas.shape[1])
    return (soft - soft.mean()) / soft.std() * canvas.std() + canvas.mean()


def demofusion_latents(
    guided: Callable[[Tensor, Tensor, Sequence[tuple[int, int]]], Tensor],
    scheduler: Any,
    canvas: Tensor,
    sizes: Sequence[tuple[int, int]],
    noises: Mapping[int, Tensor],
    views: Mapping[int, Sequence[Sequence[Window]]],
    *,
    reach: int,
    scales: tuple[float, float, float] = (3.0, 1.0, 1.0),
    sigma: float = 1.0,
    view_batch: int = 16,
    compat_scaling: bool = True,
    train_steps: int = 1000,
    after_step: Callable[[int, int, Tensor], None] | None = None,
) -> Tensor:
    """Run all phases.

    Args:
        guided: the guided network, ``guided(views, t, corners)``, corners being (row, column) of every view in cells.
        scheduler: fresh, timesteps set; Euler or DDIM of diffusers.
        canvas: initial noise (1, c, *sizes[0]).
        sizes: (height, width) of every phase in cells, from :func:`phase_sizes`.
        noises: phase (from 2) -> standard normal noise (1, c, *sizes[phase - 1]).
        views: phase -> step -> windows on the canvas padded by ``reach``, from :func:`jittered`.
        reach: see :func:`jitter_range`.
        scales: the exponents a1, a2, a3.
        sigma: width of the blur in cells.
        view_batch: views a call; decides pixels where ``compat_scaling`` is on.
        train_steps: T, the number of timesteps the network was trained on.
        after_step: called with (phase, index of the step, canvas after it).

    Returns:
        The final latents (1, c, *sizes[-1]).
    """
    import torch
    from torch.nn.functional import interpolate, pad

    def at_step(i: int) -> None:
        if hasattr(scheduler, "_step_index"):  # Euler counts the calls of ``step``; here are many a timestep
            scheduler._step_index = i

    def step(i: int, shown: Tensor, x: Tensor, corners: Sequence[tuple[int, int]]) -> Tensor:
        t = scheduler.timesteps[i]
        done = []
        for a in range(0, x.shape[0], view_batch):
            part = slice(a, a + view_batch)
            if not compat_scaling:
                at_step(i)
            prediction = guided(scheduler.scale_model_input(shown[part], t), t, corners[part])
            at_step(i)
            done.append(scheduler.step(prediction, t, x[part]).prev_sample)
        return torch.cat(done)

    x = canvas
    steps = range(len(scheduler.timesteps))
    at_step(0)
    for i in steps:
        x = step(i, x, x, [(0, 0)])
        if after_step is not None:
            after_step(1, i, x)
    mean, deviation = x.mean(), x.std()
    for phase, size in list(enumerate(sizes, 1))[1:]:
        base = interpolate(x, size=size, mode="bicubic")
        for i in steps:
            t = scheduler.timesteps[i]
            residual = noised(scheduler, base, noises[phase], i)
            c = 0.5 * (1 + math.cos(math.pi * (train_steps - float(t)) / train_steps))
            x = residual if i == 0 else x * (1 - c ** scales[0]) + residual * c ** scales[0]

            windows = views[phase][i]
            padded = pad(x, (reach, reach, reach, reach))
            cut = gather(padded, windows)
            local = step(i, cut, cut, [(v.y, v.x) for v in windows])
            local = merge(local, windows, (padded.shape[-2], padded.shape[-1]))
            local = local[..., reach : reach + size[0], reach : reach + size[1]]

            whole = pad(x, (-size[1] % phase, 0, -size[0] % phase, 0))
            shown = blurred(whole, 2 * phase - 1, sigma * (0.99 * c ** scales[2] + 0.01))
            phases = [(h, w) for h in range(phase) for w in range(phase)]
            stepped = step(
                i,
                torch.cat([shown[..., h::phase, w::phase] for h, w in phases]),
                torch.cat([whole[..., h::phase, w::phase] for h, w in phases]),
                [(0, 0)] * len(phases),
            )
            far = torch.empty_like(whole)
            for sample, (h, w) in zip(stepped, phases, strict=True):
                far[0, :, h::phase, w::phase] = sample
            x = local * (1 - c ** scales[1]) + far[..., -size[0] :, -size[1] :] * c ** scales[1]
            if after_step is not None:
                after_step(phase, i, x)
        x = (x - x.mean()) / x.std() * deviation + mean
    return x


def tiled_picture(backbone: LatentBackbone, latents: Tensor) -> Tensor:
    """Decode (1, c, h, w) in cores of a quarter of the native window, each seen with 3/8 of it around, to (3, H, W)."""
    import torch
    from torch.nn.functional import pad

    core, rim = max(1, backbone.window // 4), 3 * backbone.window // 8
    height, width = latents.shape[-2:]
    tiles = grid(height, width, core, core, remainder="clamp")
    padded = pad(latents, (rim, rim, rim, rim))
    cut, side = rim * backbone.factor, core * backbone.factor
    done = []
    for v in tiles:
        seen = gather(padded, [Window(v.y, v.x, core + 2 * rim, core + 2 * rim)])
        done.append(backbone.decode(seen)[..., cut : cut + side, cut : cut + side])
    f = backbone.factor
    return merge(torch.cat(done), [Window(v.y * f, v.x * f, side, side) for v in tiles], (height * f, width * f))[0]


@method(
    "demofusion",
    family="latent",
    paper="Du et al., CVPR 2024, arXiv:2311.16973",
    licence="no licence file (Apache-2.0 headers); written from the equations",
    presets={"official": {}, "readme": {"guidance": 7.5, "sigma": 0.8}, "paper": {"compat_scaling": False}},
)
def demofusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 5.0,
    stride: int | None = None,
    skip: float = 3.0,
    dilation: float = 1.0,
    blur: float = 1.0,
    sigma: float = 1.0,
    view_batch: int = 16,
    compat_scaling: bool = True,
    decoder: str = "tiled",
) -> Tensor:
    """Sample small, then again and again larger, guided by the picture before and by dilated samples of the canvas.

    Args:
        steps: sampling steps of each phase.
        guidance: classifier-free guidance scale; 1 is none.
        stride: cells between windows; none is half the native size (the official 64 of 128).
        skip, dilation, blur: the exponents a1, a2, a3; larger lets go earlier.
        sigma: width of the blur in cells.
        view_batch: views a call, part of the recipe (see the module's text).
        compat_scaling: scale the network's input as the original does, off by a step.
        decoder: ``tiled`` (official) or ``whole``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or sampler do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("demofusion cannot make a loop: its edges never meet; use a canvas with loop=false")
    if decoder not in DECODERS:
        raise UsageError(f"unknown decoder {decoder!r}; {near(decoder, DECODERS)}")
    window = backbone.window
    hop = max(1, window // 2) if stride is None else stride
    if not 1 <= hop <= window:
        raise UsageError(f"stride must be 1 to {window} cells, the window; got {hop}")
    if view_batch < 1:
        raise UsageError(f"view_batch must be at least 1, got {view_batch}")
    if sigma <= 0:
        raise UsageError(f"sigma must be above 0 cells, got {sigma}")
    size = cells(backbone, canvas)
    sizes = phase_sizes(*size, window, backbone.factor)
    scheduler: Any = backbone.scheduler(steps, sizes[0])
    noisable(scheduler, "demofusion")
    noises, views = {}, {}
    for phase, at in list(enumerate(sizes, 1))[1:]:
        drawn = noise.normal(f"demofusion-noise-{phase}", (1, backbone.channels, *at))
        noises[phase] = drawn.to(backbone.device, backbone.dtype)
        dice = noise.generator(f"demofusion-jitter-{phase}")
        views[phase] = [
            jittered(at, window, hop, lambda low, high, dice=dice: int(dice.integers(low, high + 1)))  # type: ignore[misc]
            for _ in range(steps)
        ]
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)

        def guided(x: Tensor, t: Tensor, corners: Sequence[tuple[int, int]]) -> Tensor:
            return backbone.guided(x, t, sized(conditioning, corners, size, backbone.factor), guidance)

        with backbone.meter.stage("denoise"):
            latents = demofusion_latents(
                guided,
                scheduler,
                start(backbone, scheduler, noise, sizes[0]),
                sizes,
                noises,
                views,
                reach=jitter_range(window, hop),
                scales=(skip, dilation, blur),
                sigma=sigma,
                view_batch=view_batch,
                compat_scaling=compat_scaling,
                train_steps=int(scheduler.config.num_train_timesteps),
            )
        tiled = decoder == "tiled" and len(sizes) > 1
        return tiled_picture(backbone, latents) if tiled else picture(backbone, latents)
