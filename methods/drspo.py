"""DRSPO: a small picture of the whole scroll as its blueprint, refined in windows under control.

"Decoupling Global Structure and Local Refinement: Blueprint-Guided Scroll Generation with Direct Preference
Optimization", anonymous, submitted to ICLR 2026. No code or weights are released; written from the paper.

1. Blueprint (section 3.2): the network samples the whole scroll, ``scale`` times smaller a side, with the weights of
   the low stage.
2. Its latents take the place of noise (equation 10): the picture is enlarged, encoded to z, and noised to the level of
   the first of the last ``strength`` of the steps.
3. I_canny = Canny(blueprint), cut by the windows F_i of the canvas (equation 11), goes through a ControlNet:

       I_{t-1}^i = Phi(F_i(J_t), F_i(I_canny), c)

4. The canvas is the mean of its windows after every step (equation 4, :mod:`methods.multidiffusion`), with the weights
   of the high stage.

The ablation of Table 2 and appendix D puts the blueprint's CLIP embedding beside the text by an IP-Adapter (equation
33): preset ``ip-adapter``. Both stages' weights are LoRAs, trained on preferences (:mod:`methods.training.drspo`).

The paper does not say, and here is a knob:

* network, steps, guidance: U-Net, windows of 128 cells and 1024 px speak for SDXL (INFERENCE); 50 and 7.5 (PROPOSAL);
* ``scale``: 2 (PROPOSAL: 512x2048 for 1024x4096, whose height SDXL still knows);
* ``strength``: 0.8 (PROPOSAL). The paper puts z itself in the place of noise, which a sampler that expects noise would
  only blur: ``level=clean`` does that. ``strength=none`` begins with noise;
* ``control_scale`` 0.5 (SDXL's ControlNets recommend it), in all steps; thresholds 100 and 200 (PROPOSAL), of OpenCV's
  Canny on the enlarged blueprint, whose lines are then as thin as those the ControlNet was trained on;
* ``adapter_scale`` 1 and ``adapter_view`` (CLIP would crop the middle): :mod:`methods.control.image_prompt`.

``strength=none``, ``control=none`` and no weights is ``multidiffusion``, whose blueprint then decides nothing.

Deviations: the mean is over equal weights, as released MultiDiffusion takes it; both stages ask for the same prompt; a
loop is refused, as its blueprint's edges would not meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import checkpoints
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning, LatentBackbone, Scheduler, Tensor
from methods.control import controlnet, image_prompt
from methods.control.canny import canny
from methods.control.canny import check as check_thresholds
from methods.direct import direct_latents
from methods.multidiffusion import multidiffusion_latents
from methods.shared import lora, trained
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import noisable, noised, undrawn
from methods.shared.windows import Window, gather, grid, sides

ADAPTED = r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"  # layers that the stages' weights are of
STAGES = ("low", "high")
LEVELS = ("noised", "clean")
MISSING = (
    "the {0} stage of drspo has weights trained on preferences, and none are released. Train them:\n"
    "  scrollbench train drspo --set stage={0} --backbone {1} --data PREFERENCES --out DIR\n"
    "and name them: --set drspo.{0}=DIR, or put them into torch's hub/checkpoints as {2}. {0}=none goes without"
)


def blueprint_size(backbone: LatentBackbone, canvas: Canvas, scale: float) -> Canvas:
    """The canvas of the blueprint: ``scale`` times smaller a side, in whole cells.

    Raises:
        UsageError: sides that the scale does not divide into whole cells.
    """
    width, height = canvas.width / scale, canvas.height / scale
    if width % backbone.factor or height % backbone.factor:
        f = backbone.factor * scale
        fits = "x".join(f"{max(1, round(side / f)) * f:g}" for side in (canvas.width, canvas.height))
        raise UsageError(
            f"drspo: a blueprint {scale:g} times smaller than {canvas.width}x{canvas.height} px is not whole cells of "
            f"{backbone.factor} px; nearest canvas: {fits}"
        )
    return Canvas(int(width), int(height))


def kept_steps(steps: int, strength: float | None) -> int:
    """How many of the steps the canvas takes, the last ones: diffusers' ``int(steps * strength)``; all for None."""
    return steps if strength is None else int(steps * strength)


