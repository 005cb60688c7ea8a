"""PanoLlama: Generating Endless and Coherent Panoramas with Next-Token-Prediction LLMs.

Zhou, Zhang, Tang; ICCV 2025, arXiv:2411.15867. Written from the paper's notation and the facts of the released code
(github.com/0606zt/PanoLlama; none of it is used); the network is LlamaGen. A network of squares of ``side`` x ``side``
tokens writes a map of any size, block by block. A block is a square of the map, at the network's own positions: what
is known of it already (the overlap with blocks before) is put into the cache, what is not is drawn in raster order. So
every new token sees all that its block holds above it and to its left, old or new:

    P(map) = prod_i P(new tokens of block i | retained tokens of block i, prompt).

An extension to the right adds ``columns`` tokens to each row (c in the paper, stride u = c / side), one downwards adds
``rows``. Retained tokens get fresh entries in the cache; between two tokens that are drawn they go in together, in one
call. So a picture takes one call for each of its tokens, whatever the strides, and the cache is that of one square.
The released walk takes one for retained tokens too: 13,216 for 512x5120 at c = 24 where 10,240 do.

Preset ``legacy`` is the released walk to the right, token for token: it leaves the first row's retained tokens, but for
the last, under the entries that they had in the block before. Deviations and what is ours:

* two directions. The released walk downwards does not work (it keeps the entries of the first block's top rows and
  feeds the last token one place too late), and its walk in both directions ignores the rows above when it goes to the
  right. PROPOSAL: blocks in reading order, each retaining whatever its square holds: the first row of blocks to the
  right, then the left block downwards, then to the right again, with upper rows and left columns retained;
* PROPOSAL: the last extension may be shorter, where whole strides do not reach the edge (``remainder=clamp``);
* PROPOSAL: several scenes along the scroll, and layout by prompts without masks, which the paper names and nobody
  released. The height is divided evenly among layers, each layer's width among its scenes; a block is written under the
  prompt of the scene in which the middle of what it adds lies, retained tokens too;
* PROPOSAL: multi-scale extension, which the paper names too: the same square at any size. One prompt and seed give the
  same beginning at every width, where whole strides reach the edge;
* maps beyond ten squares are decoded in pieces (:func:`methods.shared.tokens.decoded`), the released code decodes all
  at once;
* tokens are drawn with this benchmark's numbers, one for each place of the map; pictures of one canvas may be walked
  together, each as it is alone. Blending overlaps in the codebook, which the authors switched off, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from bench.errors import UsageError, near
from bench.noise import Noise
from bench.registry import method
from bench.types import Canvas, Parts, Prompt
from methods.backbones import Conditioning, Tensor, TokensBackbone, TokenWalk
from methods.shared.tokens import Sampler, check_pieces, conditions, decoded, joined, numbers, token_grid
from methods.shared.windows import starts

REMAINDERS = ("refuse", "clamp")
Choose = Callable[[Tensor, int, int], Tensor]  # (logits (pictures, codes), row, column of the map) -> tokens (pictures)


def fill(
    walk: TokenWalk,
    tokens: Tensor,
    known: np.ndarray,
    corner: tuple[int, int],
    side: int,
    opening: Tensor,
    choose: Choose,
    skip: int = 0,
) -> None:
    """Draw the unknown tokens of one block, in raster order; what is known goes into the cache on the way.

    Args:
        walk: over a grid of side x side, the prompts told.
        tokens: the maps (pictures, h, w); filled in place.
        known: (h, w), true where there are tokens; filled in place. It stays off the device: what is drawn there is
            never asked for.
        corner: row and column of the block's first token.
        opening: logits of position 0, what the walk answered to the prompts.
        skip: first positions whose entries stay as they are.
    """
    y, x = corner
    there = slice(y, y + side), slice(x, x + side)
    block = tokens[:, *there].clone().flatten(1)
    logits, fed = opening, skip
    for i in np.flatnonzero(~known[there].ravel()).tolist():
        if fed < i:
            logits, fed = walk.feed(block[:, fed:i], range(fed, i)), i
        block[:, i] = choose(logits, y + i // side, x + i % side)
    tokens[:, *there] = block.view(-1, side, side)
    known[there] = True


def panollama_tokens(
    walk: TokenWalk,
    prompts: Sequence[Sequence[Conditioning]],
    size: tuple[int, int],
    side: int,
    blocks: tuple[Sequence[int], Sequence[int]],
    choose: Choose,
    refeed: bool = True,
) -> Tensor:
    """Whole maps of tokens (pictures, h, w).

    Args:
        walk: fresh, over a grid of side x side.
        prompts: for each picture one for every block, in reading order; they are told where one is another than before.
        size: (h, w), covered by the blocks.
        blocks: first rows and first columns of the blocks, each from 0 on, steps at most ``side``.
        choose: decides a token.
        refeed: whether all retained tokens get fresh entries; else the first row's only from its last retained on.
    """
    import torch

    tokens = torch.zeros((len(prompts), *size), dtype=torch.long, device=prompts[0][0].embeds.device)
    known = np.zeros(size, dtype=bool)
    told: Any = None
    opening: Any = None
    for corner, each in zip(product(*blocks), zip(*prompts, strict=True), strict=True):
        if told is None or any(now is not before for now, before in zip(each, told)):
            told, opening = each, walk.tell(joined(each))
        kept = int(known[corner[0], corner[1] : corner[1] + side].sum())
        fill(walk, tokens, known, corner, side, opening, choose, 0 if refeed else max(0, kept - 1))
    return tokens


def scenes_of(firsts: Sequence[int], side: int, count: int) -> list[int]:
    """For each row or column of blocks the part, of so many along that axis, where the middle of what it adds lies."""
    ends = [x + side for x in firsts]
    return [(begin + end) * count // (2 * ends[-1]) for begin, end in zip([0, *ends[:-1]], ends)]


def texts_of(
    text: str, scenes: str, layers: str, blocks: tuple[Sequence[int], Sequence[int]], side: int, canvas: Canvas
) -> list[str]:
    """The text of every block, in reading order; the knobs are those of :func:`panollama`.

    Raises:
        UsageError: a scene without a text or without a block, one sign for both.
    """
    if scenes and scenes == layers:
        raise UsageError(f"panollama: scenes and layers are told apart by different signs, got {scenes!r} for both")
    rows = text.split(layers) if layers else [text]
    parts = [[one.strip() for one in (row.split(scenes) if scenes else [row])] for row in rows]
    down = scenes_of(blocks[0], side, len(rows))
    across = [scenes_of(blocks[1], side, len(row)) for row in parts]
    reached = {(i, j) for i in down for j in across[i]}
    count = sum(len(row) for row in parts)
    if (scenes or layers) and (len(reached) < count or not all(map(all, parts))):
        raise UsageError(
            f"panollama: each scene needs a text and a block of the scroll, got {count} scenes"
            f"{f' in {len(rows)} layers' if layers else ''} and {len(down) * len(blocks[1])} blocks on {canvas} px; "
            f"use fewer scenes, smaller columns or rows, or a larger canvas"
        )
    return [parts[i][j] for i in down for j in across[i]]


def layout(
    backbone: TokensBackbone, canvas: Canvas, rows: int | None, columns: int | None, remainder: str, refeed: bool
) -> tuple[list[int], list[int]]:
    """First rows and first columns of the blocks on a canvas; the knobs are those of :func:`panollama`.

    Raises:
        UsageError: knobs out of range, a loop, a canvas lower or narrower than the native square, or one that whole
            strides do not reach.
    """
    side, f = backbone.side, backbone.factor
    if remainder not in REMAINDERS:
        raise UsageError(f"panollama: unknown remainder {remainder!r}; {near(remainder, REMAINDERS)}")
    if canvas.loop:
        raise UsageError("panollama cannot make a loop: its last column never meets the first; use loop=false")
    rows = max(1, side // 2) if rows is None else rows
    columns = max(1, side * 3 // 4) if columns is None else columns
    for knob, step in (("rows", rows), ("columns", columns)):
        if not 1 <= step <= side:
            raise UsageError(f"panollama: {knob} is from 1 to {side} tokens, the side of the native square; got {step}")
    height, width = token_grid(backbone, canvas)
    axes = (("height", "rows", height, rows), ("width", "columns", width, columns))
    for name, _, length, _ in axes:
        if length < side:
            raise UsageError(
                f"panollama extends squares of {side * f} px, the canvas {name} is {length * f} px: ask for at least "
                f"{side * f} px"
            )
    for name, knob, length, step in axes:
        over = (length - side) % step
        if over and remainder == "refuse":
            low, high = (length - over) * f, (length - over + step) * f
            fitting = [n for n in range(1, side + 1) if (length - side) % n == 0]
            raise UsageError(
                f"panollama: extensions of {step} {knob} ({step * f} px) from a square of {side * f} px leave "
                f"{over * f} of {length * f} px of {name} over; nearest that fit: {low} or {high} px. Or set "
                f"{knob}={min(fitting, key=lambda n: abs(n - step))}, or remainder=clamp (a shorter last extension)"
            )
    if not refeed and (height > side or columns == side):
        raise UsageError(
            "panollama: refeed=false (preset legacy) is the released walk to the right, which works on canvases one "
            f"square high ({side * f} px) and retains at least one column: columns at most {side - 1}; got a canvas of "
            f"{canvas} px and columns={columns}"
        )
    return starts(height, side, rows, remainder), starts(width, side, columns, remainder)


LAYOUT = ("rows", "columns", "remainder", "refeed")  # knobs that lay out the blocks


def requires(outline: Callable[[], Any], canvas: Canvas, knobs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Nothing but the source; refuses strides and canvases that do not fit each other when a plan is made."""
    layout(outline(), canvas, **{name: knobs[name] for name in LAYOUT})
    return {}


