"""Scale-DiT: local attention on a large canvas, led by a small picture of it.

Zhang, Tai; arXiv:2510.16325 (version 1; later UltraImageGen, ECCV 2026). Written from a description of the first
release for FLUX.1-dev (github.com/PeterYYZhang/Scale-DiT, commit 958f0de, MIT), whose masks, orders and positions it
equals; none of its code is used. Defaults are that release's.

A. The network samples the canvas ``ratio`` times smaller a side, as it is.
B. That picture is decoded, enlarged (bicubic, then x + (x - blur of x) with a blur of 3 px and a deviation drawn from
   0.1 to 2.0), encoded to z and noised to the level s of the first of the last ``kept`` steps: (1 - s) z + s noise.
   With 28 steps, 18 kept and shift 3 that is s = 0.844. ``start=noise`` begins with noise and takes all steps.
C. Every further step is one call on [text | high | low] tokens (:mod:`methods.shared.flux_streams`): the clean latents
   of A go along as a third group. Who sees whom is said in :mod:`methods.shared.token_layout`; a high token sees the
   text, what is within half a window, and the small picture in the windows around its own. Low tokens stand at the
   positions of their corners in the large grid, and the rotary base is ``ntk`` times the network's. The adapter, the
   *bridge*, works on low tokens everywhere, on high ones in queries, keys and values: it cannot be merged.
   ``flow=cosine`` bends the velocity v in its low frequencies L (a mean over 2 x 2 cells, one level of Haar's wavelet)
   towards the one that leads to z, of later configs of the release, at step i of N:

       v <- v + a_i (L((x - z) / s) - L(v)),   a_i = (1 + cos(pi i / N)) / 2

D. Decode.

The weights of the bridge are the file or folder that ``bridge`` names: the released ones (343 layers of FLUX.1-dev; see
README.md of that repository for the download) or trained ones (:mod:`methods.training.bridge`). ``bridge=none`` leaves
bridge and small picture's tokens out. With ``start=noise``, ``attention=dense`` and ``shift=none`` besides, this is
``direct``.

Presets: ``official``; ``legacy`` takes the windows around by number in raster order, as the release does: at the edges
that leaks in what stands at the far side; ``hilbert``, the order that the paper's text names; ``flow``.

Limits, deviations and what was settled here:

* FLUX.1 with a guidance input only. Sides must be whole windows of a quarter of the native side (FLUX: 256 px), at any
  proportion; 8:1 was not tried by the authors. ``ratio`` is for both sides. Loops are refused;
* attention is exact in the network's type. The release computes whole blocks of 128 x 64 as soon as one pair in them is
  allowed, in 8 bits, so its tokens see somewhat more. Here orders change speed and memory, and nothing else;
* low tokens always stand in the order of the high ones; the release sorts them from 512 px on, its masks expect it;
* the timestep shift is 3.0 at every size (INFERENCE: the release switches the growing one off, and its ``time_shift``
  is read by nothing); ``shift=none`` is the backbone's own;
* from noise the release takes the last 18 steps too, though noise is not what they begin with; all are taken here;
* z is the mode of the encoder's distribution, the release draws from it; pictures are encoded and decoded in one piece
  unless the backbone has ``vae_tiling``;
* low tokens see low tokens only and are as clean at every step: they could be computed once. They are not yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import checkpoints
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning, LatentBackbone, Tensor
from methods.backbones.identity import WORLD
from methods.backbones.schedules import make_scheduler
from methods.direct import direct_latents
from methods.shared import lora
from methods.shared.bridged import Bridged
from methods.shared.canvas import cells, picture, start
from methods.shared.flux_streams import ADAPTED, NORMS
from methods.shared.orders import known
from methods.shared.sampling import keyed
from methods.shared.token_layout import NEIGHBOURS, Layout

CHOICES = {
    "neighbours": NEIGHBOURS, "start": ("picture", "noise"), "flow": ("none", "cosine"), "attention": ("local", "dense")
}  # fmt: skip
RANK = 16  # of the released adapter
OFFICIAL = "scale-dit-flux.1-dev.safetensors"
MISSING = (
    "scale-dit needs the weights of its bridge. Train them:\n"
    "  scrollbench train scale-dit --backbone {} --data {} --out DIR\n"
    "and name them: --set scale-dit.bridge=DIR. For FLUX.1-dev the official pytorch_lora_weights.safetensors (343 "
    "layers, rank 16) does, to which README.md of github.com/PeterYYZhang/Scale-DiT links: name it, or put it into "
    f"torch's hub/checkpoints as {OFFICIAL}. bridge=none samples without"
)


class Setting(NamedTuple):
    """What canvas and knobs come to on a backbone, all in tokens; see :class:`methods.shared.token_layout.Layout`."""

    grid: tuple[int, int]
    ratio: int
    window: int
    order: str
    neighbours: str
    dense: bool
    led: bool  # whether there are low tokens

    def layout(self, text: int) -> Layout:
        """With so many tokens of text."""
        wide = self.dense
        low = self.window // self.ratio
        return Layout(
            self.grid, text, self.ratio if self.led else 0, self.window,
            None if wide else self.window // 2, None if wide else low // 2, self.order, self.neighbours, low_seen=wide,
        )  # fmt: skip


def setting(backbone: Any, canvas: Canvas, knobs: Mapping[str, Any]) -> Setting:
    """What canvas and knobs come to; looks at configs alone.

    Raises:
        UsageError: unknown choices, numbers out of range, a network that is no FLUX, sides that windows do not fill.
    """
    known(knobs["order"])
    for knob, values in CHOICES.items():
        if knobs[knob] not in values:
            raise UsageError(f"scale-dit: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    if not 1 <= knobs["kept"] <= knobs["steps"]:
        raise UsageError(f"scale-dit: kept must be 1 to {knobs['steps']}, the steps; got {knobs['kept']}")
    for knob in ("ntk", "shift"):
        if knobs[knob] is not None and not knobs[knob] > 0:
            raise UsageError(f"scale-dit: {knob} must be above 0, got {knobs[knob]}")
    if type(getattr(backbone, "transformer", None)).__name__ != "FluxTransformer2DModel":
        raise UsageError(
            f"scale-dit works inside FLUX's transformer; backbone {backbone.name} has none: use flux-dev or world-flux"
        )
    if canvas.loop:
        raise UsageError("scale-dit cannot make a loop: its edges never meet; use a canvas with loop=false")
    token, native, ratio = backbone.factor * backbone.patch, backbone.window // backbone.patch, knobs["ratio"]
    if ratio < 1:
        raise UsageError(f"scale-dit: ratio must be at least 1, got {ratio}")
    window = knobs["window"] or max(native // 4, ratio)
    if window < 1 or window % ratio:
        fits = max(1, round(window / ratio)) * ratio
        raise UsageError(
            f"scale-dit: a window of {window} tokens is not whole tokens of a picture {ratio} times smaller; nearest "
            f"window: {fits}"
        )
    side = window * token
    if canvas.width % side or canvas.height % side:
        near_by = "x".join(str(max(1, round(n / side)) * side) for n in (canvas.width, canvas.height))
        raise UsageError(
            f"scale-dit covers the canvas with windows of {side} px ({window} tokens): sides must be multiples, got "
            f"{canvas.width}x{canvas.height}; nearest that fits: {near_by}"
        )
    rows, columns = canvas.height // token, canvas.width // token
    return Setting(
        (rows, columns), ratio, window, knobs["order"], knobs["neighbours"], knobs["attention"] == "dense",
        led=knobs["bridge"] != "none",
    )  # fmt: skip


def bridge_file(backbone: Any, bridge: str) -> Any:
    """The file that ``bridge`` names, or on the embedded miniature the one that came with it; None for ``none``.

    Raises:
        PrerequisiteError: there is none.
        UsageError: it is no adapter for this network.
    """
    if bridge == "none":
        return None
    world = backbone.name.startswith("world-flux")
    usual = WORLD.with_name("world-bridge") if world else checkpoints() / OFFICIAL
    path = lora.find(bridge or str(usual), MISSING.format(backbone.name, "world" if world else "FOLDER"))
    shapes = lora.layers(backbone.transformer, ADAPTED)
    lora.check(path, shapes, lora.layers(backbone.transformer, NORMS), backbone.name)
    return path


def requires(outline: Callable[[], Any], canvas: Canvas, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what cannot work before anything is loaded; the bridge by its content, as recipes name it."""
    try:
        backbone = outline()
    except UsageError as error:
        raise UsageError(f"{error}; scale-dit works inside FLUX's transformer: use flux-dev or world-flux") from error
    setting(backbone, canvas, knobs)
    path = bridge_file(backbone, knobs["bridge"])
    return {} if path is None else {"bridge": lora.digest(path)}


