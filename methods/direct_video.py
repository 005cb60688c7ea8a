"""Plain sampling of a video network straight at the canvas: the control for panoramas out of video models.

Wan Team, 2025, arXiv:2503.20314; the procedure is diffusers' ``WanPipeline`` (Apache-2.0), to which results are equal
at equal noise. Steps 50 and guidance 5 are that pipeline's defaults; its 81 frames are not: one frame is asked for, as
the benchmark wants a picture. The flow shift is an option of the backbone (``shift``).

Deviations: all noise comes from this benchmark's streams. The negative prompt is the prompt's, often empty;
Wan's own code brings a long default one, which a prompt set can carry.
"""

from __future__ import annotations

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import Tensor, VideoBackbone
from methods.canvas import cells, start
from methods.direct import direct_latents
from methods.sampling import keyed

WHICH = ("first", "middle", "last")


@method(
    "direct-video",
    family="video",
    paper="Wan Team, 2025, arXiv:2503.20314",
    licence="Apache-2.0",
)
def direct_video(
    backbone: VideoBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 5.0,
    frames: int = 1,
    which: str = "middle",
) -> Tensor:
    """Ask a video network for the whole canvas at once and keep one frame.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        frames: pictures in the video, one more than a multiple of the backbone's ``stride``; 81 is Wan's own clip.
        which: the frame to keep: ``first``, ``middle`` or ``last``.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: before anything is computed: a loop canvas (nothing here ties the edges together), sides that do not
            fill whole tokens or go beyond the network's positions, a number of frames that is not k * stride + 1, an
            unknown ``which``.
    """
    import torch

    if canvas.loop:
        raise UsageError("direct-video cannot make a loop: its edges never meet; use a canvas with loop=false")
    if which not in WHICH:
        raise UsageError(f"direct-video.which: unknown frame {which!r}; {near(which, WHICH)}")
    stride = backbone.stride
    if frames < 1 or frames % stride != 1 % stride:
        k = max(0, (frames - 1) // stride)
        raise UsageError(
            f"{backbone.name} makes 1 frame and then {stride} at a time: frames must be {stride}k + 1, got {frames}; "
            f"nearest: {k * stride + 1} or {(k + 1) * stride + 1}"
        )
    size = cells(backbone, canvas)
    scheduler = keyed(backbone.scheduler(steps, size), noise)
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            latents = direct_latents(
                lambda x, t: backbone.guided(x, t, conditioning, guidance),
                scheduler,
                start(backbone, scheduler, noise, ((frames - 1) // stride + 1, *size)),
            )
        video = backbone.decode(latents)[0]
    return video[:, {"first": 0, "middle": (frames - 1) // 2, "last": frames - 1}[which]]