def setting(backbone: LatentBackbone, canvas: Canvas, knobs: Mapping[str, Any]) -> tuple[Canvas, list[Window]]:
    """The blueprint's canvas and the windows of the large one; looks at configs alone.

    Raises:
        UsageError: numbers out of range, unknown choices, canvases that do not fit.
    """
    if canvas.loop:
        raise UsageError("drspo cannot make a loop: its blueprint's edges never meet; use a canvas with loop=false")
    check_thresholds(knobs["canny_low"], knobs["canny_high"])
    for knob, values in (("level", LEVELS), ("adapter_view", image_prompt.VIEWS)):
        if knobs[knob] not in values:
            raise UsageError(f"drspo: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    if not knobs["scale"] >= 1:
        raise UsageError(f"drspo: scale must be at least 1, got {knobs['scale']:g}")
    strength, steps = knobs["strength"], knobs["steps"]
    if strength is not None and not (0 < strength <= 1 and kept_steps(steps, strength) >= 1):
        raise UsageError(
            f"drspo: strength is above 0, at most 1, and leaves a step of {steps}, or none to begin with noise; got "
            f"{strength:g}"
        )
    begin, end = knobs["control_begin"], knobs["control_end"]
    if not 0 <= begin < end <= 1:
        raise UsageError(f"drspo: expected 0 <= control_begin < control_end <= 1, got {begin:g} and {end:g}")
    side, step = sides(backbone.window, knobs["window"], knobs["stride"], 4)
    windows = grid(*cells(backbone, canvas), side, step, remainder=knobs["remainder"], factor=backbone.factor)
    return blueprint_size(backbone, canvas, knobs["scale"]), windows


def stage_file(backbone: Any, stage: str, weights: str) -> Path | None:
    """The checked file of a stage's weights; empty: where users put theirs; None for ``none``.

    Raises:
        PrerequisiteError: there is none.
        UsageError: it is not for this network.
    """
    if weights == "none":
        return None
    usual = f"drspo-{stage}-{backbone.name}.safetensors"
    path = lora.find(weights or str(checkpoints() / usual), MISSING.format(stage, backbone.name, usual))
    lora.check(path, lora.layers(backbone.parts["unet"], ADAPTED), (), backbone.name)
    return path


def requires(outline: Callable[[], Any], canvas: Canvas, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what cannot work before anything is loaded; ControlNet, adapter and stages' weights by their content."""
    try:
        backbone = outline()
    except UsageError as error:
        raise UsageError(f"{error}; drspo works beside a U-Net: use sdxl, sd15 or world-sd") from error
    if "unet" not in getattr(backbone, "parts", {}):
        raise UsageError(f"drspo works beside a U-Net; backbone {backbone.name} has none: use sdxl, sd15 or world-sd")
    setting(backbone, canvas, knobs)
    named: dict[str, Any] = {}
    if knobs["control"] != "none":
        found = controlnet.locate(knobs["control"], backbone.name)
        controlnet.check(found.folder, backbone)
        named["control"] = found.digest
    if knobs["adapter"] != "none":
        named["adapter"] = image_prompt.locate(knobs["adapter"], backbone.name).digest
    for stage in STAGES:
        path = stage_file(backbone, stage, knobs[stage])
        named |= {} if path is None else {stage: lora.digest(path)}
    return named


# -- the steps


class Late:
    """The steps of a scheduler from number ``first`` on, as :class:`methods.backbones.Scheduler`."""

    def __init__(self, scheduler: Any, first: int) -> None:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        self.timesteps, self.init_noise_sigma = scheduler.timesteps[first:], scheduler.init_noise_sigma
        self.scale_model_input, self.step = scheduler.scale_model_input, scheduler.step


def edges(blueprint: Tensor, low: int, high: int) -> Tensor:
    """Canny's edges of a picture (3, h, w) in [0, 1] as a ControlNet takes them: (1, 3, h, w) of 0 and 1."""
    import torch

    if blueprint.device.type == "meta":
        return torch.empty_like(blueprint)[None]
    rgb = (blueprint.permute(1, 2, 0).cpu() * 255).round().numpy().astype(np.uint8)
    found = torch.from_numpy(canny(rgb, low, high)).to(blueprint)
    return found.expand(1, 3, -1, -1)


def control_rows(lines: Tensor, windows: Sequence[Window], factor: int) -> Tensor:
    """The cut of edges (1, 3, H, W) that belongs to each window, twice: rows for both halves of guidance."""
    boxes = [Window(*(side * factor for side in window)) for window in windows]
    return gather(lines, boxes).repeat(2, 1, 1, 1)


def refined(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    x: Tensor,
    windows: Sequence[Window],
    at_step: Callable[[int], None],
) -> Tensor:
    """Equations 4 and 11: :func:`methods.multidiffusion.multidiffusion_latents`, told of each step before it."""
    at_step(0)
    return multidiffusion_latents(guided, scheduler, x, windows, lambda i, _: at_step(i + 1))


@method(
    "drspo",
    family="latent",
    paper='"Decoupling Global Structure and Local Refinement", anonymous, submitted to ICLR 2026',
    licence="nothing is released; written from the paper",
    presets={
        "full": {},
        "without-control": {"control": "none"},
        "without-dpo": {"low": "none", "high": "none"},
        "ip-adapter": {"adapter": ""},
        "untrained": {"low": "none", "high": "none", "control": "none"},
    },
    requires=requires,
    trainer="methods.training.drspo:drspo",
)
def drspo(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    scale: float = 2.0,
    strength: float | None = 0.8,
    level: str = "noised",
    control: str = "",
    control_scale: float = 0.5,
    control_begin: float = 0.0,
    control_end: float = 1.0,
    canny_low: int = 100,
    canny_high: int = 200,
    adapter: str = "none",
    adapter_scale: float = 1.0,
    adapter_view: str = "letterbox",
    low: str = "",
    high: str = "",
    stride: int | None = None,
    window: int | None = None,
    remainder: str = "refuse",
) -> Tensor:
    """Sample the whole scroll small, then refine it window by window under the control of its edges.

    Args:
        steps: sampling steps, of the blueprint and of the canvas.
        guidance: classifier-free guidance scale of both.
        scale: canvas over blueprint, a side.
        strength: the share of the steps that the canvas takes, from the blueprint noised so far; none for all of them
            from noise.
        level: of the blueprint's latents at the first of these steps: ``noised``, or ``clean`` as the paper's text has
            it.
        control: ControlNet: a name of ``scrollbench weights list``, a folder, a repository in the hub's cache; empty
            for the backbone's Canny ControlNet; ``none``: without.
        control_scale: of what it adds.
        control_begin, control_end: shares of the canvas's steps between which it counts.
        canny_low, canny_high: Canny's thresholds.
        adapter: IP-Adapter: a name of ``scrollbench weights list``, or a folder; empty for the backbone's; ``none``.
        adapter_scale: of what cross-attention finds in the blueprint's tokens.
        adapter_view: how CLIP sees the blueprint: ``letterbox``, ``squash``, ``centre``.
        low, high: file or folder of each stage's LoRA; empty for ``hub/checkpoints/drspo-STAGE-BACKBONE.safetensors``
            of torch's cache; ``none``: the network as it is.
        stride: step between windows in cells; none is a quarter of the window (32 of 128).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach, as :func:`methods.multidiffusion.multidiffusion` says.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        PrerequisiteError: weights that are not here.
        UsageError: see :func:`setting`, :func:`methods.control.controlnet.check`, :func:`methods.shared.lora.check`; a
            scheduler that draws in its steps or is none of DDIM and Euler.
    """
    small, windows = setting(backbone, canvas, dict(locals()))
    import torch
    from torch.nn.functional import interpolate

    files = {stage: stage_file(backbone, stage, weights) for stage, weights in (("low", low), ("high", high))}
    side = windows[0].height
    scheduler: Any = backbone.scheduler(steps, (side, side))
    noisable(scheduler, "drspo")
    undrawn(scheduler, "drspo")
    count = kept_steps(steps, strength)
    with torch.no_grad():
        told = backbone.condition(prompt.text, prompt.negative)
        with _worn(backbone, files["low"]), backbone.meter.stage("denoise"):
            first = _blueprint(backbone, small, steps, noise, lambda x, t: backbone.guided(x, t, told, guidance))
        blueprint = picture(backbone, first)
        large = interpolate(blueprint[None], (canvas.height, canvas.width), mode="bicubic", antialias=True).clamp(0, 1)
        if strength is None:
            x = start(backbone, scheduler, noise, cells(backbone, canvas))
        else:
            x = _begun(scheduler, backbone.encode(large), noise, steps - count, level)
        with ExitStack() as within:
            added, at_step = dict(told.added), _silent
            if control != "none":
                lines = edges(large[0], canny_low, canny_high)
                added[controlnet.ROWS] = control_rows(lines, windows, backbone.factor)
                gate = _Gate(control_scale, count, control_begin, control_end)
                at_step = gate.at
                within.enter_context(_watched(backbone, control, gate))
            if adapter != "none":
                found = image_prompt.locate(adapter, backbone.name)
                added[image_prompt.ROWS] = image_prompt.embedded(blueprint, found, backbone, adapter_view)
                within.enter_context(image_prompt.adapted(backbone.unet, found.file, adapter_scale))  # type: ignore[attr-defined]
            within.enter_context(_worn(backbone, files["high"]))
            within.enter_context(backbone.meter.stage("denoise"))
            asked = Conditioning(told.embeds, added)
            latents = refined(
                lambda v, t: backbone.guided(v, t, asked, guidance), Late(scheduler, steps - count), x, windows, at_step
            )
        return picture(backbone, latents)


def _silent(step: int) -> None:
    """Nobody wants to know."""


class _Gate:
    """The ControlNet's scale, step by step."""

    def __init__(self, scale: float, steps: int, begin: float, end: float) -> None:
        self.full, self.steps, self.begin, self.end = scale, steps, begin, end
        self.scale = scale

    def at(self, step: int) -> None:
        """From now on this step's."""
        self.scale = self.full if controlnet.active(step, self.steps, self.begin, self.end) else 0.0


def _watched(backbone: Any, control: str, gate: _Gate) -> Any:
    found = controlnet.locate(control, backbone.name)
    controlnet.check(found.folder, backbone)
    network = backbone.meter.remember(controlnet.load(found, backbone))
    return controlnet.watched(backbone.unet, network, lambda: gate.scale)


def _worn(backbone: Any, path: Path | None) -> Any:
    if path is None:
        return ExitStack()
    return trained.worn(backbone.unet, path, backbone.device)


def _blueprint(
    backbone: LatentBackbone, canvas: Canvas, steps: int, noise: Noise, guided: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Its latents, from the stream ``blueprint``: the canvas's own noise is the large picture's."""
    size = cells(backbone, canvas)
    scheduler = backbone.scheduler(steps, size)
    drawn = noise.normal("blueprint", (1, backbone.channels, *size)).to(backbone.device, backbone.dtype)
    return direct_latents(guided, scheduler, drawn * float(scheduler.init_noise_sigma))


def _begun(scheduler: Any, z: Tensor, noise: Noise, first: int, level: str) -> Tensor:
    """The blueprint's latents at the level of step ``first``; as they are for ``clean``."""
    if level == "clean":
        return z * float(scheduler.init_noise_sigma)
    return noised(scheduler, z, noise.normal("canvas", tuple(z.shape)).to(z), first)
