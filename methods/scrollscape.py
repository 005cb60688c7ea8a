"""ScrollScape: a long picture as the clip of a camera that moves over it.

Yu, Zhang, Di, Zhang, Zuo; ECCV 2026, arXiv:2603.24270. No code and no weights are public, and the paper itself could
not be read: FACT is what a detailed note on it says, PROPOSAL what closes a gap, INFERENCE what its numbers suggest.
Written for Wan2.1 (FACT: text to video, 1.3B).

1. FACT. The canvas is cut into overlapping windows along a scan; window t is latent frame t of a clip
   (:mod:`methods.shared.scan`, with *ScanPE*, the positions of its tokens, and the PROPOSAL for sizes and steps).
   Positions are computed, so canvases end at no table.
2. FACT: one pass of flow-matching sampling makes the clip. PROPOSAL: 50 steps, guidance 5, frames cut out of one canvas
   of noise, so that tokens that overlap begin equal, and nothing averaged in between. ``shared_noise=False`` draws each
   frame's own; ``sync=k`` averages every k-th prediction where frames overlap. Wan's own code takes flow shift 5, the
   checkpoint says 3: the backbone's option ``shift``. Wan's long negative prompt belongs to a prompt set.
3. *TAP*. FACT: frames are grouped by their place on the canvas before they are decoded. INFERENCE: since the decoder
   looks back in time, which here is another place. PROPOSAL, ``tap=anchor``: a clip of ``repeats`` times the frame is
   decoded by itself, and the pictures behind its first one are the frame's block; ``image``: each frame as a picture;
   ``none``: the clip as it is, a block being what a latent frame becomes. A clip of one frame is decoded as it is.
4. *MCS*. FACT: of each block the picture that is nearest to the block's median is kept. PROPOSAL: the median of every
   number by itself (of an even block the middle of its two middle ones), nearest by the mean absolute difference, the
   first of equals.
5. *ScrollSR*. FACT: FlashVSR enlarges the frames, "in latent space". The released one takes pixels alone
   (:mod:`methods.scrollsr.protocol`), so here it comes after 4, in the paper before 3. ``model`` is off unless set.
   PROPOSAL: frames are made on a canvas so much smaller that its short side is the native frame's, at most 4 times;
   what is too large in the end is resized down.
6. FACT: neighbouring frames are joined by weights that fall off to a frame's edges. What reaches beyond the canvas, at
   the right and below, is cut off (PROPOSAL). Frames are decoded, enlarged and handed on one at a time, as parts of the
   picture that add up to it (:class:`bench.types.Parts`), so a large picture is never whole in memory.

``alignment`` names the weights into which ScanPE was trained (FACT: 10,000 steps of flow matching on some 3,000
pictures; whether all weights or a LoRA was not found, both are taken). Rows of the paper's ablation are presets:
``full``, ``without-scrollsr`` (the default), ``without-tap``, ``untrained``, ``vanilla``. INFERENCE: vanilla is Wan's
clip as it comes, its frames taken for windows: near-duplicates side by side, as its GSD-DINOv2 of 0.975 says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import UsageError, near
from bench.extractors.weights.manifest import checkpoints
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Parts, Prompt, large
from methods.backbones import Scheduler, Tensor, VideoBackbone
from methods.backbones.identity import WORLD
from methods.direct import direct_latents
from methods.scrollsr.choose import identify, load
from methods.scrollsr.protocol import FrameByFrame, Piece, VideoUpscaler, check_tiles
from methods.shared import lora, trained
from methods.shared.canvas import cells, start
from methods.shared.positions import axes_of, placed
from methods.shared.sampling import keyed
from methods.shared.scan import Scan, agreed, lay, shares, stacked
from methods.shared.windows import Window, gather
from methods.upscale import small

CHOICES = {"positions": ("scan", "plain"), "tap": ("anchor", "image", "none")}
PASS = 4  # FlashVSR enlarges so many times
RANK = 64  # PROPOSAL, of a LoRA; and what it adapts: self-attention and feed-forward layers
ADAPTED = r"blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))"
FEED_FORWARD = r"blocks\.\d+\.ffn\.net\.(0\.proj|2)"
MISSING = (
    "scrollscape needs weights that were aligned with its positions, and none are released. Train them: `scrollbench "
    "train scrollscape --data {} --backbone {} --out build/alignment`. Or name yours, a LoRA or a whole transformer in "
    "diffusers' layout (one safetensors file, or its folder): --set scrollscape.alignment=FILE, or put it into torch's "
    "hub/checkpoints as {}. Preset untrained (alignment=none) samples with the network as it is"
)


class Setting(NamedTuple):
    """What canvas and knobs come to on a backbone: the canvas that frames are made on, and the frames."""

    base: Canvas
    scan: Scan


def setting(backbone: Any, canvas: Canvas, knobs: Mapping[str, Any]) -> Setting:
    """What canvas and knobs come to; looks at configs alone.

    Raises:
        UsageError: unknown choices, numbers out of range, a network that is no Wan, a loop, sides that are no whole
            tokens, frames that do not fit (:func:`methods.shared.scan.lay`).
    """
    for knob, values in CHOICES.items():
        if knobs[knob] not in values:
            raise UsageError(f"scrollscape: unknown {knob} {knobs[knob]!r}; {near(knobs[knob], values)}")
    for knob, least in (("repeats", 2), ("sync", 0), ("tile", 0), ("context", 0)):
        if knobs[knob] < least:
            raise UsageError(f"scrollscape: {knob} is at least {least}, got {knobs[knob]}")
    refuse_others(backbone)
    if canvas.loop:
        raise UsageError("scrollscape cannot make a loop: its edges never meet; use a canvas with loop=false")
    base = _base(backbone, canvas, knobs["model"], knobs["scale"])
    height, width = (side // backbone.patch for side in cells(backbone, base))
    frames, *sides = backbone.native
    rows, columns = (side // backbone.patch for side in sides)
    frame = (knobs["frame_height"], knobs["frame_width"])
    return Setting(base, lay((height, width), (frames, rows, columns), knobs["scan"], frame, knobs["step"]))


def outlined(outline: Callable[[], Any]) -> Any:
    """The outline of a Wan; ``UsageError`` on a backbone that is none."""
    try:
        backbone = outline()
    except UsageError as error:
        raise UsageError(f"{error}; scrollscape works inside Wan's transformer: use wan-1.3b or wan-14b") from error
    refuse_others(backbone)
    return backbone


def refuse_others(backbone: Any) -> None:
    """Raise ``UsageError`` on a backbone that is no Wan."""
    if type(getattr(backbone, "transformer", None)).__name__ != "WanTransformer3DModel":
        raise UsageError(
            f"scrollscape works inside Wan's transformer; backbone {backbone.name} has none: use wan-1.3b or wan-14b"
        )


def _base(backbone: Any, canvas: Canvas, model: str, scale: float | None) -> Canvas:
    """The canvas that frames are made on: 1/``scale`` of each side where a network enlarges them."""
    if model == "none":
        if scale not in (None, 1):
            raise UsageError(f"scrollscape: scale={scale} needs a network that enlarges, such as model=flashvsr-v1.1")
        return canvas
    if scale is None:
        native = min(backbone.native[1:]) * backbone.factor
        scale = min(max(1.0, min(canvas.width, canvas.height) / native), float(PASS))
    if not 1 <= scale <= PASS:
        raise UsageError(f"scrollscape: scale is from 1 to {PASS}, or none for the native short side; got {scale}")
    return small(backbone, canvas, scale)


def aligned_file(backbone: Any, alignment: str) -> Path | None:
    """The checked file that ``alignment`` names; None for ``none``.

    Empty is where users put theirs, and on the embedded miniature the one that came with it.

    Raises:
        PrerequisiteError: there is none.
        UsageError: it is not for this network.
    """
    if alignment == "none":
        return None
    name = f"scrollscape-{backbone.name}.safetensors"
    world = backbone.name.startswith("world-wan")
    usual = WORLD.with_name("world-alignment") if world else checkpoints() / name
    missing = MISSING.format("world" if world else "FOLDER", backbone.name, name)
    path = trained.find(alignment or str(usual), missing)
    trained.check(path, backbone.transformer, ADAPTED, FEED_FORWARD, backbone.name)
    return path


def requires(outline: Callable[[], Any], canvas: Canvas, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what cannot work before anything is loaded; aligned weights and ScrollSR's network by their content."""
    backbone = outlined(outline)
    setting(backbone, canvas, knobs)
    path = aligned_file(backbone, knobs["alignment"])
    named = {} if path is None else {"alignment": lora.digest(path)}
    return named if knobs["model"] == "none" else {**named, "model": identify(knobs["model"])}


