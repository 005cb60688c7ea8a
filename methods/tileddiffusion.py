"""Tiled Diffusion: tiles that join, made together, each seeing a strip of its neighbours.

Madar, Fried; CVPR 2025, arXiv:2412.15185 (the tiling constraint). The original (github.com/madaror/tiled-diffusion):
no licence file was seen, and none of it is used. Written from a description of its algorithm in public copies of the
code; the paper itself could not be read, equation numbers were not checked, and there are no numbers of the original
to match.

The paper joins given tiles along given sides; it does not make panoramas of one prompt. INFERENCE: that ScrollScape's
table means this method (and not the web UI extension of the same name, which is MultiDiffusion, another row of it),
and that a panorama is a chain of its one-to-one constraints: the right side of each tile joins the left side of the
next, all tiles have the same prompt, and on a loop the last one joins the first (its self-tiling where there is one
tile only). What ScrollScape did in fact was not found; this is the definition used here, and it is ours.

A tile of k cells carries w cells of context on every joined side. Before every step, the context is overwritten by the
neighbour's outermost w cells; then tile and context take a step together, and are decoded together in the end, the
context being cut off. As contexts never survive, that is, with F_i cutting out tile i with its context,

    e = predictions of F_i(x), put side by side without their contexts;    x <- one step of x along e

so no cell is averaged. Defaults are those of the original's script: 40 steps, guidance 7.5, half a tile of context,
DDPM; preset ``sdxl`` is its SDXL example (guidance 7). The similarity constraint is for sides shared by more than two
tiles; a chain has none, so it never acts and is left out.

Deviations:

* DDPM is written as DDIM with eta 1 whose last step ends at no noise, which is the same but for clipping, so that its
  noise can come from the streams ``tiled-noise-i``. SDXL is sampled by it too (``eta=0`` is plain DDIM);
* tiles have no noise of their own in their contexts: it would be overwritten before it is seen;
* one row of tiles, as high as the canvas; other canvases are refused, as are sides that whole tiles do not fill;
* on SDXL the size conditioning is the size of a tile with its context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.canvas import cells, start
from methods.sampling import reschedule
from methods.windows import unit


class Tile(NamedTuple):
    """Columns ``x`` to ``x + width`` of the canvas, seen from ``left`` cells before to ``right`` cells behind them."""

    x: int
    width: int
    left: int
    right: int

    def seen(self, canvas: Tensor) -> Tensor:
        """The tile with its context (1, c, h, left + width + right); columns go round."""
        import torch

        at = torch.arange(self.x - self.left, self.x + self.width + self.right, device=canvas.device)
        return canvas[..., at % canvas.shape[-1]]

    def core(self, seen: Tensor, factor: int = 1) -> Tensor:
        """What is left of (..., factor * columns) without context."""
        return seen[..., self.left * factor : (self.left + self.width) * factor]


def tiles(
    height: int, width: int, side: int, context: int, loop: bool = False, factor: int | None = None
) -> list[Tile]:
    """A row of square tiles over a canvas of ``height`` x ``width`` cells; ``factor`` pixels a cell, for messages.

    Raises:
        UsageError: a canvas that is not one row of whole tiles, or a context beyond the neighbour.
    """
    if side < 1:
        raise UsageError(f"a tile needs at least one cell, got {side}")
    if height != side or width % side or not width:
        down, (f, px) = max(1, width // side) * side, unit(factor)
        raise UsageError(
            f"tileddiffusion joins square tiles of {side * f} {px} in one row; got {width * f}x{height * f} {px}, "
            f"ask for {down * f}x{side * f} or {(down + side) * f}x{side * f}"
        )
    if not 0 <= context <= side:
        raise UsageError(f"the context is a strip of one neighbour: 0 to {side} cells, got {context}")
    last = width - side
    return [
        Tile(x, side, context if loop or x > 0 else 0, context if loop or x < last else 0)
        for x in range(0, width, side)
    ]


def tileddiffusion_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    row: list[Tile],
    fresh: Callable[[int], Tensor],
    *,
    eta: float = 1.0,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w).

    Args:
        guided: the guided network, ``guided(views, t)``; views of one call have one size.
        scheduler: DDIM of diffusers, fresh, timesteps set.
        canvas: initial noise.
        row: from :func:`tiles`.
        fresh: ``fresh(i)``, standard normal noise (1, c, h, w) of step i; not asked for at eta 0.
        eta: share of DDPM's noise.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w).
    """
    import torch

    sizes = sorted({t.left + t.right for t in row})  # tiles at open ends have less context
    for i, t in enumerate(scheduler.timesteps):
        prediction = torch.empty_like(canvas)
        for size in sizes:
            alike = [tile for tile in row if tile.left + tile.right == size]
            answers = guided(torch.cat([tile.seen(canvas) for tile in alike]), t)
            for tile, answer in zip(alike, answers, strict=True):
                prediction[0, ..., tile.x : tile.x + tile.width] = tile.core(answer)
        noise = fresh(i) if eta > 0 else None
        canvas = scheduler.step(prediction, t, canvas, eta=eta, variance_noise=noise).prev_sample
        if after_step is not None:
            after_step(i, canvas)
    return canvas


@method(
    "tileddiffusion",
    family="latent",
    paper="Madar, Fried, CVPR 2025, arXiv:2412.15185; as a chain of tiles, which is ours",
    licence="no licence seen (all rights reserved); written from a description",
    presets={"official": {}, "sdxl": {"guidance": 7.0}},
)
def tileddiffusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 40,
    guidance: float = 7.5,
    eta: float = 1.0,
    tile: int | None = None,
    context: int | None = None,
) -> Tensor:
    """Denoise a row of tiles together, each seeing the nearest strip of its neighbours at every step.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        eta: share of DDPM's noise; 1 is DDPM, 0 is DDIM.
        tile: side of a tile in cells; none is the network's native size.
        context: cells of a neighbour that a tile sees; none is half a tile (the official 32 of 64).

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas or knobs do not fit (see the module's text).
    """
    import torch

    if not 0 <= eta <= 1:
        raise UsageError(f"eta must be 0 to 1, got {eta}")
    size = cells(backbone, canvas)
    side = backbone.window if tile is None else tile
    row = tiles(*size, side, side // 2 if context is None else context, canvas.loop, backbone.factor)
    scheduler = reschedule(backbone, "tileddiffusion", "DDIMScheduler", steps, set_alpha_to_one=True)

    def fresh(i: int) -> Tensor:
        drawn = noise.normal(f"tiled-noise-{i}", (1, backbone.channels, *size))
        return drawn.to(backbone.device, backbone.dtype)

    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = tileddiffusion_latents(
                lambda views, t: backbone.guided(views, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, size),
                row,
                fresh,
                eta=eta,
            )
        return torch.cat([t.core(backbone.decode(t.seen(latents))[0], backbone.factor) for t in row], dim=-1)
