"""A clip on its way through FlashVSR's three networks, a few frames at a time: memory does not grow with its length.

One step of the transformer makes 21 frames out of the first 25, each further one 8 out of the next 8: the projector is
four frames ahead of what is made. Latents are noise minus the velocity: one step from noise to clip, without guidance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from methods.scrollsr.blocks import Sparse
from methods.scrollsr.decoder import Decoder
from methods.scrollsr.projector import Past, Projector
from methods.scrollsr.rules import AHEAD, BLOCK
from methods.scrollsr.transformer import Pair, Transformer

FULL = 768 * 1280  # pixels of the clips that the network was trained on; times 2 is as many as are ever attended to


class Networks(NamedTuple):
    """FlashVSR's parts; ``prompt`` (tokens, width) takes the place of a text."""

    projector: Projector
    transformer: Transformer
    decoder: Decoder
    prompt: Tensor


class Stream:
    """A clip, or a tile of it; holds what the networks remember of it.

    Args:
        networks: frozen, all of one type on one device.
        height, width: of the enlarged frames, multiples of 128.
        reach: blocks a side that a block of 128 x 128 px may look at.
        sparse: times 60, the blocks that a block looks at on average.
    """

    def __init__(self, networks: Networks, height: int, width: int, reach: int = 11, sparse: float = 2.0) -> None:
        self.networks = networks
        self.attention = Sparse(height // BLOCK, width // BLOCK, reach, sparse * FULL / (height * width))
        self.told = networks.transformer.tell(networks.prompt)
        self.seen, self.kept, self.past = Past(), list[Pair](), dict[int, Tensor]()
        self.latents = 0

    def step(self, frames: Tensor, noise: Tensor, last: bool = False) -> Tensor:
        """The frames that are made next, about in [-1, 1]: (3, n - 4, H, W), without the last four of those given.

        Args:
            frames: enlarged ones from the next to be made on, (3, n, H, W) in [-1, 1]: 25 the first time, 12 later.
            noise: (16, n, H/8, W/8), 6 latent frames the first time, 2 later.
            last: the clip ends here. A clip of one step so keeps no keys.
        """
        begins = self.latents == 0
        tokens = self.networks.projector(frames if begins else frames[:, AHEAD:], self.seen)
        told, kept, see = self.told, self.kept, self.attention
        velocity = self.networks.transformer(noise, tokens, self.latents, told, kept, see, last)
        self.latents += noise.shape[1]
        extra = 3 if begins else 0
        clip = torch.cat([frames[:, :1].expand(-1, extra, -1, -1), frames[:, :-AHEAD]], dim=1)
        made: Tensor = self.networks.decoder(noise - velocity, clip, self.past)[:, extra:]
        return made
