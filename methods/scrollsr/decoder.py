"""FlashVSR's tiny decoder: a latent frame and the four enlarged frames that it stands for, to four frames.

A relative of taehv (MIT) that sees the clip it enlarges. Names are the released ones (45,338,371 parameters). The
clip's frames stand in front of the latents as channels, four frames of 8 x 8 pixels in each cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES, CELL = 4, 8

Past = dict[int, Tensor]
"""The last frame that each memory block was given, by its place; empty at the start of a clip."""


class Squash(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class Memory(nn.Module):
    """A residual block that sees each frame beside the one before it, the first beside zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, *others = (nn.Conv2d(n, width, 3, padding=1) for n in (2 * width, width, width))
        self.conv = nn.Sequential(first, nn.ReLU(), others[0], nn.ReLU(), others[1])

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        before = torch.cat([last, x[:-1]])
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class Grow(nn.Module):
    """``times`` frames out of one."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, *x.shape[1:])  # type: ignore[no-any-return]


def _conv(before: int, after: int, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=bias)


def _level(width: int, after: int, times: int) -> list[nn.Module]:
    """Three memories, twice the size, ``times`` the frames, and the next width."""
    double = nn.Upsample(scale_factor=2, mode="nearest")
    return [*(Memory(width) for _ in range(3)), double, Grow(width, times), _conv(width, after)]


class Decoder(nn.Module):
    """The network; the defaults are the released sizes."""

    def __init__(self, widths: Sequence[int] = (512, 256, 128, 128), latents: int = 16) -> None:
        super().__init__()
        a, b, c, d = widths
        self.decoder = nn.ModuleList([
            Squash(), _conv(3 * FRAMES * CELL**2 + latents, a, bias=True), nn.ReLU(), _conv(a, a), nn.ReLU(),
            *_level(a, b, 1), *_level(b, c, 2), *_level(c, d, 2),
            nn.ReLU(), _conv(d, d), nn.ReLU(), _conv(d, 3, bias=True),
        ])  # fmt: skip

    def forward(self, latents: Tensor, clip: Tensor, past: Past) -> Tensor:
        """Frames (3, 4 n, 8 h, 8 w), about in [-1, 1].

        Args:
            latents: (16, n, h, w).
            clip: (3, 4 n, 8 h, 8 w) in [-1, 1]: the enlarged frames that these latents stand for. The first latent
                frame of a clip stands for its first frame, four times, and the first three made of it are dropped.
            past: of the clip; moved on.
        """
        pairs = zip(latents.unbind(1), clip.split(FRAMES, dim=1), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([self._frame(z, seen, past) for z, seen in pairs]).transpose(0, 1) * 2 - 1

    def _frame(self, latent: Tensor, clip: Tensor, past: Past) -> Tensor:
        x = torch.cat([_unshuffled(clip), latent])[None]
        for i, layer in enumerate(self.decoder):
            if isinstance(layer, Memory):
                last = past.get(i, torch.zeros_like(x[-1:]))
                past[i], x = x[-1:].clone(), layer(x, last)
            else:
                x = layer(x)
        return x


def _unshuffled(frames: Tensor) -> Tensor:
    """(3, 4, H, W) to (768, H/8, W/8): channels by colour, frame, row, column."""
    _, n, height, width = frames.shape
    x = frames.reshape(3, n, height // CELL, CELL, width // CELL, CELL)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(3 * n * CELL**2, height // CELL, width // CELL)