# -- the clip


def scrollscape_latents(
    guided: Callable[[Tensor, Tensor], Tensor],
    scheduler: Scheduler,
    x: Tensor,
    windows: Sequence[Window],
    sync: int = 0,
) -> Tensor:
    """:func:`methods.direct.direct_latents` on a clip (1, c, frames, h, w) of windows.

    Args:
        sync: the first prediction and every ``sync``-th after it are averaged where windows overlap; 0: none is.
    """
    steps = count()

    def predicted(z: Tensor, t: Tensor) -> Tensor:
        v = guided(z, t)
        return agreed(v, windows) if sync and next(steps) % sync == 0 else v

    return direct_latents(predicted, scheduler, x)


def decoded(backbone: VideoBackbone, clip: Tensor, tap: str = "anchor", repeats: int = 2) -> Iterator[Tensor]:
    """The block of pictures (3, n, height, width) of each latent frame of a clip (1, c, frames, h, w), by TAP."""
    if tap == "none" or clip.shape[2] == 1:
        video, stride = backbone.decode(clip)[0], backbone.stride
        yield video[:, :1]
        yield from (video[:, 1 + i * stride : 1 + (i + 1) * stride] for i in range(clip.shape[2] - 1))
        return
    for frame in (clip[:, :, t : t + 1] for t in range(clip.shape[2])):
        if tap == "image":
            yield backbone.decode(frame)[0]
        else:
            yield backbone.decode(frame.expand(-1, -1, repeats, -1, -1))[0, :, 1:]


