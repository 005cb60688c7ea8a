"""FlashVSR (Zhuang et al., arXiv:2510.12747), version 1 or 1.1, fourfold: files, pixels, tiles.

Code and weights Apache-2.0 (OpenImagingLab/FlashVSR). As its released script with the tiny decoder: frames are enlarged
by Pillow's bicubic filter from eight bits; one step from noise; colours by ``adain``.

Deviations: noise comes from this benchmark's streams, one for each block of a latent frame; clips and sides are filled
up, not cut (:mod:`methods.scrollsr.rules`); frames leave as they are, where the scripts cut the fraction off at eight
bits.

PROPOSAL, spatial tiles: beyond 21 frames a cache takes 4.3 KB for each output pixel in bf16, however long the clip. So
frames are made in tiles of whole blocks, each with ``context`` around it, of which nothing is kept, out of one canvas
of noise. Attention reaches 5 blocks (160 px of the input) in every layer, so tiles differ from the whole where it goes
farther than ``context`` in 30 layers, and as each tile ranks its own blocks; colours are those of a tile. Nothing is
blended. Not yet tried with the released weights, which were not at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bench.errors import UsageError, near
from bench.noise import Noise
from methods.backbones.device import PRECISIONS
from methods.backbones.llamagen.convert import mismatch, read_checkpoint
from methods.scrollsr.blocks import SIDE
from methods.scrollsr.colour import FIXES
from methods.scrollsr.decoder import Decoder
from methods.scrollsr.files import Found
from methods.scrollsr.projector import Projector
from methods.scrollsr.protocol import Piece, check
from methods.scrollsr.rules import AHEAD, BLOCK, FIRST, LATER, schedule, side
from methods.scrollsr.stream import Networks, Stream
from methods.scrollsr.transformer import Sizes, Transformer

SCALE = 4
LATENT = BLOCK // (2 * SIDE)  # pixels of a latent's cell
AROUND = 4  # pixels around a tile of the input; Pillow's filter looks at two of them


@dataclass(frozen=True)
class Tile:
    """A part of the enlarged frames, from pixel to pixel: what is made, in whole blocks, and what of it is kept."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    kept_rows: tuple[int, int]
    kept_columns: tuple[int, int]


