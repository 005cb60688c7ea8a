"""Plain next-token generation of the whole canvas: the control every panorama method on tokens is measured against.

At the native square this is LlamaGen as released (Sun et al., 2024, arXiv:2406.06525; code MIT): tokens in raster
order, guidance u + g (c - u) on the logits, top-k, top-p and temperature; the defaults are those of the released
text-to-image script. PROPOSAL for any other canvas: the rotary table is computed for the canvas's own rows and columns
and one pass goes over all of it; the model was trained on its square only, and shows it.

Deviations: tokens are drawn with this benchmark's numbers (:class:`methods.shared.tokens.Sampler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.errors import UsageError
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Prompt
from methods.backbones import Conditioning, Tensor, TokensBackbone, TokenWalk
from methods.shared.tokens import Sampler, conditions, joined, numbers, token_grid


def raster(walk: TokenWalk, conditioning: Conditioning, count: int, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The first ``count`` tokens of a grid in raster order, (pictures, count); ``choose(logits, position)`` decides."""
    import torch

    tokens = [choose(walk.tell(conditioning), 0)]
    for i in range(1, count):
        tokens.append(choose(walk.feed(tokens[-1][:, None], [i - 1]), i))
    return torch.stack(tokens, 1)


def together(
    backbone: TokensBackbone,
    prompts: Sequence[Prompt],
    canvas: Canvas,
    noises: Sequence[Noise],
    *,
    guidance: float,
    top_k: int,
    top_p: float,
    temperature: float,
) -> list[Tensor]:
    """Several pictures of one canvas, each as :func:`direct_tokens` makes it."""
    import torch

    if canvas.loop:
        raise UsageError("direct-tokens cannot make a loop: its edges never meet; use a canvas with loop=false")
    height, width = token_grid(backbone, canvas)
    pick = Sampler(temperature, top_k, top_p)
    with torch.no_grad():
        told = [conditions(backbone, i, p.negative, [p.text])[0] for i, p in enumerate(prompts)]
        with backbone.meter.stage("denoise"):
            u = numbers(noises, (height, width), backbone.device).flatten(1)
            walk = backbone.walk((height, width), guidance, len(prompts))
            count = height * width
            tokens = raster(walk, joined(told), count, lambda logits, i: pick(logits, u[:, i]))
            pick.check()
        return [backbone.decode(one.view(height, width)) for one in tokens]


@method(
    "direct-tokens",
    family="tokens",
    paper="Sun et al., 2024, arXiv:2406.06525",
    licence="MIT",
    together=together,
)
def direct_tokens(
    backbone: TokensBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    guidance: float = 7.5,
    top_k: int = 1000,
    top_p: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Generate the whole canvas token by token in one raster pass.

    Args:
        guidance: classifier-free guidance scale; 1 is none.
        top_k: tokens to choose from; 0 is all.
        top_p: share of probability to choose from.
        temperature: flatness of the choice; 0 takes the likeliest token.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: a loop canvas (raster order has a first column), sides that do not fill whole tokens, or sampling
            knobs out of range.
    """
    return together(
        backbone, [prompt], canvas, [noise], guidance=guidance, top_k=top_k, top_p=top_p, temperature=temperature
    )[0]
