"""FlashVSR's way in: a clip to one token for every 16 x 16 pixels of four frames, chunk by chunk.

Two convolutions that see back in time, each halving it, between them RMS normalisation over channels and SiLU. Chunk 0
is the first frame four times and gives nothing but a past; chunk i >= 1 is frames 4 i - 3 to 4 i.

The two released versions have the same weights' names and differ in what stands in front of a chunk: v1.1 takes the
last two frames of the chunk before, v1, by a slip that its weights were trained with, the last two of the chunk itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 4
PATCH = 16


class Norm(nn.Module):
    """x / |x| * sqrt(channels) * gamma over the channels of (channels, frames, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.normalize(x, dim=0) * x.shape[0] ** 0.5 * self.gamma
        return out


class Past:
    """What the two convolutions saw last in a clip; empty before its first chunk."""

    def __init__(self) -> None:
        self.seen: list[Tensor | None] = [None, None]


class Projector(nn.Module):
    """The network; the defaults are the released sizes.

    Args:
        hidden: channels of the two convolutions.
        dim: width of a token.
        layers: linear layers at the end, one for each of the transformer's first blocks.
        own: whether a chunk stands behind its own last frames: version 1.
    """

    def __init__(
        self, hidden: Sequence[int] = (2048, 3072), dim: int = 1536, layers: int = 1, own: bool = False
    ) -> None:
        super().__init__()
        self.own = own
        self.conv1 = nn.Conv3d(3 * PATCH**2, hidden[0], (4, 3, 3), stride=(2, 1, 1))
        self.norm1 = Norm(hidden[0])
        self.conv2 = nn.Conv3d(hidden[0], hidden[1], (4, 3, 3), stride=(2, 1, 1))
        self.norm2 = Norm(hidden[1])
        self.linear_layers = nn.ModuleList(nn.Linear(hidden[1], dim) for _ in range(layers))

    def forward(self, frames: Tensor, past: Past) -> list[Tensor]:
        """Tokens of the chunks that come next.

        Args:
            frames: (3, n, H, W) in [-1, 1]: 4 k + 1 frames at the start of a clip, 4 k later.
            past: of the clip; moved on.

        Returns:
            (k * H/16 * W/16, dim) for each linear layer, frames outermost, then rows.
        """
        if past.seen[0] is None:
            frames = torch.cat([frames[:, :1].expand(-1, CHUNK - 1, -1, -1), frames], dim=1)
        chunks = [self._chunk(chunk, past) for chunk in frames.split(CHUNK, dim=1)]  # type: ignore[no-untyped-call]
        x = torch.cat([chunk for chunk in chunks if chunk is not None], dim=1).flatten(1).T
        return [layer(x) for layer in self.linear_layers]

    def _chunk(self, chunk: Tensor, past: Past) -> Tensor | None:
        x = F.silu(self.norm1(self._convolved(self.conv1, _unshuffled(chunk), past, 0)))
        if past.seen[1] is None:  # chunk 0
            past.seen[1] = x[:, -2:]
            return None
        return F.silu(self.norm2(self._convolved(self.conv2, x, past, 1)))

    def _convolved(self, conv: nn.Conv3d, x: Tensor, past: Past, i: int) -> Tensor:
        front = past.seen[i]
        past.seen[i] = x[:, -2:]
        if self.own:
            front = x[:, -2:]
        elif front is None:
            front = x[:, :1].expand(-1, 2, -1, -1)
        seen = F.pad(torch.cat([front, x], dim=1)[None], (1, 1, 1, 1, 0, 0), mode="replicate")
        out: Tensor = conv(seen)[0]
        return out


def _unshuffled(frames: Tensor) -> Tensor:
    """(3, n, H, W) to (768, n, H/16, W/16): channels by colour, row, column."""
    _, n, height, width = frames.shape
    x = frames.reshape(3, n, height // PATCH, PATCH, width // PATCH, PATCH)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(3 * PATCH**2, n, height // PATCH, width // PATCH)