@dataclass(frozen=True)
class FlashVSR:
    """The video upscaler; see :class:`methods.scrollsr.protocol.VideoUpscaler`.

    Attributes:
        networks: frozen, all of one type on one device.
        reach: blocks of 128 px a side that a block may look at; 11 is stable, 9 sharper.
        sparse: times 60, the blocks that a block looks at on average; 2.0, or 1.5 for speed.
        colour: ``adain``, ``wavelet`` or ``none``.
        step: of a stream; a forecast puts another function here, which runs once for all tiles of one shape.
    """

    networks: Networks
    reach: int = 11
    sparse: float = 2.0
    colour: str = "adain"
    step: Callable[[Stream, Tensor, Tensor, bool], Tensor] = Stream.step
    scale: int = SCALE
    multiple: int = BLOCK // SCALE

    def __post_init__(self) -> None:
        if self.colour not in FIXES:
            raise UsageError(f"unknown colour fix {self.colour!r}; {near(self.colour, FIXES)}")
        if self.reach < 1 or self.sparse <= 0:
            raise UsageError(f"reach is from 1 and sparse above 0, got {self.reach} and {self.sparse}")

    def through(self, remember: Callable[..., Any]) -> FlashVSR:
        """The same, its steps passed through a function. Where it is a forecast's, the cache may be counted twice."""
        return replace(self, step=remember(self.step))

    def __call__(self, frames: Tensor, noise: Noise, tile: int = 0, context: int = 160) -> Iterator[Piece]:
        """The clip, four times as large, as many frames as came in: pieces of 21 frames, then 8, tile by tile."""
        check(self, frames, tile, context)
        size = tuple(n * SCALE for n in frames.shape[-2:])
        return (piece for t in tiles(size, tile * SCALE, context * SCALE) for piece in self._tile(frames, noise, t))

    def _tile(self, frames: Tensor, noise: Noise, tile: Tile) -> Iterator[Piece]:
        """A tile of the clip as it is made. A clip that is filled up needs no step more than its frames do."""
        real, (height, width) = frames.shape[1], (n * SCALE for n in frames.shape[-2:])
        plan, prompt = schedule(real), self.networks.prompt
        (top, bottom), (left, right) = tile.rows, tile.columns
        stream = Stream(self.networks, bottom - top, right - left, self.reach, self.sparse)
        # What was filled up has no part in the colours.
        inside = (..., slice(0, min(bottom, height) - top), slice(0, min(right, width) - left))
        y, x = (slice(a - edge, b - edge) for (a, b), edge in ((tile.kept_rows, top), (tile.kept_columns, left)))
        made = drawn = 0
        for step in range(plan.steps):
            count, latents = (LATER, 2) if step else (FIRST, 6)
            seen = [enlarged(frames[:, min(i, real - 1)], tile) for i in range(made, made + count + AHEAD)]
            clip, z = torch.stack(seen, dim=1).to(prompt), self._draw(noise, range(drawn, drawn + latents), tile)
            raw = self.step(stream, clip, z, step == plan.steps - 1)
            shown = FIXES[self.colour](raw[inside], clip[:, :-AHEAD][inside])[:, : real - made, y, x]
            yield Piece(made, tile.kept_rows[0], tile.kept_columns[0], (shown.to(frames) + 1) / 2)
            made, drawn = made + count, drawn + latents

    def _draw(self, noise: Noise, latents: range, tile: Tile) -> Tensor:
        """Noise of latent frames (channels, n, h, w), a stream for each block: the same wherever tiles are cut."""
        like, channels = self.networks.prompt, self.networks.transformer.sizes.in_dim
        sizes = [(b - a) // LATENT for a, b in (tile.rows, tile.columns)]
        drawn = torch.empty((channels, len(latents), *sizes), dtype=like.dtype, device=like.device)
        if drawn.device.type == "meta":
            return drawn
        cells = BLOCK // LATENT
        rows, columns = (range(a // BLOCK, b // BLOCK) for a, b in (tile.rows, tile.columns))
        for (i, latent), (j, row), (k, column) in product(*map(enumerate, (latents, rows, columns))):
            block = noise.normal(f"flashvsr-{latent}-{row}-{column}", (channels, cells, cells))
            drawn[:, i, j * cells : (j + 1) * cells, k * cells : (k + 1) * cells] = block
        return drawn


def tiles(size: tuple[int, ...], tile: int, context: int) -> Iterator[Tile]:
    """The tiles of enlarged frames (height, width), row by row, one for a ``tile`` of 0; lengths in their pixels."""

    def along(length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        full = side(length)
        starts = range(0, length, tile or full)
        ends = [min(start + (tile or full), full) for start in starts]
        made = [(max(0, a - context), min(full, b + context)) for a, b in zip(starts, ends)]
        return [(m, (a, min(b, length))) for m, a, b in zip(made, starts, ends)]

    for rows, kept_rows in along(size[0]):
        for columns, kept_columns in along(size[1]):
            yield Tile(rows, columns, kept_rows, kept_columns)


def enlarged(frame: Tensor, tile: Tile) -> Tensor:
    """A tile of a frame (3, h, w) in [0, 1], enlarged and filled up at the edges, (3, height, width) in [-1, 1]."""
    (top, bottom), (left, right) = tile.rows, tile.columns
    if frame.device.type == "meta":
        return torch.empty((3, bottom - top, right - left), device="meta")
    end_y, end_x = min(bottom, frame.shape[-2] * SCALE), min(right, frame.shape[-1] * SCALE)
    y, x = max(0, top // SCALE - AROUND), max(0, left // SCALE - AROUND)
    near_by = frame[:, y : end_y // SCALE + AROUND, x : end_x // SCALE + AROUND]
    picture = Image.fromarray((near_by * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
    box = (left / SCALE - x, top / SCALE - y, end_x / SCALE - x, end_y / SCALE - y)
    large = picture.resize((end_x - left, end_y - top), Image.Resampling.BICUBIC, box)
    pixels = torch.from_numpy(np.array(large)).permute(2, 0, 1).float() / 127.5 - 1
    return F.pad(pixels[None], (0, right - end_x, 0, bottom - end_y), mode="replicate")[0]


# -- files


def load(found: Found, device: Any, precision: str) -> FlashVSR:
    """The networks of located files.

    They run in bf16, the released choice, where ``precision`` is half, in float32 at ``fp32``, in float64 at ``fp64``.

    Raises:
        UsageError: files that cannot be read, hold more than tensors, or are of another network.
    """
    half = precision in ("bf16", "fp16")
    return _loaded(found, str(device), torch.bfloat16 if half else getattr(torch, PRECISIONS[precision]))


@lru_cache(maxsize=1)  # for the next picture
def _loaded(found: Found, device: str, dtype: torch.dtype) -> FlashVSR:
    networks = networks_of(
        read_safetensors(found.transformer), read_checkpoint(found.projector)[0], read_checkpoint(found.decoder)[0],
        read_tensor(found.prompt), found,
    )  # fmt: skip
    for module in networks[:3]:
        module.to(device, dtype).eval().requires_grad_(False)
    return FlashVSR(networks._replace(prompt=networks.prompt.to(device, dtype)))


def networks_of(
    transformer: Mapping[str, Tensor], projector: Mapping[str, Tensor], decoder: Mapping[str, Tensor], prompt: Tensor,
    found: Found,
) -> Networks:  # fmt: skip
    """Networks of the sizes that the tensors have, filled with them. Raises ``UsageError`` where they do not fit."""
    path = found.transformer
    try:
        with torch.device("meta"):
            large = Transformer(Sizes.of(transformer))
            path = found.projector
            hidden = [projector[f"conv{i}.weight"].shape[0] for i in (1, 2)]
            layers = sum(name.startswith("linear_layers.") and name.endswith(".bias") for name in projector)
            entry = Projector(hidden, large.sizes.dim, layers, own=found.version == "flashvsr-v1")
            path = found.decoder
            widths = [decoder[f"decoder.{i}.weight"].shape[0] for i in (1, 10, 16, 22)]
            exit_ = Decoder(widths, large.sizes.in_dim)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} is not FlashVSR's: no tensor, or no size, that fits: {error}") from error
    parts = ((large, transformer), (entry, projector), (exit_, decoder))
    for (module, state), path in zip(parts, (found.transformer, found.projector, found.decoder), strict=True):
        if wrong := mismatch(module, state):
            raise UsageError(f"{path} is not FlashVSR's: {wrong}")
        module.load_state_dict(state, assign=True)
    if prompt.shape[-1] != large.sizes.text_dim:
        raise UsageError(
            f"{found.prompt} is {prompt.shape[-1]} wide, {found.transformer} reads text {large.sizes.text_dim} wide"
        )
    return Networks(entry, large, exit_, prompt)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises ``UsageError``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return state


def read_tensor(path: Path) -> Tensor:
    """The prompt's embedding (tokens, width), alone in its file with a row in front. Raises ``UsageError``."""
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip, torch: whatever is in the file
        raise UsageError(f"{path} holds no tensor that can be read: {error}") from error
    if not torch.is_tensor(tensor) or tensor.ndim != 3 or tensor.shape[0] != 1:
        raise UsageError(f"{path} holds no prompt: expected one tensor (1, tokens, width)")
    return tensor[0]


def blank(version: str = "flashvsr-v1.1") -> FlashVSR:
    """The released networks on the meta device: every shape and cost, no numbers."""
    with torch.device("meta"):
        networks = Networks(
            Projector(own=version == "flashvsr-v1"), Transformer(Sizes()), Decoder(), torch.empty(512, 4096)
        )
    for module in networks[:3]:
        module.bfloat16().eval().requires_grad_(False)
    return FlashVSR(networks._replace(prompt=networks.prompt.bfloat16()))
