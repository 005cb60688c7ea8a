"""A small picture by any method, enlarged by a network: the baseline that other methods have to beat.

No paper: the rows "+ ESRGAN" and "+ SR" of several tables. The small picture has the canvas's shape; the network is
Real-ESRGAN (Wang et al., ICCVW 2021, arXiv:2107.10833, BSD-3-Clause) or any that spandrel reads, applied as often as it
takes to reach the canvas, and what is then too large is resized down (:mod:`methods.shared.upscaler`). Or it is
FlashVSR (Zhuang et al., arXiv:2510.12747, Apache-2.0), which is made for clips and shown a still
(:mod:`methods.scrollsr`).

PROPOSAL, as tables do not print it: the small picture has the backbone's native area, and tiles of 512 pixels see 64
around them. With the published x4plus on a photograph that differs from one piece by .6 of 255 levels at most; with 32
pixels by 13, with the released 10 by 23 (``nox -s oracles``). The released script enlarges in one piece unless told
otherwise: preset ``official``.

Deviations: sizes that the network's factor does not give are made by antialiased bicubic resizing, there by OpenCV's
Lanczos; pictures are not rounded to eight bits in between; a loop stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil, log, sqrt
from typing import Any

from bench.errors import UsageError
from bench.ids import digest
from bench.noise import Noise
from bench.registry import Method, find, method
from bench.source import source_digest
from bench.types import Canvas, Parts, Prompt
from methods.backbones import LatentBackbone, Tensor, TokensBackbone, VideoBackbone
from methods.scrollsr.choose import identify, load
from methods.scrollsr.protocol import FrameByFrame, PictureUpscaler, Still, check_tiles

Backbone = LatentBackbone | TokensBackbone | VideoBackbone
PAPER = "no paper; Real-ESRGAN: Wang et al., ICCVW 2021, arXiv:2107.10833"
PRESETS: dict[str, dict[str, Any]] = {
    "official": {"tile": 0, "context": 10}, "flashvsr": {"model": "flashvsr-v1.1", "tile": 256, "context": 160},
}  # fmt: skip
MOST = 64  # times a side
WHERE = {"latent": "upscale", "tokens": "upscale-tokens", "video": "upscale-video"}


def called(base: str, family: str) -> tuple[Method, dict[str, Any]]:
    """A method and its knobs from ``METHOD[:PRESET] [KNOB=VALUE ...]``, such as ``direct:flux steps=20``.

    Raises:
        UsageError: an unknown method, preset or knob, values that do not fit, a method of another family.
    """
    ref, *said = base.split() or [""]
    name, _, preset = ref.partition(":")
    found: Method = find("methods", name)
    if found.family != family:
        where = WHERE.get(found.family)
        hint = f"; {where} takes it" if where else ""
        raise UsageError(f"base: {name} is of family {found.family}, expected one of family {family}{hint}")
    if name in WHERE.values():
        raise UsageError(f"base: {name} enlarges already; expected a method that makes a picture, such as direct")
    wrong = [part for part in said if "=" not in part]
    if wrong:
        raise UsageError(f"base: expected METHOD[:PRESET] [KNOB=VALUE ...], got {wrong[0]!r} in {base!r}")
    return found, found.resolve(dict(part.split("=", 1) for part in said), preset or None)


def requires(
    outline: Callable[[], Any], canvas: Canvas, knobs: Mapping[str, Any], family: str = "latent"
) -> Mapping[str, Any]:
    """The upscaler's weights by their content, the small picture's method by its source and what it is made of."""
    found, said = called(knobs["base"], family)
    inner = found.requires(outline, small(outline(), canvas, knobs["scale"]), said) if found.requires else {}
    return {
        "model": identify(knobs["model"]), "base-source": digest([source_digest(found.fn), found.version]),
        **{f"base-{name}": value for name, value in inner.items()},
    }  # fmt: skip


def small(backbone: Backbone, canvas: Canvas, scale: float | None) -> Canvas:
    """The canvas of the small picture: 1/``scale`` of each side, at least and in whole tokens of the network.

    Args:
        scale: None for the one at which the small picture has the native area; never below 1.
    """
    cell = backbone.factor * getattr(backbone, "patch", 1)
    if scale is None:
        scale = max(1.0, sqrt(canvas.width * canvas.height / native_area(backbone)))
    width, height = (max(1, round(side / scale / cell)) * cell for side in (canvas.width, canvas.height))
    return Canvas(min(width, canvas.width), min(height, canvas.height), canvas.loop)


def native_area(backbone: Backbone) -> int:
    """Pixels of the picture that a network was made for."""
    if backbone.family == "latent":
        return (backbone.window * backbone.factor) ** 2  # type: ignore[union-attr]
    if backbone.family == "tokens":
        return (backbone.side * backbone.factor) ** 2  # type: ignore[union-attr]
    _, height, width = backbone.native  # type: ignore[union-attr]
    return height * width * backbone.factor**2


def enlarged(upscaler: PictureUpscaler, picture: Tensor, canvas: Canvas, tile: int, context: int) -> Tensor:
    """A picture (3, h, w) brought to a canvas (3, height, width), both in [0, 1]."""
    from torch.nn.functional import interpolate

    ratio = max(canvas.height / picture.shape[-2], canvas.width / picture.shape[-1])
    for _ in range(ceil(log(ratio, upscaler.scale) - 1e-9)):
        margin = min(max(context, 1) // upscaler.multiple * upscaler.multiple, picture.shape[-1]) if canvas.loop else 0
        picture = upscaler(wrapped(picture, margin), tile, context).clamp(0, 1)
        picture = picture[..., margin * upscaler.scale : picture.shape[-1] - margin * upscaler.scale]
    if picture.shape[-2:] != (canvas.height, canvas.width):
        size = (canvas.height, canvas.width)
        picture = interpolate(picture[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return picture


def wrapped(picture: Tensor, margin: int) -> Tensor:
    """A loop with a margin of the opposite side at each end."""
    import torch

    return torch.cat([picture[..., -margin:], picture, picture[..., :margin]], -1) if margin else picture


def upscaled(
    backbone: Backbone, prompt: Prompt, canvas: Canvas, noise: Noise, *, base: str, scale: float | None, model: str,
    tile: int, context: int,
) -> Tensor:  # fmt: skip
    """The picture of all three methods here; :func:`upscale` names the knobs."""
    import torch

    found, said = called(base, backbone.family)
    if scale is not None and not 1 <= scale <= MOST:
        raise UsageError(f"scale is from 1 to {MOST}, or none for the native area; got {scale}")
    if tile < 0 or context < 0:
        raise UsageError(f"tile (0 for the whole picture) and context are pixels, got {tile} and {context}")
    upscaler = ready(model, backbone, noise)
    check_tiles(upscaler, tile, context)
    picture = found.fn(backbone, prompt, small(backbone, canvas, scale), noise, **said)
    picture = picture.whole() if isinstance(picture, Parts) else picture
    with torch.no_grad(), backbone.meter.stage("upscale"):
        return enlarged(upscaler, torch.as_tensor(picture), canvas, tile, context)


def ready(model: str, backbone: Backbone, noise: Noise) -> PictureUpscaler:
    """The network of a name, on the backbone's device, as one of single pictures."""
    video = load(model, backbone.device, backbone.precision, backbone.dtype).through(backbone.meter.remember)
    return video.upscaler if isinstance(video, FrameByFrame) else Still(video, noise)