def sharpened(images: Tensor, deviation: float) -> Tensor:
    """x + (x - blur of x) in [0, 1], the blur a Gaussian of 3 x 3 px with edges mirrored, of pictures (n, c, h, w)."""
    import torch
    from torch.nn.functional import conv2d, pad

    line = torch.tensor([math.exp(-0.5 * (i / deviation) ** 2) for i in (-1, 0, 1)])
    kernel = torch.outer(line / line.sum(), line / line.sum()).to(images)
    channels = images.shape[1]
    soft = conv2d(pad(images, (1, 1, 1, 1), mode="reflect"), kernel.expand(channels, 1, 3, 3), groups=channels)
    return (2 * images - soft).clamp(0, 1)


def coarse(x: Tensor) -> Tensor:
    """The low frequencies of one level of Haar's wavelet: every 2 x 2 cells replaced by their mean."""
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(x, 2).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def scaledit_latents(
    velocity: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    x: Tensor,
    first: int = 0,
    goal: Tensor | None = None,
) -> Tensor:
    """The steps from number ``first`` on (stage C).

    Args:
        velocity: ``velocity(x, t)``.
        scheduler: flow-matching Euler, fresh, timesteps set.
        x: latents (1, c, h, w) at the noise level of step ``first``.
        goal: clean latents that low frequencies are bent towards (projected-flow guidance); None: they are not.
    """
    scheduler.set_begin_index(first)
    steps = scheduler.timesteps[first:]
    for i, t in enumerate(steps):
        v = velocity(x, t)
        if goal is not None:
            wanted = (x - goal) / float(scheduler.sigmas[first + i])
            v = v + 0.5 * (1 + math.cos(math.pi * i / len(steps))) * (coarse(wanted) - coarse(v))
        x = scheduler.step(v, t, x).prev_sample
    return x