def consensus(block: Tensor) -> Tensor:
    """Of a block of pictures (3, n, height, width) the one nearest to their median (MCS), (3, height, width)."""
    n = block.shape[1]
    middle = block.sort(dim=1).values[:, (n - 1) // 2 : n // 2 + 1].mean(dim=1, keepdim=True)
    return block.index_select(1, (block - middle).abs().mean(dim=(0, 2, 3)).argmin()).squeeze(1)


def enlarged(
    frames: Iterable[Tensor], upscaler: VideoUpscaler | None, noise: Noise, tile: int, context: int
) -> Iterator[Piece]:
    """Frames (3, height, width) in the order of time as pieces of a clip, larger ones by ScrollSR."""
    import torch

    if upscaler is None:
        return (Piece(t, 0, 0, frame[:, None]) for t, frame in enumerate(frames))
    if isinstance(upscaler, FrameByFrame):  # others see the clip
        each = (next(upscaler(frame[:, None], noise, tile, context)) for frame in frames)
        return (piece._replace(first=t) for t, piece in enumerate(each))
    return upscaler(torch.stack(list(frames), dim=1), noise, tile, context)


def fused(pieces: Iterable[Piece], scan: Scan, unit: int) -> Iterator[tuple[int, int, Tensor]]:
    """Parts (y, x, pixels) that add up to what all frames show together, each pixel by the frames' shares of it.

    A piece is forgotten when its parts are handed on.

    Args:
        unit: pixels a side of a token.
    """
    down, across = (shares(n, side * unit, scan.step * unit) for n, side in zip(scan.stops, scan.frame))
    places, far = scan.places, scan.step * unit
    for piece in pieces:
        down, across = down.to(piece.pixels), across.to(piece.pixels)
        height, width = piece.pixels.shape[-2:]
        y, x = slice(piece.y, piece.y + height), slice(piece.x, piece.x + width)
        for (i, j), shown in zip(places[piece.first :], piece.pixels.unbind(1)):
            yield i * far + piece.y, j * far + piece.x, down[i, y, None] * across[j, x] * shown


@method(
    "scrollscape",
    family="video",
    paper="Yu et al., ECCV 2026, arXiv:2603.24270",
    licence="nothing is released; written from a description",
    presets={
        "full": {"model": "flashvsr-v1.1"},
        "without-scrollsr": {},
        "without-tap": {"model": "flashvsr-v1.1", "tap": "none"},
        "untrained": {"model": "flashvsr-v1.1", "alignment": "none"},
        "vanilla": {"alignment": "none", "positions": "plain", "shared_noise": False, "tap": "none"},
    },
    requires=requires,
    trainer="methods.training.alignment:alignment",
)
def scrollscape(
    backbone: VideoBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    steps: int = 50,
    guidance: float = 5.0,
    alignment: str = "",
    scan: str = "auto",
    frame_height: int | None = None,
    frame_width: int | None = None,
    step: int | None = None,
    positions: str = "scan",
    shared_noise: bool = True,
    sync: int = 0,
    tap: str = "anchor",
    repeats: int = 2,
    model: str = "none",
    scale: float | None = None,
    tile: int = 256,
    context: int = 160,
) -> Tensor | Parts:
    """Sample a clip whose frames are windows of the canvas, at their positions on it, and join the frames.

    Args:
        steps: sampling steps.
        guidance: classifier-free guidance scale; 1 is none.
        alignment: file or folder of weights trained for this, a LoRA or a whole transformer; empty for torch's
            ``hub/checkpoints/scrollscape-BACKBONE.safetensors``; ``none``: the network as it is.
        scan: the camera's way: ``right``, ``down``, ``snake`` (right and left in turn, line by line), or ``auto``.
        frame_height, frame_width: of a frame, in tokens; none as :func:`methods.shared.scan.lay` says.
        step: from frame to frame, in tokens; none as there.
        positions: of tokens: on the canvas (``scan``) or, as Wan counts them, in their frame (``plain``).
        shared_noise: whether frames are cut out of one canvas of noise.
        sync: the first prediction and every ``sync``-th after it are averaged where frames overlap; 0 for none.
        tap: how frames are decoded: in a clip of each one's own (``anchor``), as pictures (``image``), or all in one
            clip (``none``).
        repeats: latent frames of the clip of ``tap=anchor``.
        model: network that enlarges the frames: ``none``, ``flashvsr-v1.1``, a name of ``scrollbench weights list``, or
            as :func:`methods.upscale.upscale` says.
        scale: canvas over the canvas of frames, from 1 to 4; none for one whose short side is the native frame's.
        tile, context: of that network, as :func:`methods.upscale.upscale` says.

    Returns:
        (3, height, width) in [0, 1]; where that is too large to be whole, parts that add up to it.

    Raises:
        PrerequisiteError: weights that are not here.
        UsageError: see :func:`setting` and :func:`methods.shared.trained.check`.
    """
    base, view = setting(backbone, canvas, dict(locals()))
    import torch

    upscaler = _upscaler(backbone, model, canvas, base, tile, context)
    weights = _weights(backbone, alignment)
    windows = view.windows(backbone.patch)
    frame = (windows[0].height, windows[0].width)
    with torch.no_grad(), placed(backbone, axes_of(backbone, "scrollscape")) as table, weights:
        table.positions = view.positions() if positions == "scan" else None
        scheduler = keyed(backbone.scheduler(steps, frame), noise)
        conditioning = backbone.condition(prompt.text, prompt.negative)
        with backbone.meter.stage("denoise"):
            clip = scrollscape_latents(
                lambda x, t: backbone.guided(x, t, conditioning, guidance),
                scheduler,
                _noise(backbone, scheduler, noise, view, shared_noise),
                windows,
                sync,
            )
    larger = 1 if upscaler is None else upscaler.scale

    @torch.no_grad()
    def parts() -> Iterator[tuple[int, int, Tensor]]:
        with backbone.meter.stage("fuse" if upscaler is None else "upscale"):
            frames = map(consensus, decoded(backbone, clip, tap, repeats))
            pieces = enlarged(frames, upscaler, noise, tile, context)
            yield from fused(pieces, view, larger * backbone.factor * backbone.patch)

    return _brought(Parts(base.height * larger, base.width * larger, parts()), (canvas.height, canvas.width))


def _upscaler(
    backbone: VideoBackbone, model: str, canvas: Canvas, base: Canvas, tile: int, context: int
) -> VideoUpscaler | None:
    """ScrollSR's network, on the backbone's device. Raises ``UsageError`` where it does not enlarge enough."""
    if model == "none":
        return None
    found = load(model, backbone.device, backbone.precision, backbone.dtype).through(backbone.meter.remember)
    check_tiles(found, tile, context)
    if max(canvas.width - base.width * found.scale, canvas.height - base.height * found.scale) > 0:
        raise UsageError(
            f"scrollscape: {model} enlarges {found.scale} times, too little from {base.width}x{base.height} px to "
            f"{canvas.width}x{canvas.height} px; set scale to {found.scale} at most"
        )
    return found


def _weights(backbone: Any, alignment: str) -> AbstractContextManager[None]:
    """The aligned weights, to be worn; on the meta device, where nothing is named, a blank LoRA."""
    import torch

    if backbone.device.type == "meta" and not alignment:
        shapes = lora.layers(backbone.transformer, ADAPTED)
        kind = backbone.transformer.dtype
        blank = lora.fresh(shapes, RANK, lambda shape: torch.empty(shape, dtype=kind, device="meta"))
        return trained.adapted(backbone.transformer, blank)
    path = aligned_file(backbone, alignment)
    return nullcontext() if path is None else trained.worn(backbone.transformer, path, backbone.device)


def _noise(backbone: VideoBackbone, scheduler: Scheduler, noise: Noise, scan: Scan, shared: bool) -> Tensor:
    """The clip's initial noise (1, c, frames, h, w): windows of one canvas, or each frame's own."""
    windows = scan.windows(backbone.patch)
    if not shared:
        return start(backbone, scheduler, noise, (len(windows), windows[0].height, windows[0].width))
    height, width = (side * backbone.patch for side in scan.covered)
    return stacked(gather(start(backbone, scheduler, noise, (1, height, width))[:, :, 0], windows))


def _brought(made: Parts, size: tuple[int, int]) -> Tensor | Parts:
    """The picture at the canvas's ``size``: parts where it is large and need not be resized."""
    from torch.nn.functional import interpolate

    if made.shape[1:] == size and large(*size):
        return made
    picture: Tensor = made.whole()
    if made.shape[1:] != size:
        picture = interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
    return picture.clamp(0, 1)
