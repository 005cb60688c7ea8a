"""StreamMultiDiffusion's panorama sampler: MultiDiffusion in a few steps of a latent consistency model.

Lee, Jung, Lee: "StreamMultiDiffusion", later "SemanticDraw", CVPR 2025, arXiv:2403.09055 (latent pre-averaging). Only
the text-to-panorama function (``sample_panorama``) of the released code (github.com/ironjr/StreamMultiDiffusion), not
its regions and streams. That code is MIT; none of it is used, its facts were read there. Defaults are its class's:
guidance 1, five steps at places 0, 4, 12, 25 and 37 of LCM's 50 timesteps (999, 919, 759, 499, 259). Preset
``panorama`` is what its documentation recommends for panoramas: 0, 12, 25 and 37.

Tiles stand at half a tile. With weights a_i that rise and fall linearly across a tile (1 on the outer half of the tiles
at an edge), whose sum is 1 over every cell, F the clean latents by the network's noise prediction, and LCM's boundary
scalings c_out = 10 t / sqrt((10 t)^2 + 1/4), c_skip = (1/4) / ((10 t)^2 + 1/4), step j makes

    clean = sum_i a_i (c_out F(x_i) + c_skip x_i),      J = sqrt(abar_next) clean + sqrt(1 - abar_next) noise_j,

where the noise is one draw for the whole canvas: added to the tiles before averaging it would lose variance. The last
step adds none. F is affine in the prediction, so predictions are averaged here and the canvas takes the step: the same
numbers.

Network: the released code loads SD 1.5 with LCM-LoRA (latent-consistency/lcm-lora-sdv1-5), which no backbone here loads
by itself. Merge the LoRA into a pipeline folder whose scheduler config names LCMScheduler, and open that with the
backbone ``diffusers``, sampler=checkpoint (not tried with the real weights). On any other network the sampler runs all
the same, in few steps that the network was not made for, and the picture's record says so (flag ``no-lcm-weights``).
U-Nets with an embedded guidance scale (full LCM checkpoints) are refused.

Limits and deviations:

* the last tile is cut at the edge, so that the network sees a narrower one, as in the released code; tiles are as high
  and wide as the shorter side of the canvas where that is below the native size;
* loops are refused: the paper defines none;
* ``num_inference_steps`` is the released function's argument of that name, mismatch included: the network is told the
  timesteps of an even schedule of so many steps while the canvas steps by the tables of ``t_index_list``;
* at a guidance of exactly 1 the unconditional branch is not computed; the released code computes and discards it;
* noise comes from this benchmark's streams ``stream-step-0``, ...; latents are kept in float32, the released code runs
  all in float16. Equal-sized tiles share network calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import reschedule
from methods.shared.windows import Window, add_up, gather

LCM_STEPS = 50  # timesteps that consistency models are distilled on


def tiling(height: int, width: int, side: int) -> tuple[list[Window], list[Tensor]]:
    """Tiles over a canvas in reading order, and the weights (tile height, tile width) with which they add up to 1.

    Tiles stand at ``side // 2`` cells, ``side`` at most the height and the width; the last of a row or column is cut at
    the edge.
    """
    rows, columns = _axis(height, side), _axis(width, side)
    tiles = [Window(y, x, len(down), len(along)) for y, down in rows for x, along in columns]
    return tiles, [down[:, None] * along for _, down in rows for _, along in columns]


def _axis(length: int, side: int) -> list[tuple[int, Tensor]]:
    """First cell and weights of each tile along one axis."""
    import torch

    half = side // 2
    count = -((side - length) // half) + 1
    rise = torch.linspace(0, 1, side - half, dtype=torch.float64)
    weights = [torch.cat([rise, rise.flip(0)[side % 2 :]]) for _ in range(count)]
    weights[0][:half] = 1
    weights[-1][-half:] = 1
    return [(i * half, w[: length - i * half]) for i, w in enumerate(weights)]


def lcm_schedule(backbone: LatentBackbone, places: Sequence[int]) -> Any:
    """LCM's scheduler on a backbone's noise schedule, with the timesteps at ``places`` (ascending, 0 to 49) of its 50.

    Raises:
        UsageError: a network without a schedule of betas (flow matching).
    """
    fixed = {
        "original_inference_steps": LCM_STEPS,
        "timestep_scaling": 10.0,
        "clip_sample": False,
        "thresholding": False,
    }
    scheduler = reschedule(backbone, "streammultidiffusion", "LCMScheduler", LCM_STEPS, **fixed)
    scheduler.set_timesteps(timesteps=[int(scheduler.timesteps[i]) for i in places])
    return scheduler


def streammultidiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    tiles: Sequence[Window],
    weights: Sequence[Tensor],
    noise: Callable[[int], Tensor],
    told: Tensor | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)`` with equal-sized views (n, c, tile height, tile width).
        scheduler: of :func:`lcm_schedule`: an ``LCMScheduler`` without clipping, timesteps set.
        canvas: initial noise.
        tiles, weights: of :func:`tiling`; weights must add up to 1 over every cell.
        noise: index of a step, the last excluded -> standard normal noise like the canvas, added after it.
        told: timesteps the network is told instead of the scheduler's, at most as many; they set the number of steps.
        after_step: called with (index of the step, canvas after it and its noise).

    Returns:
        The last step's clean latents (1, c, h, w), before scaling and decoding.
    """
    import torch

    size = (canvas.shape[-2], canvas.shape[-1])
    weights = [w.to(canvas) for w in weights]
    times = scheduler.timesteps if told is None else told
    unused = torch.Generator()  # the scheduler would draw noise from the global generator
    for i, (t, own) in enumerate(zip(times, scheduler.timesteps)):
        found = _predict(guided, canvas, tiles, t)
        mean = add_up([w * one for w, one in zip(weights, found)], tiles, size)
        canvas = scheduler.step(mean, int(own), canvas, generator=unused).denoised
        if i < len(times) - 1:
            kept = float(scheduler.alphas_cumprod[scheduler.timesteps[i + 1]])
            canvas = kept**0.5 * canvas + (1 - kept) ** 0.5 * noise(i)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