@method("upscale", family="latent", paper=PAPER, licence="BSD-3-Clause", requires=requires, presets=PRESETS)
def upscale(
    backbone: LatentBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    base: str = "direct",
    scale: float | None = None,
    model: str = "real-esrgan-x4plus",
    tile: int = 512,
    context: int = 64,
) -> Tensor:
    """Make a small picture with a latent network and enlarge it.

    Args:
        base: what makes the small picture: ``METHOD[:PRESET] [KNOB=VALUE ...]``.
        scale: canvas over small picture, from 1 to 64; none for a small picture of the backbone's native area.
        model: the network: a name of ``scrollbench weights list`` (``real-esrgan-...``, ``flashvsr-v1.1``), a ``.pth``
            or ``.safetensors`` file, or ``flashvsr-v1.1:FOLDER`` with its released files.
        tile: side of the network's tiles, in pixels of its input; 0 is the whole picture at once. FlashVSR takes
            multiples of 32; the preset ``flashvsr`` has them and sees as far around as one of its layers does.
        context: pixels that a tile sees around it.

    Returns:
        (3, height, width) in [0, 1].

    Raises:
        UsageError: a base, a scale or a network that cannot be used; a canvas that the base refuses.
        PrerequisiteError: a network's weights that are not here.
    """
    return upscaled(backbone, prompt, canvas, noise, base=base, scale=scale, model=model, tile=tile, context=context)


@method(
    "upscale-tokens", family="tokens", paper=PAPER, licence="BSD-3-Clause", presets=PRESETS,
    requires=partial(requires, family="tokens"),
)  # fmt: skip
def upscale_tokens(
    backbone: TokensBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    base: str = "direct-tokens",
    scale: float | None = None,
    model: str = "real-esrgan-x4plus",
    tile: int = 512,
    context: int = 64,
) -> Tensor:
    """Make a small picture with a token network and enlarge it.

    Knobs, returns and errors are those of :func:`upscale`.
    """
    return upscaled(backbone, prompt, canvas, noise, base=base, scale=scale, model=model, tile=tile, context=context)


@method(
    "upscale-video", family="video", paper=PAPER, licence="BSD-3-Clause", presets=PRESETS,
    requires=partial(requires, family="video"),
)  # fmt: skip
def upscale_video(
    backbone: VideoBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    base: str = "direct-video",
    scale: float | None = None,
    model: str = "real-esrgan-x4plus",
    tile: int = 512,
    context: int = 64,
) -> Tensor:
    """Make a small picture with a video network and enlarge it.

    Knobs, returns and errors are those of :func:`upscale`.
    """
    return upscaled(backbone, prompt, canvas, noise, base=base, scale=scale, model=model, tile=tile, context=context)
