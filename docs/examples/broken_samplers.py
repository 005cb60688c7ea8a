"""MultiDiffusion with one planted defect each, to see what a regression gate says. See docs/gates.md.

    scrollbench gate --baseline multidiffusion --candidate docs/examples/broken_samplers.py@seam --run

Their knobs are those of the miniature; ``refactored`` and ``reseeded`` have no defect, the first draws the same pixels.
"""

from __future__ import annotations

from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import LatentBackbone, Tensor
from methods.multidiffusion import multidiffusion
from methods.shared.canvas import cells, picture, start
from methods.shared.windows import gather, grid


def _draw(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, steps: int, guidance: float, stride: int,
    *, text: str | None = None, overwrite: bool = False, periodic: bool = False,
) -> Tensor:  # fmt: skip
    """MultiDiffusion in short, with places to break it."""
    import torch

    height, width = cells(backbone, canvas)
    side = backbone.window
    windows = grid(height, width, side, stride, loop=canvas.loop, factor=backbone.factor)
    with torch.no_grad():
        conditioning = backbone.condition(prompt.text if text is None else text, prompt.negative)
        scheduler = backbone.scheduler(steps, (side, side))
        latents = start(backbone, scheduler, noise, (height, width))
        if periodic:
            latents = latents[..., :side].repeat(1, 1, 1, -(-width // side))[..., :width]
        with backbone.meter.stage("denoise"):
            for t in scheduler.timesteps:
                views = gather(latents, windows)
                out = backbone.guided(scheduler.scale_model_input(views, t), t, conditioning, guidance)
                views = scheduler.step(out, t, views).prev_sample
                total, weight = torch.zeros_like(latents), torch.zeros_like(latents[:, :1])
                for view, v in zip(views, windows, strict=True):
                    place = (..., slice(v.y, v.y + v.height), slice(v.x, v.x + v.width))
                    total[place] = view if overwrite else total[place] + view
                    weight[place] = 1 if overwrite else weight[place] + 1
                latents = total / weight
        return picture(backbone, latents, canvas.loop)


@method("refactored", family="latent")
def refactored(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """No defect: the same sampler from another file."""
    drawn: Tensor = multidiffusion.fn(backbone, prompt, canvas, noise, steps=steps, guidance=guidance, stride=stride)
    return drawn


@method("reseeded", family="latent")
def reseeded(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """No defect: other pictures by the same sampler, from the noise of another seed."""
    other = Noise(noise.seed + 77, noise.prompt_id)
    drawn: Tensor = multidiffusion.fn(backbone, prompt, canvas, other, steps=steps, guidance=guidance, stride=stride)
    return drawn


@method("seam", family="latent")
def seam(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """Wrong merge weights: the last window over a cell overwrites the others instead of being averaged with them."""
    return _draw(backbone, prompt, canvas, noise, steps, guidance, stride, overwrite=True)


@method("repetition", family="latent")
def repetition(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """The same noise in every square, so that the same things come up all along the canvas."""
    return _draw(backbone, prompt, canvas, noise, steps, guidance, stride, periodic=True)


@method("lost-prompt", family="latent")
def lost_prompt(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """The prompt never reaches the network."""
    return _draw(backbone, prompt, canvas, noise, steps, guidance, stride, text="")


@method("blurred", family="latent")
def blurred(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """Decoded at half the resolution."""
    from torch.nn.functional import avg_pool2d, interpolate

    sharp: Tensor = multidiffusion.fn(backbone, prompt, canvas, noise, steps=steps, guidance=guidance, stride=stride)
    small = avg_pool2d(sharp[None], 2)
    return interpolate(small, scale_factor=2.0, mode="bilinear")[0].clamp(0, 1)


@method("slower", family="latent")
def slower(
    backbone: LatentBackbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, steps: int = 20, guidance: float = 2.5,
    stride: int = 2,
) -> Tensor:  # fmt: skip
    """The same picture after 30 % more work, as of a sampler whose first steps come to nothing."""
    wasted = max(1, round(0.3 * steps))
    multidiffusion.fn(backbone, prompt, canvas, noise, steps=wasted, guidance=guidance, stride=stride)
    drawn: Tensor = multidiffusion.fn(backbone, prompt, canvas, noise, steps=steps, guidance=guidance, stride=stride)
    return drawn