def together(
    backbone: TokensBackbone,
    prompts: Sequence[Prompt],
    canvas: Canvas,
    noises: Sequence[Noise],
    *,
    columns: int | None,
    rows: int | None,
    remainder: str,
    guidance: float,
    top_k: int,
    top_p: float,
    temperature: float,
    scenes: str,
    layers: str,
    refeed: bool,
    decode: int,
) -> list[Tensor | Parts]:
    """Several pictures of one canvas, walked together, each as :func:`panollama` makes it."""
    import torch

    blocks = layout(backbone, canvas, rows, columns, remainder, refeed)
    size, side = token_grid(backbone, canvas), backbone.side
    check_pieces(decode)
    pick = Sampler(temperature, top_k, top_p)
    texts = [texts_of(p.text, scenes, layers, blocks, side, canvas) for p in prompts]
    with torch.no_grad():
        told = [conditions(backbone, i, p.negative, texts[i]) for i, p in enumerate(prompts)]
        with backbone.meter.stage("denoise"):
            u = numbers(noises, size, backbone.device)
            walk = backbone.walk((side, side), guidance, len(prompts))
            tokens = panollama_tokens(
                walk, told, size, side, blocks, lambda logits, y, x: pick(logits, u[:, y, x]), refeed
            )
            pick.check()
        return [decoded(backbone, one, decode) for one in tokens]