def schedule(backbone: Any, steps: int, size: tuple[int, int], shift: float | None) -> Any:
    """A fresh scheduler: the backbone's own for this size where ``shift`` is None, else FLUX's sigmas, shifted so."""
    import numpy as np

    if shift is None:
        return backbone.scheduler(steps, size)
    config = {**backbone.scheduler(1).config, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    config |= {"use_dynamic_shifting": False, "shift": shift}
    return make_scheduler(config, steps, double=backbone.precision == "fp64", sigmas=np.linspace(1.0, 1 / steps, steps))


@method(
    "scale-dit",
    family="latent",
    paper="Zhang and Tai, ECCV 2026, arXiv:2510.16325",
    licence="MIT; written from a description",
    presets={
        "official": {},
        "legacy": {"neighbours": "raster"},
        "hilbert": {"order": "hilbert-window"},
        "flow": {"flow": "cosine"},
    },
    requires=requires,
    trainer="methods.training.bridge:bridge",
)
def scale_dit(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 28,
    kept: int = 18,
    guidance: float = 4.5,
    low_guidance: float = 3.5,
    bridge: str = "",
    ratio: int = 4,
    window: int | None = None,
    order: str = "window",
    neighbours: str = "plane",
    start: str = "picture",
    attention: str = "local",
    ntk: float = 10.0,
    shift: float | None = 3.0,
    flow: str = "none",
) -> Tensor:
    """Sample small, then the whole canvas by local attention, beside the small picture's clean tokens.

    Args:
        steps: sampling steps, of the small picture and of the canvas.
        kept: how many of them, the last ones, the canvas takes; from noise all.
        guidance, low_guidance: the network's guidance input for the canvas and for the small picture.
        bridge: file or folder of the adapter's weights; empty for the embedded miniature's own, on other networks for
            ``hub/checkpoints/scale-dit-flux.1-dev.safetensors`` of torch's cache; ``none``: without adapter and
            without the small picture's tokens.
        ratio: how many times smaller a side the small picture is.
        window: tokens a side of a window; none is a quarter of the native square (16 of FLUX's 64), at least ``ratio``.
        order: of tokens: ``window``, ``hilbert-window``, ``hilbert-released``, ``hilbert``, ``raster``.
        neighbours: windows of the small picture that a token sees: those around its own (``plane``), or by raster
            number (``raster``, as released).
        start: from the enlarged small ``picture``, or from ``noise``.
        attention: ``local``, or ``dense``: all see all, to compare.
        ntk: the rotary base is multiplied by this where there is a bridge.
        shift: timestep shift at every size; none is the backbone's own.
        flow: projected-flow guidance, ``none`` or ``cosine``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        PrerequisiteError: no weights of the bridge.
        UsageError: see :func:`setting` and :func:`methods.shared.lora.check`.
    """
    chosen = setting(backbone, canvas, dict(locals()))
    import torch

    adapter = _adapter(backbone, bridge)
    size = cells(backbone, canvas)
    small = (size[0] // ratio, size[1] // ratio)
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        network = Bridged(
            backbone, adapter, chosen.layout(int(conditioning.embeds.shape[1])), conditioning, guidance, ntk
        )
        backbone.meter.flag(f"attention={network.attention.name}")
        low = goal = None
        if chosen.led or start == "picture" or flow != "none":
            low = _small(backbone, conditioning, low_guidance, noise, schedule(backbone, steps, small, shift), small)
        if low is not None and (start == "picture" or flow != "none"):
            goal = _enlarged(backbone, low, ratio, noise)
        scheduler = keyed(schedule(backbone, steps, size, shift), noise)
        first = steps - kept if start == "picture" else 0
        x = _begin(backbone, scheduler, noise, size)
        if goal is not None and start == "picture":
            level = float(scheduler.sigmas[first])
            x = (1 - level) * goal + level * x
        beside = low if chosen.led else None
        latents = scaledit_latents(
            lambda x, t: network(x, beside, t), scheduler, x, first, None if flow == "none" else goal
        )
        return picture(backbone, latents)


_begin = start  # the knob of that name hides it


def _adapter(backbone: Any, bridge: str) -> dict[str, lora.Lora]:
    """The bridge's pairs; on the meta device, where nothing is named, blank ones of the released rank."""
    import torch

    if bridge == "none":
        return {}
    if backbone.device.type == "meta" and not bridge:
        shapes = lora.layers(backbone.transformer, ADAPTED)
        return lora.fresh(shapes, RANK, lambda s: torch.empty(s, dtype=backbone.transformer.dtype, device="meta"))
    return lora.load(bridge_file(backbone, bridge), backbone.device, backbone.transformer.dtype)


def _small(
    backbone: LatentBackbone, conditioning: Conditioning, guidance: float, noise: Noise, scheduler: Any,
    size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Clean latents of the small picture (stage A), from the stream ``small-canvas``."""
    x = noise.normal("small-canvas", (1, backbone.channels, *size)).to(backbone.device, backbone.dtype)
    with backbone.meter.stage("denoise"):
        return direct_latents(lambda x, t: backbone.guided(x, t, conditioning, guidance), keyed(scheduler, noise), x)


def _enlarged(backbone: LatentBackbone, low: Tensor, ratio: int, noise: Noise) -> Tensor:
    """Latents of the small picture, enlarged and sharpened (stage B)."""
    from torch.nn.functional import interpolate

    images = interpolate(backbone.decode(low), scale_factor=ratio, mode="bicubic", align_corners=False)
    deviation = float(noise.generator("sharpening").uniform(0.1, 2.0))
    return backbone.encode(sharpened(images, deviation))
