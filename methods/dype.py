"""DyPE: Dynamic Position Extrapolation for Ultra High Resolution Diffusion.

Issachar, Yariv, Benaim, Adi, Lischinski, Fattal; ICML 2026, arXiv:2510.20766 (section 3; Tables 1, 6 and 7). Written
from a description; the original (github.com/guyyariv/DyPE, commit 436fe61: an MIT licence file beside a note that a
patent is pending) is matched in its tables, its schedule and its loop. Defaults are its: YaRN, FLUX.1-Krea-dev, 28
steps, guidance 4.5.

The network sees the whole canvas at once. On an axis with n positions where it was trained on m < n (FLUX: 64 tokens of
16 px, 1024 px), the rotary frequencies are those of :mod:`methods.shared.positions` at s = n / m; an axis that is not
too long keeps its own, so at 4096x512 only columns change. t in (0, 1] is the step's noise level, 1 at the start:

    yarn   thresholds of the three parts times kappa, (1.25, 0.75) kappa and (16, 2) kappa; gain 0.1 ln s + 1 throughout
    ntk    base theta s^(d/(d-2) 2 t^2)
    none   as trained

with kappa = t^2: coarse structure is laid out on positions squeezed into what the network knows, and towards the end
ever more frequencies are the trained ones. ``dynamic=False`` is plain YaRN (kappa 1) and NTK (exponent 1), two rows of
the paper's tables. The paper writes kappa(t) = 2 t^2 for NTK, and finds (Table 7) that changing nothing but the
thresholds is best for YaRN, which is what the code does. It names 1 and 32 as YaRN's thresholds; the code has the four
above.

``kappa``: ``product`` as above. ``power`` is the code before 24 February 2026, thresholds to the power 2 t^2, which
ports made in 2025 still follow (preset ``dy-yarn-2025``).

``shift``: the timestep shift. The original keeps mu = 1.15 at every size, for every rule, ``none`` too: FLUX at its
native square (``native``). The FLUX pipeline's, which grows with the canvas and at 4096x4096 leaves one giant step, is
``canvas``; a backbone with option ``mu`` set has that mu in either case. ``rule="none", shift="canvas"`` is ``direct``.

Deviations:

* the native length is the backbone's, so the method runs on any FLUX, the miniature's too;
* t is not rounded to the network's precision, the original's is (bf16: to 8 bits);
* where thresholds leave the axis at both ends (t below about 0.01, which 28 or 50 steps never reach) every frequency is
  as trained, the limit of t to 0; the original's blend turns over there;
* latent backbones with rotary positions only. U-Nets have no positions; SD 3.5 and PixArt add theirs to the tokens,
  with no frequency to change. Wan's are rotary, but it is a video network: the paper's experiment with it is not
  offered, nor that with Qwen-Image. Loops are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Scheduler, Tensor
from methods.direct import direct_latents
from methods.shared.canvas import cells, picture, start
from methods.shared.positions import Axis, Rule, axes_of, ntk, placed, plain, yarn
from methods.shared.sampling import keyed

CHOICES = {"rule": ("yarn", "ntk", "none"), "kappa": ("product", "power"), "shift": ("native", "canvas")}
INTERPOLATED, KEPT = (1.25, 0.75), (16.0, 2.0)  # thresholds: turns on the native axis


def dype_rule(
    axis: Axis, length: int, t: float, rule: str = "yarn", dynamic: bool = True, kappa: str = "product"
) -> Rule:
    """The frequencies of an axis with ``length`` positions at noise level ``t`` in (0, 1]."""
    scale = length / axis.native
    if rule == "none" or scale <= 1:
        return plain(axis.theta)
    if rule == "ntk":
        return ntk(scale, axis.theta, power=2 * t**2 if dynamic else 1.0)

    def moved(thresholds: tuple[float, float]) -> tuple[float, float]:
        a, b = thresholds
        if not dynamic:
            return a, b
        return (a * t**2, b * t**2) if kappa == "product" else (a ** (2 * t**2), b ** (2 * t**2))

    return yarn(scale, axis.native, axis.theta, moved(INTERPOLATED), moved(KEPT))


def dype_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    x: Tensor,
    table: Any,
    rules: Callable[[float], Sequence[Rule]],
) -> Tensor:
    """:func:`methods.direct.direct_latents`, the network's positions changed before every call.

    Args:
        guided: the guided network, ``guided(x, t)``, whose table is ``table``.
        scheduler: fresh, timesteps set.
        x: initial noise (n, c, h, w).
        table: of :func:`methods.shared.positions.placed`.
        rules: from the noise level to a rule for each axis.
    """

    def turned(z: Tensor, t: Tensor) -> Tensor:
        table.rules = rules(float(t) / 1000)  # flow matching counts its noise level in thousandths
        return guided(z, t)

    return direct_latents(turned, scheduler, x)


@method(
    "dype",
    family="latent",
    paper="Issachar et al., ICML 2026, arXiv:2510.20766",
    licence="MIT, patent pending; written from a description",
    presets={
        "dy-yarn": {},
        "dy-yarn-2025": {"kappa": "power"},
        "yarn": {"dynamic": False},
        "dy-ntk": {"rule": "ntk"},
        "ntk": {"rule": "ntk", "dynamic": False},
        "flux": {"rule": "none"},
    },
)
def dype(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 28,
    guidance: float = 4.5,
    rule: str = "yarn",
    dynamic: bool = True,
    kappa: str = "product",
    shift: str = "native",
) -> Tensor:
    """Ask a rotary transformer for the whole canvas, its positions squeezed at first and let go as noise falls.

    Args:
        steps: sampling steps.
        guidance: on FLUX the network's guidance input.
        rule: of positions, where an axis is longer than the native one: ``yarn``, ``ntk`` or ``none``.
        dynamic: whether the rule changes with the noise level.
        kappa: how, with yarn: ``product``, or ``power``, the original before February 2026.
        shift: timestep shift of the ``native`` square (mu = 1.15) or of the ``canvas``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, on unknown choices, a loop canvas, sides that do not fill whole tokens,
            or a network without rotary positions.
    """
    import torch

    for knob, value in (("rule", rule), ("kappa", kappa), ("shift", shift)):
        if value not in CHOICES[knob]:
            raise UsageError(f"dype: unknown {knob} {value!r}; {near(value, CHOICES[knob])}")
    if canvas.loop:
        raise UsageError(
            "dype cannot make a loop: its edges never meet; use multidiffusion, or a canvas with loop=false"
        )
    axes = axes_of(backbone, "dype")
    size = cells(backbone, canvas)
    lengths = (1, *(side // backbone.patch for side in size))
    scheduler = keyed(backbone.scheduler(steps, size if shift == "canvas" else None), noise)

    def rules(t: float) -> list[Rule]:
        return [dype_rule(axis, n, t, rule, dynamic, kappa) for axis, n in zip(axes, lengths, strict=True)]

    with torch.no_grad(), placed(backbone, axes) as table:
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = dype_latents(
                lambda x, t: backbone.guided(x, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, size),
                table,
                rules,
            )
        return picture(backbone, latents)
