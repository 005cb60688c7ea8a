"""FlashVSR's rules of frames and sizes (Zhuang et al., arXiv:2510.12747, and the released scripts).

The network takes 8 n + 1 frames, n at least 3, whose last four are seen and not made: 8 n - 3 come out. It works on 2 n
latent frames, six in its first step and two in every further one, and on sides of whole blocks of 128 pixels.

PROPOSAL: here clips are filled up, by repeating the last frame and the outermost pixels, and what is too much is cut
off the result. The released scripts cut instead (``cut``): up to seven frames at the end, up to 127 pixels a side.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 128  # pixels a side of a block
FIRST, LATER = 21, 8  # frames that a step makes
AHEAD = 4  # frames that are seen before they are made


class Schedule(NamedTuple):
    """How a clip goes through the network.

    Attributes:
        fed: frames it is given.
        steps: of the network; 0 where the clip is too short.
        latents: latent frames.
        out: frames it makes.
    """

    fed: int
    steps: int
    latents: int
    out: int


def schedule(frames: int, cut: bool = False) -> Schedule:
    """The way of a clip of so many frames; with ``cut`` the released scripts', which may make fewer."""
    n = (frames + AHEAD - 1) // 8 if cut else max(3, -(-(frames + AHEAD - 1) // 8))
    fed = 8 * n + 1
    return Schedule(fed, n - 2, 2 * n, fed - AHEAD) if n >= 3 else Schedule(fed, 0, 0, 0)


def side(pixels: int, cut: bool = False) -> int:
    """Whole blocks for a side of the enlarged clip: filled up, or cut."""
    return (pixels if cut else pixels + BLOCK - 1) // BLOCK * BLOCK
