"""Larger frames out of frames, piece by piece: what a stage of super-resolution asks of a network.

ScrollScape (Yu et al., ECCV 2026, arXiv:2603.24270) sends its frames through a video network before it joins them and
calls that ScrollSR. Its details are said to be added "in latent space", so that no picture is ever whole in memory. The
released FlashVSR has no way in for latents: it sees nothing but the enlarged clip, in pixels. INFERENCE, what is done
here instead: frames come in as pixels at their small size, each piece of space and time is enlarged by itself, and what
is made of it is handed on at once. So nothing of the large size is ever whole in memory either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from bench.errors import UsageError
from bench.noise import Noise
from methods.backbones import Tensor
from methods.shared.upscaler import Upscaler

STILL = 21  # frames of a clip that shows a still: the fewest that FlashVSR makes


class Piece(NamedTuple):
    """A part of the large clip; all pieces of a clip stand side by side and cover it once.

    Attributes:
        first: its first frame.
        y, x: its upper left corner, in pixels of the large clip.
        pixels: (3, frames, height, width) in [0, 1].
    """

    first: int
    y: int
    x: int
    pixels: Tensor


class PictureUpscaler(Protocol):
    """A network that enlarges single pictures; :class:`methods.shared.upscaler.Upscaler` is one."""

    @property
    def scale(self) -> int:
        """Output pixels for one of the input's, per side."""
        ...

    @property
    def multiple(self) -> int:
        """Tiles and their context are multiples of it, in pixels of the input."""
        ...

    def __call__(self, picture: Tensor, tile: int = 0, context: int = 0) -> Tensor:
        """A picture (3, h, w) in [0, 1], ``scale`` times as large, by tiles of a side that see ``context`` more."""
        ...


class VideoUpscaler(Protocol):
    """A network that enlarges clips, frozen; ``scale`` and ``multiple`` as in :class:`PictureUpscaler`."""

    @property
    def scale(self) -> int:
        """Output pixels for one of the input's, per side."""
        ...

    @property
    def multiple(self) -> int:
        """Tiles and their context are multiples of it, in pixels of the input."""
        ...

    def through(self, remember: Callable[..., Any]) -> VideoUpscaler:
        """The same, its network passed through :meth:`methods.backbones.meter.Meter.remember`."""
        ...

    def __call__(self, frames: Tensor, noise: Noise, tile: int = 0, context: int = 0) -> Iterator[Piece]:
        """The clip, ``scale`` times as large, as many frames as came in, in pieces as they are made.

        Args:
            frames: (3, n, h, w) in [0, 1], on any device; the pieces are on the same one.
            noise: of the picture; a network that draws, draws from it.
            tile: side of a tile in pixels of the input; 0 for whole frames, which then come in the order of time.
                Tiles come one after the other, each with all its frames.
            context: pixels seen around a tile.

        Raises:
            UsageError: a clip, a tile or a context that does not fit, before anything is computed.
        """
        ...


def check(upscaler: VideoUpscaler, frames: Tensor, tile: int, context: int) -> None:
    """Refuse what no video upscaler takes. Raises ``UsageError``."""
    if frames.ndim != 4 or frames.shape[0] != 3 or not frames.numel():
        raise UsageError(f"expected frames (3, n, height, width), got {tuple(frames.shape)}")
    check_tiles(upscaler, tile, context)


def check_tiles(upscaler: PictureUpscaler | VideoUpscaler, tile: int, context: int) -> None:
    """Refuse tiles that do not fit a network. Raises ``UsageError``."""
    if tile < 0 or context < 0 or tile % upscaler.multiple or context % upscaler.multiple:
        raise UsageError(
            f"this network takes tiles in steps of {upscaler.multiple} pixels: tile {tile} and context {context} must "
            f"be multiples of it; tile 0 is the whole frame"
        )


def assemble(pieces: Iterable[Piece], frames: int, height: int, width: int, first: int = 0) -> Tensor:
    """The frames of a clip from ``first`` on, (3, frames, height, width), from pieces that may show more of it."""
    whole: Tensor | None = None
    for piece in pieces:
        start, stop = max(first, piece.first), min(first + frames, piece.first + piece.pixels.shape[1])
        if start >= stop:
            continue
        if whole is None:
            whole = piece.pixels.new_empty((3, frames, height, width))
        (h, w), p = piece.pixels.shape[-2:], piece.first
        shown = piece.pixels[:, start - p : stop - p]
        whole[:, start - first : stop - first, piece.y : piece.y + h, piece.x : piece.x + w] = shown
    if whole is None:
        raise ValueError(f"no piece shows frame {first}")
    return whole


@dataclass(frozen=True)
class FrameByFrame:
    """A network of single pictures as one of clips: the stock fallback, which knows nothing of neighbouring frames."""

    upscaler: Upscaler

    @property
    def scale(self) -> int:
        """As the network's."""
        return self.upscaler.scale

    @property
    def multiple(self) -> int:
        """As the network's."""
        return self.upscaler.multiple

    def through(self, remember: Callable[..., Any]) -> FrameByFrame:
        """The same, its network passed through a function."""
        return FrameByFrame(replace(self.upscaler, network=remember(self.upscaler.network)))

    def __call__(self, frames: Tensor, noise: Noise, tile: int = 0, context: int = 0) -> Iterator[Piece]:
        """See :class:`VideoUpscaler`; a piece is a frame, nothing is drawn."""
        check(self, frames, tile, context)
        each = frames.unbind(1)
        return (Piece(i, 0, 0, self.upscaler(f, tile, context)[:, None].clamp(0, 1)) for i, f in enumerate(each))


@dataclass(frozen=True)
class Still:
    """A video upscaler as one of single pictures.

    PROPOSAL, as nothing released says how a still is enlarged: the picture is shown ``STILL`` times, and the middle
    frame is kept. One user of FlashVSR reports broken pictures from a still; nobody has answered.
    """

    video: VideoUpscaler
    noise: Noise

    @property
    def scale(self) -> int:
        """As the network's."""
        return self.video.scale

    @property
    def multiple(self) -> int:
        """As the network's."""
        return self.video.multiple

    def __call__(self, picture: Tensor, tile: int = 0, context: int = 0) -> Tensor:
        """A picture (3, h, w) in [0, 1], ``scale`` times as large."""
        clip = picture[:, None].expand(-1, STILL, -1, -1)
        height, width = (side * self.scale for side in picture.shape[-2:])
        whole: Tensor = assemble(self.video(clip, self.noise, tile, context), 1, height, width, STILL // 2)[:, 0]
        return whole
