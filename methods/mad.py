"""MAD: Merging and Splitting Diffusion Paths for Semantically Coherent Panoramas (Merge-Attend-Diffuse).

Quattrini, Pippi, Cascianelli, Cucchiara; ECCV 2024, arXiv:2408.15660, section 3. The original code
(github.com/aimagelab/MAD) carries no licence file (its SDXL part has diffusers' Apache-2.0 header); none of it is used.
Defaults are its command line's: 50 DDIM steps (eta 0), guidance 7.5, windows of 64 cells at a stride of 16, and a
threshold of 25 steps; preset ``function`` is its sampling function's threshold of 50.

MultiDiffusion, with windows that attend together. In every attention layer of the U-Net the tokens of all windows are
put on one grid over the canvas, averaged where windows overlap, and attend there; the result is cut into windows again:

* self-attention in steps 0 to ``threshold`` - 1: queries, keys and values are averaged each on the canvas, which then
  attends to itself as a whole; later, every window attends to itself;
* cross-attention in every step: queries are averaged on the canvas, keys and values are the prompt's. So even
  ``threshold=0`` is not MultiDiffusion, unless windows do not overlap.

Queries, keys and values are linear in the hidden states, so it is those that are averaged here, once instead of three
times. All else (convolutions, norms, feed-forward) stays in the windows. Windows see one prompt. The released code's
choice of blocks (``mad_blocks``) does nothing, and is no knob here.

Three forms, by the backbone: Stable Diffusion; SDXL (preset ``sdxl``: guidance 5, stride 16 of 128, its own Euler
sampler, size conditioning of one window); and U-Nets with an embedded guidance scale, that is latent consistency models
(preset ``lcm``: 4 steps, threshold 2; use the backbone option sampler=checkpoint), for which the noise predictions are
averaged on the canvas and the canvas takes the step. The LCM form follows a description of the released code; there are
no numbers of it to compare with.

Deviations:

* the two branches of guidance are two calls, one after the other, of all windows each; the released code makes one call
  of both. They do not see each other, so results are the same at half the memory. A call cannot be cut smaller: the
  backbone's ``batch`` has no effect;
* tokens are averaged in the network's precision, rounded once a cell; in the released code in float32;
* strides and canvases that the coarsest layer's grid does not meet are refused; the released code rounds positions
  down. Strips that no window covers (``remainder=zero``) are refused: they would attend as zeros;
* loop canvases are refused: the paper defines none.

Memory: counted on the meta device (:mod:`bench.pipeline.meta`), SD 2.0 at fp16 on 512 x 5120 px peaks at 11.5 GB, and
SDXL on 1024 x 4096 px at 20.0 GB, weights included; both are the last decoding, as of MultiDiffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning, LatentBackbone, Scheduler, Tensor
from methods.shared.attention import attention_layers, embedded_guidance, processors, unet_of
from methods.shared.canvas import cells, picture, start
from methods.shared.sampling import undrawn
from methods.shared.windows import Places, Window, grid, sides


class Joint:
    """Windows that attend on one canvas. Use ``processors(unet, joint.wrap)``; each call is one batch of all windows.

    Args:
        windows: square, equal-sized, in cells of the network's input; multiples of every layer's downscaling.
        size: (height, width) of the canvas in the same cells.

    Attributes:
        merging: whether self-attention is over the canvas; cross-attention always is.
    """

    def __init__(self, windows: Sequence[Window], size: tuple[int, int]) -> None:
        self.windows, self.size, self.merging = windows, size, True
        self._places: dict[tuple[int, Any], Places] = {}

    def places(self, side: int, device: Any) -> Places:
        """Where the windows lie on the grid of a layer that has ``side`` tokens along a window."""
        if (side, device) not in self._places:
            f = self.windows[0].width // side
            windows = [Window(v.y // f, v.x // f, side, side) for v in self.windows]
            self._places[side, device] = Places(windows, (self.size[0] // f, self.size[1] // f), device)
        return self._places[side, device]

    def gather(self, canvas: Tensor) -> Tensor:
        """The windows (n, c, side, side) of a canvas of latents (1, c, h, w)."""
        side = self.windows[0].width
        views = self.places(side, canvas.device).gather(canvas[0].flatten(1).T)
        return views.transpose(1, 2).reshape(*views.shape[::2], side, side)

    def merge(self, views: Tensor) -> Tensor:
        """Windows (n, c, side, side) averaged on a canvas (1, c, h, w)."""
        cells = self.places(views.shape[-1], views.device).merge(views.flatten(2).transpose(1, 2))
        return cells.T.reshape(1, -1, *self.size)

    def wrap(self, inner: Any) -> Callable[..., Tensor]:
        """An attention processor that lets ``inner`` attend on the canvas."""

        def process(
            layer: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            attention_mask: Tensor | None = None,
        ) -> Tensor:
            if encoder_hidden_states is None and not self.merging:
                alone: Tensor = inner(layer, hidden_states, None, attention_mask)
                return alone
            places = self.places(isqrt(hidden_states.shape[1]), hidden_states.device)
            text = None if encoder_hidden_states is None else encoder_hidden_states[:1]
            out = inner(layer, places.merge(hidden_states)[None], text, attention_mask)
            return places.gather(out[0])

        return process


def mad_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    canvas: Tensor,
    joint: Joint,
    threshold: int = 25,
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Run all steps on a canvas of latents (1, c, h, w): MultiDiffusion over a network that attends through ``joint``.

    Args:
        guided: the guided network, called once a step with all windows; see :func:`all_windows`.
        scheduler: fresh, timesteps set.
        canvas: initial noise.
        joint: the windows, whose processors are in the network.
        threshold: steps whose self-attention is over the canvas.
        after_step: called with (index of the step, canvas after it).

    Returns:
        The final latents (1, c, h, w), before scaling and decoding.
    """
    for i, t in enumerate(scheduler.timesteps):
        joint.merging = i < threshold
        views = joint.gather(canvas)
        views = scheduler.step(guided(scheduler.scale_model_input(views, t), t), t, views).prev_sample
        canvas = joint.merge(views)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


