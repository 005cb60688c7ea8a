"""ScaleCrafter: Tuning-free Higher-Resolution Visual Generation with Diffusion Models.

He et al., ICLR 2024, arXiv:2310.07702, sections 3.2 (re-dilation) and 3.4 (noise-damped guidance). Written from a
description; the original (github.com/YingqingHe/ScaleCrafter) carries no licence and none of it is used; its tables of
dilations are facts stated here in our own form. Equation and section numbers were not checked. Defaults are the
original's: 50 DDIM steps with eta 1 (fresh noise every step), FreeU on, guidance 7.5 (preset ``sdxl``: 5).

The canvas goes through the U-Net in one piece. For the first tau steps some 3 x 3 convolutions look further, with a
factor D for each: dilation d = ceil(D), on an input resized (bilinear) by d / D, the result resized back. Where a table
is progressive, D at step i is max(ceil(D (tau - i) / tau), 2). With noise-damped guidance, for the first steps,

    e = u_weak + g (c_strong - u_strong)

strong and weak being two tables. The released settings belong to one size each, and so do these, in native sides:

    sd1.5  2 x 2, 2.5 x 2.5, 4 x 2 (wide)     sd2.1  2.5 x 2.5, 4 x 4     sdxl  2 x 2, 4 x 2 (wide), 4 x 4

Any other canvas is refused: dilation is the same along both axes, the paper says nothing of 6:1, and no rule is
invented here. Not offered because their tables were not found: sd1.5 4 x 4 (weak table), sd2.1 2 x 2 and 4 x 2, sdxl
2.5 x 2.5.
INFERENCE: of sd1.5 4 x 2 the newer of two stored strong tables is used; the weak table of sdxl 4 x 2 is that of 4 x 4.

FreeU (Si et al., CVPR 2024, arXiv:2309.11497) as the original has it: by the number of channels (the widest, and half
of it), not by the block as in diffusers, before every residual block on the way up: half the channels times b, the
lowest frequencies of what skips over times s.

Deviations:

* a table is chosen by the backbone (sd15, sd21, sdxl) or by ``table``; sizes are multiples of the native side, so that
  it can run elsewhere, the miniature included. Layers a table names and a network lacks are ignored, as in the original
  (its lists for SDXL name a fourth stage); a network with none of them is refused;
* of the second network call of damped guidance only the unconditional half is computed, the other is never used;
* convolution dispersion is left out: every released setting switches it off;
* noise of the steps comes from the streams ``scalecrafter-noise-i``; loops are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.attention import unet_of
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import reschedule

Factors = Mapping[str, float]  # convolution, or the beginning of its name -> D


@dataclass(frozen=True)
class Setting:
    """One released setting: dilations by the beginning of names, the longest that fits counts."""

    strong: Factors
    steps: int  # tau
    progressive: bool = False
    weak: Factors = field(default_factory=dict)
    damped: int = 0  # steps of noise-damped guidance


# (width, height) in native sides -> setting
SETTINGS: dict[str, dict[tuple[float, float], Setting]] = {
    "sd1.5": {
        (2, 2): Setting({"down_blocks.3": 2, "mid_block": 2, "up_blocks.0": 2}, 30),
        (2.5, 2.5): Setting(
            {
                "down_blocks.1.downsamplers": 2, "down_blocks.2": 2, "down_blocks.2.downsamplers": 2.5,
                "down_blocks.3": 2.5, "mid_block": 2.5, "up_blocks.0": 2.5, "up_blocks.1": 2,
                "up_blocks.1.upsamplers": 2.5, "up_blocks.2": 2,
            },
            35,
        ),
        (4, 2): Setting(
            {
                "down_blocks.1": 2, "down_blocks.2": 3, "down_blocks.3": 4, "mid_block": 4, "up_blocks.0": 4,
                "up_blocks.1": 3, "up_blocks.2": 2,
            },
            35, True,
            {
                "down_blocks.0.downsamplers": 3, "down_blocks.1": 3, "down_blocks.1.downsamplers": 2,
                "down_blocks.2": 3, "down_blocks.3": 4, "mid_block": 4, "up_blocks.0": 4, "up_blocks.1": 3,
                "up_blocks.2": 3,
            },
            35,
        ),
    },
    "sd2.1": {
        (2.5, 2.5): Setting({"down_blocks.3": 2.5, "mid_block": 2.5, "up_blocks.0": 2.5}, 30),
        (4, 4): Setting(
            {
                "down_blocks.2": 3, "down_blocks.2.downsamplers": 4, "down_blocks.3": 4, "mid_block": 4,
                "up_blocks.0": 4, "up_blocks.1": 4, "up_blocks.2": 3, "up_blocks.3": 2,
            },
            37, True,
            {
                "down_blocks.2": 3, "down_blocks.2.downsamplers": 4, "down_blocks.3": 4, "mid_block": 4,
                "up_blocks.0": 4, "up_blocks.1": 4, "up_blocks.2": 3,
            },
            37,
        ),
    },
    "sdxl": {
        (2, 2): Setting({"mid_block": 2, "up_blocks.0": 2}, 30),
        (4, 2): Setting(
            {"down_blocks.2": 3, "mid_block": 4, "up_blocks.0": 4, "up_blocks.1": 3, "up_blocks.2": 2},
            35, True, {"mid_block": 4, "up_blocks.0": 4}, 35,
        ),
        (4, 4): Setting(
            {"down_blocks.2": 4, "mid_block": 4, "up_blocks.0": 4, "up_blocks.1": 3, "up_blocks.2": 2},
            35, True, {"mid_block": 4, "up_blocks.0": 4}, 35,
        ),
    },
}  # fmt: skip

# b1, b2, s1, s2
FREEU = {"sd1.5": (1.2, 1.4, 0.9, 0.2), "sd2.1": (1.1, 1.2, 0.9, 0.2), "sdxl": (1.1, 1.2, 0.6, 0.4)}
TABLES = {"sd15": "sd1.5", "sd21": "sd2.1", "sdxl": "sdxl"}  # backbone -> its table


def factors_of(unet: Any, table: Factors) -> dict[str, float]:
    """The 3 x 3 convolutions of residual blocks and of samplers that a table names, with their factors."""
    found = {}
    for name, _ in unet.named_modules():
        fits = [key for key in table if name.startswith(f"{key}.")]
        if fits and name.endswith((".conv1", ".conv2", "samplers.0.conv")):
            found[name] = float(table[max(fits, key=len)])
    return found


def factor_at(factor: float, i: int, steps: int, progressive: bool) -> float:
    """D at step i < steps."""
    return float(max(math.ceil(factor * (steps - i) / steps), 2)) if progressive else factor


@contextmanager
def redilated(convolution: Any, factor: float) -> Iterator[None]:
    """Inside, a convolution looks ``factor`` times as far; it is as it was afterwards."""
    from torch.nn.functional import interpolate

    d = math.ceil(factor)
    before = convolution.dilation, convolution.padding
    reach = d * (1 + (convolution.kernel_size[0] - 3) // 2)
    came: list[tuple[int, int]] = []

    def shrink(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        high, wide = inputs[0].shape[-2:]
        came[:] = [(high, wide)]
        size = round(high * (d / factor)), round(wide * (d / factor))
        return (interpolate(inputs[0], size=size, mode="bilinear"), *inputs[1:])

    def back(_: Any, inputs: Any, output: Tensor) -> Tensor:
        (high, wide), (down, across) = came[0], convolution.stride
        resized: Tensor = interpolate(output, size=(int(high / down), int(wide / across)), mode="bilinear")
        return resized

    hooks = [convolution.register_forward_pre_hook(shrink), convolution.register_forward_hook(back)]
    convolution.dilation, convolution.padding = (d, d), (reach, reach)
    try:
        yield
    finally:
        convolution.dilation, convolution.padding = before
        for hook in hooks:
            hook.remove()


@contextmanager
def dilated(unet: Any, factors: Factors) -> Iterator[None]:
    """Inside, convolutions of a U-Net look further, by name; everything is as it was afterwards."""
    with ExitStack() as stack:
        for name, factor in factors.items():
            stack.enter_context(redilated(unet.get_submodule(name), factor))
        yield


def damped_frequencies(x: Tensor, scale: float) -> Tensor:
    """The lowest frequencies (two by two about the middle of the spectrum) times ``scale``."""
    import torch

    exact = torch.promote_types(x.dtype, torch.float32)
    waves = torch.fft.fftshift(torch.fft.fftn(x.to(exact), dim=(-2, -1)), dim=(-2, -1))
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    mask = torch.ones(x.shape[-2:], dtype=exact, device=x.device)
    mask[max(0, row - 1) : row + 1, max(0, column - 1) : column + 1] = scale
    result: Tensor = torch.fft.ifftn(torch.fft.ifftshift(waves * mask, dim=(-2, -1)), dim=(-2, -1)).real.to(x.dtype)
    return result


@contextmanager
def freeu(unet: Any, b1: float, b2: float, s1: float, s2: float) -> Iterator[None]:
    """Inside, FreeU is on; see the module's text."""
    import torch

    widest = int(max(unet.config.block_out_channels))
    strengths = {widest: (b1, s1), widest // 2: (b2, s2)}

    def change(width: int) -> Callable[..., Any]:
        b, s = strengths[width]

        def hook(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x, half = inputs[0], width // 2
            parts = [x[:, :half] * b, x[:, half:width], damped_frequencies(x[:, width:], s)]
            return (torch.cat(parts, dim=1), *inputs[1:])

        return hook

    hooks = []
    width = int(unet.config.block_out_channels[-1])  # channels of what comes up; the rest of a block's input skips over
    for block in unet.up_blocks:
        for resnet in block.resnets:
            if width in strengths:
                hooks.append(resnet.register_forward_pre_hook(change(width)))
            width = int(resnet.out_channels)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def scalecrafter_latents(
    pair: Callable[[Tensor, Tensor, Factors], tuple[Tensor, Tensor]],
    unconditional: Callable[[Tensor, Tensor, Factors], Tensor],
    scheduler: Any,
    x: Tensor,
    setting: Setting,
    fresh: Callable[[int], Tensor],
    *,
    guidance: float = 7.5,
    eta: float = 1.0,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on latents (1, c, h, w).

    Args:
        pair: ``pair(x, t, factors)``, the network's unconditional and conditional prediction with dilated convolutions.
        unconditional: the former alone.
        scheduler: DDIM of diffusers, fresh, timesteps set.
        x: initial noise.
        setting: with the full names of convolutions, from :func:`factors_of`.
        fresh: ``fresh(i)``, standard normal noise (1, c, h, w) of step i; not asked for at eta 0.
        guidance: scale; at 1 there is neither guidance nor damping.
        eta: share of DDPM's noise.
        after_step: called with (index of the step, latents after it).

    Returns:
        The final latents (1, c, h, w).
    """

    def now(factors: Factors, i: int, steps: int) -> Factors:
        return {k: factor_at(f, i, steps, setting.progressive) for k, f in factors.items()} if i < steps else {}

    for i, t in enumerate(scheduler.timesteps):
        u, c = pair(x, t, now(setting.strong, i, setting.steps))
        base = u
        if i < setting.damped and guidance != 1.0:
            base = unconditional(x, t, now(setting.weak, i, setting.damped))
        prediction = base + guidance * (c - u) if guidance != 1.0 else c
        x = scheduler.step(prediction, t, x, eta=eta, variance_noise=fresh(i) if eta > 0 else None).prev_sample
        if after_step is not None:
            after_step(i, x)
    return x


def choose(backbone: LatentBackbone, canvas: Canvas, table: str | None) -> tuple[str, Setting]:
    """The released setting of a backbone and canvas. Raises ``UsageError`` where there is none."""
    known = TABLES.get(backbone.name.partition("[")[0]) if table is None else table
    if known is None:
        raise UsageError(
            f"scalecrafter has settings for sd15, sd21 and sdxl, none for {backbone.name}; to borrow one, say which: "
            f"table={', '.join(SETTINGS)}"
        )
    if known not in SETTINGS:
        raise UsageError(f"unknown table {known!r}; {near(known, SETTINGS)}")
    side = backbone.window * backbone.factor
    found = SETTINGS[known].get((canvas.width / side, canvas.height / side))
    if found is None:
        sizes = ", ".join(f"{w * side:g}x{h * side:g}" for w, h in SETTINGS[known])
        raise UsageError(
            f"scalecrafter dilates convolutions alike along both axes, by settings released for single sizes: with "
            f"{known} on {backbone.name} these are {sizes} px; got {canvas}, which has none"
        )
    return known, found


@method(
    "scalecrafter",
    family="latent",
    paper="He et al., ICLR 2024, arXiv:2310.07702",
    licence="none (all rights reserved); written from a description",
    presets={"official": {}, "sdxl": {"guidance": 5.0}, "no-freeu": {"freeu_on": False}},
)
def scalecrafter(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    eta: float = 1.0,
    freeu_on: bool = True,
    table: str | None = None,
) -> Tensor:
    """Ask the network for the whole canvas, with convolutions that look further for the first steps.

    Args:
        steps: sampling steps; released settings count on 50.
        guidance: classifier-free guidance scale; 1 is none.
        eta: share of DDPM's noise in DDIM.
        freeu_on: FreeU, with the strengths of the table's family.
        table: ``sd1.5``, ``sd2.1`` or ``sdxl``; none is the backbone's own.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where no released setting fits (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("scalecrafter cannot make a loop: its edges never meet; use a canvas with loop=false")
    if not 0 <= eta <= 1:
        raise UsageError(f"eta must be 0 to 1, got {eta}")
    size = cells(backbone, canvas)
    family, released = choose(backbone, canvas, table)
    unet = unet_of(backbone, "scalecrafter")
    scheduler = reschedule(backbone, "scalecrafter", "DDIMScheduler", steps)
    strong, weak = factors_of(unet, released.strong), factors_of(unet, released.weak)
    if not strong:
        raise UsageError(f"the U-Net of {backbone.name} has none of the layers that table {family} dilates")
    setting = Setting(strong, released.steps, released.progressive, weak, released.damped)

    def fresh(i: int) -> Tensor:
        drawn = noise.normal(f"scalecrafter-noise-{i}", (1, backbone.channels, *size))
        return drawn.to(backbone.device, backbone.dtype)

    with torch.no_grad(), ExitStack() as stack:
        told = backbone.condition(prompt.text, prompt.negative)
        first = {k: v.chunk(2)[0] for k, v in told.added.items()}

        def unconditional(x: Tensor, t: Tensor, factors: Factors) -> Tensor:
            with dilated(unet, factors):
                return backbone.predict(x, t, told.embeds.chunk(2)[0], first)

        def pair(x: Tensor, t: Tensor, factors: Factors) -> tuple[Tensor, Tensor]:
            with dilated(unet, factors):
                if guidance == 1.0:
                    c = backbone.guided(x, t, told, guidance)
                    return c, c
                u, c = backbone.predict(torch.cat([x, x]), t, told.embeds, told.added).chunk(2)
                return u, c

        if freeu_on:
            stack.enter_context(freeu(unet, *FREEU[family]))
        with backbone.meter.stage("denoise"):
            latents = scalecrafter_latents(
                pair,
                unconditional,
                scheduler,
                start(backbone, scheduler, noise, size),
                setting,
                fresh,
                guidance=guidance,
                eta=eta,
            )
        stack.close()
        return picture(backbone, latents)
