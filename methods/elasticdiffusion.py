"""ElasticDiffusion: Training-free Arbitrary Size Image Generation through Global-Local Content Separation.

Haji-Ali, Balakrishnan, Ordonez; CVPR 2024, arXiv:2311.18822, section 4. Written from a description; the original
(github.com/MoayedHajiAli/ElasticDiffusion-official) carries no licence and none of it is used. Equation numbers were
not checked. There are no numbers of the original to compare with: parts are tested by identities only. Defaults are
those of its function: 50 DDIM steps, guidance g = 10, R = 20 resamplings, new_p 0.3, weight 1000, power 3, RePaint
on; presets are its command line at 2048 x 2048 px (``cli``) and its README at 1024 x 2048 (``readme``).

With S the native side and (a, b) the canvas shrunk until its longest side is S, a step on the canvas x is

    d = direction, from a small reference: c - u of a reference (a, b) picked out of x, in R + 1 passes. Pass 0 picks
        the first cell of every group, later ones at random one not picked yet, for a share new_p of groups. Cells
        picked take d of their place; what is left takes the last pass's
    u = unconditional prediction, local: patches of S/2, each with neighbours on all sides so that the network sees
        S x S; only the patch is kept, and the first one where two overlap
    x_next = DDIM(x, u + g d)
    RePaint: x_next is noised again to t, and the step repeated there with R = 0 and g / 3 (all steps but the last)
    reduced-resolution guidance: x_next += 2 l_i / (c h w) (up(x0_reference) - x0),
        l_i = w ((1 + cos(pi i / s)) / 2)^p for i < s = steps - int(stop steps), while l_i > 10

What is smaller than S is padded to S x S by a constant random colour, encoded and noised to t.

Limits and deviations:

* the longest side is at most 4 native sides: the original's README says 2, its examples end at 4. Beyond 2 the
  picture is flagged ``beyond-2-native-sides``, and cells picked are tracked exactly, which the original's bookkeeping
  does up to 2 only (INFERENCE, from reading). Loops are refused;
* a pick among cells not picked yet is drawn at once instead of by up to 50 redraws; the coin for new_p is new_p
  itself (there 30 of 101); everything stays in the backbone's precision (there partly half);
* backgrounds are encoded by the mode of the encoder's distribution (there a sample). They come from the streams
  ``elastic-background-SIDE-H-W-T``, so that they recur within a step as they do there; picks from ``elastic-picks``,
  RePaint's noise from ``elastic-repaint-i``;
* the picture is decoded in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import reschedule, sized
from methods.shared.windows import Window, gather, starts

if TYPE_CHECKING:
    import numpy as np

Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Background = Callable[[str, tuple[int, int], Tensor], Tensor]

MOST = 4  # native sides


def reference_size(height: int, width: int, window: int) -> tuple[int, int]:
    """(a, b): the canvas shrunk until its longest side is the window, in cells."""
    shrink = max(1.0, max(height, width) / window)
    return int(height / shrink), int(width / shrink)


def even_ratio(small: int, large: int) -> tuple[int, int]:
    """small / large as a ratio of even numbers, the larger one at most 32, rounded if it must be."""
    ratio = Fraction(small, large).limit_denominator(32)
    if ratio.numerator % 2 or ratio.denominator % 2:
        ratio = Fraction(small, large).limit_denominator(16)
    double = 2 if ratio.numerator % 2 or ratio.denominator % 2 else 1
    return ratio.numerator * double, ratio.denominator * double


def kept(length: int, wanted: int) -> list[int]:
    """Which 2 * ``wanted`` of 2 * ``length`` half cells are left when pairs are cut out at regular distances.

    Half cell i belongs to cell i // 2; two neighbours in the result form the group of one reference cell.
    """
    keep, block = even_ratio(wanted, length)
    blocks = 2 * wanted // keep if keep else 0
    blocks -= blocks * block > 2 * length
    pairs = (block - keep) // 2
    apart = block // (pairs + 1)
    apart += apart % 2
    cut = {(j + 1) * apart - side for j in range(pairs) for side in (0, 1)}
    found = [b * block + o for b in range(blocks) for o in range(block) if o not in cut]
    found += range(blocks * block, blocks * block + 2 * wanted - len(found))
    if len(found) != 2 * wanted or found[-1] >= 2 * length:
        raise UsageError(
            f"elasticdiffusion cannot shrink {length} cells to {wanted} in regular blocks; take a side that is a "
            f"simple multiple of the native one"
        )
    return found


def pick(used: np.ndarray, before: np.ndarray | None, new: float, dice: np.random.Generator) -> np.ndarray:
    """Which of its 2 x 2 half cells every group gives, (n,), noted in ``used`` (n, 4).

    The first one where nothing was picked before; then one not used yet (any, where all are) for a share ``new`` of
    groups, and the same again for the others.
    """
    import numpy as np

    n = len(used)
    if before is None:
        chosen = np.zeros(n, dtype=np.int64)
    else:
        order = dice.random((n, 4)) + used * ~used.all(1, keepdims=True)  # used ones come last
        chosen = np.where(dice.random(n) < new, order.argmin(1), before)
    used[np.arange(n), chosen] = True
    return chosen


def weight_at(i: int, steps: int, weight: float, power: float, stop: float) -> float:
    """l_i of the reduced-resolution guidance; 0 where it has ended."""
    end = steps - int(steps * stop)
    value = weight * (0.5 * (1 + math.cos(math.pi * i / end))) ** power if i < end else 0.0
    return value if value > 10 else 0.0


def filled(call: Callable[[Tensor], Tensor], x: Tensor, side: int, t: Tensor, background: Background) -> Tensor:
    """Ask the network about latents (n, c, h, w) padded to side x side, and cut the answer out again."""
    import torch

    high, wide = x.shape[-2:]
    down, across = max(side - high, 0), max(side - wide, 0)
    top, left = down // 2, across // 2
    shown = x
    for dim, before, after, names in ((-1, left, across - left, "lr"), (-2, top, down - top, "tb")):
        for name, length, first in ((names[0], before, True), (names[1], after, False)):
            if length:
                size = (shown.shape[-2], length) if dim == -1 else (length, shown.shape[-1])
                piece = background(name, size, t).expand(x.shape[0], -1, -1, -1)
                shown = torch.cat([piece, shown] if first else [shown, piece], dim=dim)
    return call(shown)[..., top : top + high, left : left + wide]


def patches(height: int, width: int, side: int) -> list[tuple[Window, Window]]:
    """(patch, what the network sees around it), in reading order; an axis that fits into ``side`` is one patch."""

    def along(length: int) -> list[tuple[int, int, int, int]]:
        if length <= side:
            return [(0, length, 0, length)]
        half = side // 2
        rim = (side - half) // 2
        return [(a, half, min(max(a - rim, 0), length - side), side) for a in starts(length, half, half, "clamp")]

    return [
        (Window(y, x, h, w), Window(from_y, from_x, high, wide))
        for y, h, from_y, high in along(height)
        for x, w, from_x, wide in along(width)
    ]


def elasticdiffusion_latents(
    pair: Pair,
    unconditional: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    x: Tensor,
    window: int,
    background: Background,
    dice: np.random.Generator,
    fresh: Callable[[int, int], Tensor],
    *,
    guidance: float = 10.0,
    resamplings: int = 20,
    new: float = 0.3,
    weight: float = 1000.0,
    power: float = 3.0,
    stop: float = 0.2,
    repaint: bool = True,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on latents (1, c, h, w).

    Args:
        pair: ``pair(x, t)``, the network's unconditional and conditional prediction of (n, c, window, window).
        unconditional: the former alone.
        scheduler: DDIM of diffusers, fresh, timesteps set.
        x: initial noise.
        window: S in cells.
        background: ``background(side, (h, w), t)``, noised latents (1, c, h, w) to pad with; side is l, r, t or b.
        dice: for picks.
        fresh: ``fresh(i, n)``, standard normal noise (n, c, h, w) to noise step i again.
        guidance, resamplings, new, weight, power, stop, repaint: see the module's text.
        after_step: called with (index of the step, latents after it).

    Returns:
        The final latents (1, c, h, w).
    """
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    size = (x.shape[-2], x.shape[-1])
    small = reference_size(*size, window)
    rows, columns = (np.array(kept(whole, part)) // 2 for whole, part in zip(size, small))
    group_y, group_x = (g.ravel() for g in np.meshgrid(np.arange(small[0]), np.arange(small[1]), indexing="ij"))
    around = patches(*size, window)
    ratio = int(scheduler.config.num_train_timesteps) // len(scheduler.timesteps)

    def direction(x: Tensor, t: Tensor, passes: int) -> tuple[Tensor, Tensor, Tensor]:
        """d of the canvas, and of the last pass the reference and its unconditional prediction."""
        used = np.zeros((small[0] * small[1], 4), dtype=bool)
        chosen, picked = None, []
        last = np.full(size, passes - 1)  # the pass that a cell takes its direction from: the last to pick it
        for k in range(passes):
            chosen = pick(used, chosen, new, dice)
            y, across = rows[2 * group_y + chosen // 2], columns[2 * group_x + chosen % 2]
            last[y, across] = k
            picked.append(y * size[1] + across)
        at = torch.from_numpy(np.concatenate(picked)).to(x.device)
        references = x.flatten(2)[0, :, at].reshape(-1, passes, *small).transpose(0, 1)
        u, c = filled(lambda z: torch.stack(pair(z, t), 1), references, window, t, background).unbind(1)
        spread = interpolate(c - u, size=size, mode="nearest")
        taken = torch.from_numpy(last).to(x.device).expand(1, *x.shape[1:])
        return spread.gather(0, taken), references[-1:], u[-1:]

    def local(x: Tensor, t: Tensor) -> Tensor:
        seen = gather(x, [context for _, context in around])
        answers = filled(lambda z: unconditional(z, t), seen, window, t, background)
        u = torch.zeros_like(x)
        for (v, context), answer in reversed(list(zip(around, answers, strict=True))):  # so that the first one stays
            y, left = v.y - context.y, v.x - context.x
            u[0, :, v.y : v.y + v.height, v.x : v.x + v.width] = answer[:, y : y + v.height, left : left + v.width]
        return u

    for i, t in enumerate(scheduler.timesteps):
        scale = guidance
        d, reference, u_reference = direction(x, t, resamplings + 1)
        out = scheduler.step(local(x, t) + scale * d, t, x)
        if repaint and resamplings > 0 and i < len(scheduler.timesteps) - 1:
            scale = guidance / 3
            x = out.prev_sample
            for j, noise in enumerate(fresh(i, ratio)):
                beta = float(scheduler.betas[int(scheduler.timesteps[i + 1]) + j])
                x = (1 - beta) ** 0.5 * x + beta**0.5 * noise
            d, reference, u_reference = direction(x, t, 1)
            out = scheduler.step(local(x, t) + scale * d, t, x)
        x = out.prev_sample
        pull = weight_at(i, len(scheduler.timesteps), weight, power, stop)
        if pull:
            towards = u_reference + scale * interpolate(d, size=small, mode="nearest")
            aim = scheduler.step(towards, t, reference).pred_original_sample
            aim = interpolate(aim, size=size, mode="nearest")
            x = x + 2 * pull / x.numel() * (aim - out.pred_original_sample)
        if after_step is not None:
            after_step(i, x)
    return x


@method(
    "elasticdiffusion",
    family="latent",
    paper="Haji-Ali et al., CVPR 2024, arXiv:2311.18822",
    licence="none (all rights reserved); written from a description",
    presets={
        "official": {},
        "cli": {"resamplings": 10, "weight": 4000.0, "power": 10.0},
        "readme": {"resamplings": 7, "weight": 1000.0, "power": 10.0},
    },
)
def elasticdiffusion(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 10.0,
    resamplings: int = 20,
    new_p: float = 0.3,
    weight: float = 1000.0,
    power: float = 3.0,
    stop: float = 0.2,
    repaint: bool = True,
) -> Tensor:
    """Take what the picture shows from a small reference of the canvas, and its details from patches.

    Args:
        steps: sampling steps.
        guidance: scale of the direction; a third of it where a step is repeated.
        resamplings: R, passes of the reference after the first.
        new_p: share of groups that pick another cell in a pass.
        weight, power: of the reduced-resolution guidance, 0 is none.
        stop: share of steps at the end without it.
        repaint: repeat every step but the last.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas or knobs do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("elasticdiffusion cannot make a loop: its edges never meet; use a canvas with loop=false")
    if resamplings < 0:
        raise UsageError(f"resamplings must be 0 or more, got {resamplings}")
    for name, share, most in (("new_p", new_p, 1.0), ("stop", stop, 0.99)):
        if not 0 <= share <= most:
            raise UsageError(f"{name} must be 0 to {most:g}, got {share}")
    size, window, f = cells(backbone, canvas), backbone.window, backbone.factor
    if max(size) > MOST * window:
        raise UsageError(
            f"elasticdiffusion is published up to {MOST} native sides ({MOST * window * f} px on {backbone.name}); at "
            f"{canvas.width}x{canvas.height} px its reference would be too small to show anything"
        )
    for whole, part in zip(size, reference_size(*size, window)):
        kept(whole, part)
    scheduler = reschedule(backbone, "elasticdiffusion", "DDIMScheduler", steps)
    if max(size) > 2 * window:
        backbone.meter.flag("beyond-2-native-sides")

    def drawn(stream: str, shape: tuple[int, ...]) -> Tensor:
        return noise.normal(stream, shape).to(backbone.device, backbone.dtype)

    colours: dict[tuple[Any, ...], Tensor] = {}

    def background(side: str, size: tuple[int, int], t: Tensor) -> Tensor:
        key = (side, *size, int(t))
        if key not in colours:
            for old in [k for k in colours if k[-1] != int(t)]:
                del colours[old]
            stream = f"elastic-background-{side}-{size[0]}-{size[1]}-{int(t)}"
            colour = torch.from_numpy(noise.generator(f"{stream}-colour").random(3)).reshape(1, 3, 1, 1)
            clean = backbone.encode(colour.float().expand(1, 3, size[0] * f, size[1] * f))
            kept = float(scheduler.alphas_cumprod[int(t)])
            colours[key] = clean * kept**0.5 + drawn(stream, tuple(clean.shape)) * (1 - kept) ** 0.5
        return colours[key]

    with torch.no_grad():
        told = sized(backbone.condition(prompt.text, prompt.negative), [(0, 0)], (4 * size[0], 4 * size[1]), f)
        first = {k: v.chunk(2)[0] for k, v in told.added.items()}
        blank = told.embeds.chunk(2)[0]

        def pair(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            done = []
            for a in range(0, x.shape[0], backbone.batch):
                z = x[a : a + backbone.batch]
                both = [each.repeat_interleave(z.shape[0], 0) for each in (told.embeds, *told.added.values())]
                added = dict(zip(told.added, both[1:], strict=True))
                done.append(backbone.predict(torch.cat([z, z]), t, both[0], added).chunk(2))
            u, c = zip(*done, strict=True)
            return torch.cat(u), torch.cat(c)

        def unconditional(x: Tensor, t: Tensor) -> Tensor:
            done = []
            for a in range(0, x.shape[0], backbone.batch):
                z = x[a : a + backbone.batch]
                rows = {k: v.expand(z.shape[0], *v.shape[1:]) for k, v in first.items()}
                done.append(backbone.predict(z, t, blank.expand(z.shape[0], -1, -1), rows))
            return torch.cat(done)

        with backbone.meter.stage("denoise"):
            latents = elasticdiffusion_latents(
                pair,
                unconditional,
                scheduler,
                start(backbone, scheduler, noise, size),
                window,
                background,
                noise.generator("elastic-picks"),
                lambda i, n: drawn(f"elastic-repaint-{i}", (n, 1, backbone.channels, *size)),
                guidance=guidance,
                resamplings=resamplings,
                new=new_p,
                weight=weight,
                power=power,
                stop=stop,
                repaint=repaint,
            )
        return picture(backbone, latents)