def mad_lcm_latents(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    canvas: Tensor,
    joint: Joint,
    threshold: int,
    noise: Callable[[int], Tensor],
    after_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The form for latent consistency models: predictions are averaged on the canvas, which then takes the step.

    Args:
        network: the network with its embedded guidance, called once a step with all windows.
        scheduler: ``LCMScheduler``, timesteps set.
        canvas, joint, threshold, after_step: as in :func:`mad_latents`.
        noise: index of a step, the last excluded -> standard normal noise like the canvas, added after it.

    Returns:
        The last step's denoised latents (1, c, h, w), before scaling and decoding.
    """
    import torch

    unused = torch.Generator()  # the scheduler would draw the noise from the global generator
    last = len(scheduler.timesteps) - 1
    for i, t in enumerate(scheduler.timesteps):
        joint.merging = i < threshold
        mean = joint.merge(network(joint.gather(canvas), t))
        canvas = scheduler.step(mean, t, canvas, generator=unused).denoised
        if i < last:
            kept = scheduler.alphas_cumprod[scheduler.timesteps[i + 1]]
            canvas = kept**0.5 * canvas + (1 - kept) ** 0.5 * noise(i)
        if after_step is not None:
            after_step(i, canvas)
    return canvas


def all_windows(
    backbone: LatentBackbone, conditioning: Conditioning, guidance: float, joint: Joint
) -> Callable[[Tensor, Tensor], Tensor]:
    """The guided network u + g (c - u), each branch one call of all windows, whatever the backbone's ``batch``.

    At a guidance of exactly 1 only the branch c is called. The meter's phase tells forecasts what a call costs.
    """

    def branch(half: int, views: Tensor, t: Tensor) -> Tensor:
        def rows(table: Tensor) -> Tensor:
            part = table.chunk(2)[half]
            return part.expand(views.shape[0], *part.shape[1:])

        backbone.meter.phase = "merging" if joint.merging else ""
        return backbone.predict(
            views, t, rows(conditioning.embeds), {k: rows(v) for k, v in conditioning.added.items()}
        )

    def guided(views: Tensor, t: Tensor) -> Tensor:
        c = branch(1, views, t)
        if guidance == 1.0:
            return c
        u = branch(0, views, t)
        return u + guidance * (c - u)

    return guided


def _fits(unet: Any, backbone: LatentBackbone, remainder: str, **sides: int) -> None:
    """Refuse layers that averaging hidden states is wrong for, and lengths that the coarsest layer's grid splits."""
    if any(
        layer.residual_connection or any(getattr(layer, n, None) is not None for n in ("group_norm", "norm_q"))
        for layer in attention_layers(unet)
    ):
        raise UsageError(f"mad averages queries that are linear in their input; {backbone.name} has other attention")
    if remainder == "zero":
        raise UsageError("mad cannot leave strips uncovered (remainder=zero), they would attend as zeros; use clamp")
    coarsest = 2 ** (len(unet.config.block_out_channels) - 1)
    for name, length in sides.items():
        if length % coarsest:
            raise UsageError(
                f"the coarsest attention of {backbone.name} has one token for {coarsest} cells a side: {name} must be "
                f"a multiple of {coarsest} cells ({coarsest * backbone.factor} px), got {length}"
            )


@method(
    "mad",
    family="latent",
    paper="Quattrini et al., ECCV 2024, arXiv:2408.15660",
    licence="none (all rights reserved); written from a description",
    presets={
        "cli": {},
        "function": {"threshold": 50},
        "sdxl": {"guidance": 5.0, "stride": 16},
        "lcm": {"steps": 4, "threshold": 2},
    },
)
def mad(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    stride: int | None = None,
    window: int | None = None,
    remainder: str = "refuse",
    threshold: int = 25,
) -> Tensor:
    """Denoise overlapping windows together, and let them attend to each other as one canvas.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale, 1 is none; of a consistency model the embedded scale.
        stride: cells between windows; none is a quarter of the window (the official 16 of 64).
        window: side of a window in cells; none is the network's native size.
        remainder: cells that whole strides do not reach: ``refuse``, or ``clamp`` one more window to the edge.
        threshold: steps, from the first on, whose self-attention is over the whole canvas.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed, where canvas, knobs or backbone do not fit (see the module's text).
    """
    import torch

    if canvas.loop:
        raise UsageError("mad defines no loop; use multidiffusion or syncdiffusion, or a canvas with loop=false")
    height, width = cells(backbone, canvas)
    side, step = sides(backbone.window, window, stride, 4)
    windows = grid(height, width, side, step, remainder=remainder, factor=backbone.factor)
    unet = unet_of(backbone, "mad")
    _fits(unet, backbone, remainder, window=side, stride=step, height=height, width=width)
    scheduler = backbone.scheduler(steps, (side, side))
    consistency = unet.config.time_cond_proj_dim is not None
    if consistency != (type(scheduler).__name__ == "LCMScheduler"):
        raise UsageError(
            f"{backbone.name}: a U-Net {'with' if consistency else 'without'} embedded guidance and "
            f"{type(scheduler).__name__} do not go together; consistency models need the option sampler=checkpoint"
        )
    if not consistency:  # with one the noise is added here, after averaging
        undrawn(scheduler, "mad")
    if consistency and prompt.negative:
        raise UsageError("a consistency model takes no negative prompt; this prompt has one")
    joint = Joint(windows, (height, width))
    with torch.no_grad(), processors(unet, joint.wrap):
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            x = start(backbone, scheduler, noise, (height, width))
            if consistency:
                with embedded_guidance(unet, guidance, backbone.device):
                    latents = mad_lcm_latents(
                        all_windows(backbone, conditioning, 1.0, joint),
                        scheduler,
                        x,
                        joint,
                        threshold,
                        lambda i: noise.normal(f"mad-step-{i}", tuple(x.shape)).to(x.device, x.dtype),
                    )
            else:
                network = all_windows(backbone, conditioning, guidance, joint)
                latents = mad_latents(network, scheduler, x, joint, threshold)
        return picture(backbone, latents)