def _predict(
    guided: Callable[[Tensor, Tensor], Tensor], canvas: Tensor, tiles: Sequence[Window], t: Tensor
) -> list[Tensor]:
    """The network on every tile, those of one size together, in the order of the tiles."""
    found: dict[Window, Tensor] = {}
    for shape in dict.fromkeys(v[2:] for v in tiles):
        alike = [v for v in tiles if v[2:] == shape]
        found.update(zip(alike, guided(gather(canvas, alike), t)))
    return [found[v] for v in tiles]


@method(
    "streammultidiffusion",
    family="latent",
    paper="Lee et al., CVPR 2025, arXiv:2403.09055",
    licence="MIT; re-implemented",
    presets={"official": {}, "panorama": {"t_index_list": "0,12,25,37"}},
)
def streammultidiffusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    t_index_list: str = "0,4,12,25,37",
    guidance: float = 1.0,
    window: int | None = None,
    num_inference_steps: int | None = None,
) -> Tensor:
    """Denoise half-overlapping tiles in a few steps of a consistency model, blending their clean predictions.

    Args:
        t_index_list: places in LCM's 50 timesteps, ascending, separated by commas: one sampling step for each.
        guidance: classifier-free guidance scale; 1 is none, which is what LCM-LoRA is for.
        window: side of a tile in cells; none is the native size, or the canvas's shorter side where that is less.
        num_inference_steps: the released function's argument with its mismatch (see the module's text); none to leave
            it out, else 1 to as many as ``t_index_list`` has.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or backbone do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError(
            "streammultidiffusion defines no loop: its tiles end at the edges; use multidiffusion or spotdiffusion, or "
            "a canvas with loop=false"
        )
    places = _places(t_index_list, num_inference_steps)
    height, width = cells(backbone, canvas)
    side = min(height, width, backbone.window) if window is None else window
    if not 4 <= side <= min(height, width) or side // 2 % backbone.patch:
        raise UsageError(
            f"tiles must have 4 cells a side or more, halves of whole tokens ({backbone.patch} cells), and fit into "
            f"the canvas of {width} x {height} cells; got {side}"
        )
    if getattr(getattr(getattr(backbone, "unet", None), "config", None), "time_cond_proj_dim", None) is not None:
        raise UsageError(
            f"{backbone.name} takes its guidance scale as an input (a full LCM checkpoint); streammultidiffusion is "
            f"for networks with LCM-LoRA merged in, or plain ones"
        )
    scheduler = lcm_schedule(backbone, places)
    told = None
    if num_inference_steps is not None:
        told = reschedule(backbone, "streammultidiffusion", "LCMScheduler", num_inference_steps).timesteps
    if type(backbone.scheduler(1)).__name__ != "LCMScheduler":
        backbone.meter.flag("no-lcm-weights")
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            x = start(backbone, scheduler, noise, (height, width))
            latents = streammultidiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                x,
                *tiling(height, width, side),
                noise=lambda i: noise.normal(f"stream-step-{i}", tuple(x.shape)).to(x),
                told=told,
            )
        return picture(backbone, latents)


def _places(t_index_list: str, steps: int | None) -> list[int]:
    try:
        places = [int(part) for part in t_index_list.split(",")]
    except ValueError:
        places = []
    if not places or places != sorted(set(places)) or not 0 <= places[0] <= places[-1] < LCM_STEPS:
        raise UsageError(
            f"t_index_list takes ascending whole numbers from 0 to {LCM_STEPS - 1}, such as 0,12,25,37; "
            f"got {t_index_list!r}"
        )
    if steps is not None and not 1 <= steps <= len(places):
        raise UsageError(
            f"num_inference_steps must be 1 to {len(places)}, the length of t_index_list, whose tables it walks; "
            f"got {steps}"
        )
    return places