@method(
    "panollama",
    family="tokens",
    paper="Zhou et al., ICCV 2025, arXiv:2411.15867",
    licence="no licence seen (all rights reserved); written from a description",
    presets={"legacy": {"refeed": False, "decode": 0}},
    requires=requires,
    together=together,
)
def panollama(
    backbone: TokensBackbone,
    prompt: Prompt,
    canvas: Canvas,
    noise: Noise,
    *,
    columns: int | None = None,
    rows: int | None = None,
    remainder: str = "refuse",
    guidance: float = 7.5,
    top_k: int = 1000,
    top_p: float = 1.0,
    temperature: float = 1.0,
    scenes: str = "",
    layers: str = "",
    refeed: bool = True,
    decode: int = 10,
) -> Tensor | Parts:
    """Extend a square by next-token prediction, to the right and downwards, as far as the canvas goes.

    Args:
        columns: tokens that an extension to the right adds to each row, 1 to the native side; none for three quarters
            of the side, the released 24 of 32. The whole side retains nothing.
        rows: rows that an extension downwards adds; none for half of the side, the released 16 of 32.
        remainder: where whole strides do not reach the edge: ``refuse`` the canvas, or ``clamp``, a last extension
            that adds less.
        guidance: classifier-free guidance scale; 1 is none.
        top_k: tokens to choose from; 0 is all.
        top_p: share of probability to choose from.
        temperature: flatness of the choice; 0 takes the likeliest token.
        scenes: what stands between the texts of several scenes in the prompt, from left to right, such as ``;``; empty
            for one prompt.
        layers: what stands between layers of scenes, from top to bottom, such as ``/``; empty for one layer.
        refeed: whether the first row's retained tokens get fresh entries; the released code leaves them.
        decode: native squares that the decoder sees at once, at least 9; 0 decodes the whole map in one pass.

    Returns:
        (3, height, width) in [0, 1]; where that is too large to be whole, parts that add up to it.

    Raises:
        UsageError: before anything is computed, on knobs out of range, a loop, canvases that whole strides do not
            reach, more scenes than blocks.
    """
    return together(
        backbone, [prompt], canvas, [noise], columns=columns, rows=rows, remainder=remainder, guidance=guidance,
        top_k=top_k, top_p=top_p, temperature=temperature, scenes=scenes, layers=layers, refeed=refeed, decode=decode,
    )[0]  # fmt: skip
