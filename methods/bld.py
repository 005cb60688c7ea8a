"""Extrapolation by Blended Latent Diffusion: a panorama window after window, from left to right.

Avrahami, Fried, Lischinski; SIGGRAPH 2023, arXiv:2206.02779 (blending in latent space). The original
(github.com/omriav/blended-latent-diffusion) is MIT; none of it is used. MultiDiffusion and SyncDiffusion compare with
"BLD" panoramas, grown out of a first picture by sliding a window; how far it slides, and where to, was not found. The
definition here is ours and is documented as such:

* the first window is plain sampling; each further one starts half a window further right, from its cut of the shared
  canvas noise (pure noise, as in the original's script, not the noised source);
* after every step at t, what is known already is put back, noised to the same t, with fresh noise every time:

      x <- m x + (1 - m) noised(source, n, t),    m = 1 where nothing is known yet

  t is the current step's, so the known part is one step noisier than the new one, as in the original's script
  (``blend=previous`` takes the next one's, where they match; after the last step that is the clean source);
* all steps are run: the original skips the first quarter (``blending_percentage`` 0.25), which here would start from a
  source that half of the window does not have;
* the source is the latents themselves (there a picture, encoded); cells once written are never changed.

Defaults are the original's otherwise: 50 DDIM steps, guidance 7.5. Timesteps are the backbone's (its script's are one
lower). There are no numbers of the original to match; published pictures show seams and repetition, and errors add up
from left to right. Canvases are one window high; loops are refused. Noise comes from the streams ``bld-WINDOW-STEP``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import noisable, noised
from methods.shared.windows import Window, grid

BLENDS = ("current", "previous")
REMAINDERS = ("refuse", "clamp")


def bld_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    fresh_scheduler: Callable[[], Any],
    canvas: Tensor,
    windows: Sequence[Window],
    fresh: Callable[[int, int], Tensor],
    *,
    blend: str = "current",
    after_window: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Grow a canvas of latents (1, c, h, w) window by window.

    Args:
        guided: the guided network, ``guided(view, t)`` with a view (1, c, h, window).
        fresh_scheduler: makes a scheduler with its timesteps set, for every window; Euler or DDIM of diffusers.
        canvas: initial noise.
        windows: from left to right, each overlapping the one before or touching it.
        fresh: ``fresh(window, step)``, standard normal noise (1, c, h, window) for the known part.
        blend: ``current`` or ``previous``, see the module's text.
        after_window: called with (index of the window, canvas made so far, which is noise further right).

    Returns:
        The final latents (1, c, h, w).
    """
    done = canvas.clone()
    known = 0  # columns
    for k, v in enumerate(windows):
        scheduler = fresh_scheduler()
        overlap = known - v.x
        x = canvas[..., v.x : v.x + v.width]
        source = done[..., v.x : known]
        last = len(scheduler.timesteps) - 1
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(guided(scheduler.scale_model_input(x, t), t), t, x).prev_sample
            if overlap > 0:
                x = x.clone()
                level = i if blend == "current" else i + 1
                noisy = noised(scheduler, source, fresh(k, i)[..., :overlap], level) if level <= last else source
                x[..., :overlap] = noisy
        done[..., known : v.x + v.width] = x[..., max(0, overlap) :]
        known = v.x + v.width
        if after_window is not None:
            after_window(k, done)
    return done


@method(
    "bld",
    family="latent",
    paper="Avrahami et al., SIGGRAPH 2023, arXiv:2206.02779; as extrapolation, which is ours",
    licence="MIT; written from a description",
    presets={"official": {}, "matched": {"blend": "previous"}},
)
def bld(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    stride: int | None = None,
    blend: str = "current",
    remainder: str = "refuse",
) -> Tensor:
    """Make a first square and extend it to the right, window by window, putting back what is known at every step.

    Args:
        steps: sampling steps of each window.
        guidance: classifier-free guidance scale; 1 is none.
        stride: new cells in each window; none is half the native size.
        blend: noise level of what is put back: the ``current`` step's (original) or the ``previous`` timestep's, which
            the new part has reached.
        remainder: columns that whole strides do not reach: ``refuse``, or ``clamp`` the last window to the edge.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or sampler do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("bld cannot make a loop: it never comes back to its first window; use loop=false")
    for knob, value, known in (("blend", blend, BLENDS), ("remainder", remainder, REMAINDERS)):
        if value not in known:
            raise UsageError(f"unknown {knob} {value!r}; {near(value, known)}")
    size, side, f = cells(backbone, canvas), backbone.window, backbone.factor
    if size[0] != side:
        raise UsageError(
            f"bld grows a picture to the right, one window of {side * f} px high; got a height of {canvas.height} px"
        )
    hop = max(1, side // 2) if stride is None else stride
    windows = grid(*size, side, hop, remainder=remainder, factor=f)
    scheduler = backbone.scheduler(steps, (side, side))
    noisable(scheduler, "bld")

    def fresh(window: int, step: int) -> Tensor:
        drawn = noise.normal(f"bld-{window}-{step}", (1, backbone.channels, side, side))
        return drawn.to(backbone.device, backbone.dtype)

    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = bld_latents(
                lambda view, t: backbone.guided(view, t, conditioning, guidance),
                lambda: backbone.scheduler(steps, (side, side)),
                start(backbone, scheduler, noise, size),
                windows,
                fresh,
                blend=blend,
            )
        return picture(backbone, latents)
