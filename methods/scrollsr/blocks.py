"""FlashVSR's sparse attention: blocks of 2 x 8 x 8 tokens that attend to a chosen few blocks near them, exactly.

Zhuang et al., arXiv:2510.12747, and its released code. A *slot* is two latent frames; its blocks stand in rows. For
each head, block means of queries and keys (turned by their positions) give scores; a block may look at blocks at most
half of ``reach`` away in space, in any slot; a softmax over those, and in each slot of queries only the largest
probabilities stay, at most ``budget`` in all. So a block near nothing of interest may keep no block at all, and then
sees nothing: zeros.

Attention itself is softmax attention over the kept blocks, whose keys are gathered. There is no dense fallback: its
authors report that pictures then get worse.

Deviation: scores and probabilities are at least float32; the released code ranks them in the network's type, where ties
at the threshold fall away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as fused

from methods.shared.token_layout import ROOM

FRAMES, SIDE = 2, 8
TOKENS = FRAMES * SIDE * SIDE


def to_blocks(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Tokens in raster order of (frames, h, w), (tokens, ...), as (blocks, 128, ...)."""
    f, h, w = grid
    x = x.view(f // FRAMES, FRAMES, h // SIDE, SIDE, w // SIDE, SIDE, *x.shape[1:])
    return x.transpose(1, 2).transpose(2, 4).transpose(3, 4).flatten(3, 5).flatten(0, 2)


def from_blocks(x: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Undoes :func:`to_blocks`."""
    f, h, w = grid
    x = x.view(f // FRAMES, h // SIDE, w // SIDE, FRAMES, SIDE, SIDE, *x.shape[2:])
    return x.transpose(3, 4).transpose(2, 4).transpose(1, 2).flatten(0, 5)


def near(rows: int, columns: int, reach: int) -> Tensor:
    """Which blocks may look at which in space, (blocks, blocks): ``reach`` a side, one less behind if it is even."""
    before, after = reach // 2, reach - 1 - reach // 2

    def along(n: int) -> Tensor:
        ahead = torch.arange(n)[None, :] - torch.arange(n)[:, None]
        return (-before <= ahead) & (ahead <= after)

    both = along(rows)[:, None, :, None] & along(columns)[None, :, None, :]
    return both.reshape(rows * columns, rows * columns)


@dataclass(frozen=True)
class Sparse:
    """Attention over blocks; queries are of the last slots, keys of these and the ones before them.

    Attributes:
        rows, columns: blocks of a slot.
        reach: blocks a side that a block may look at: 11 (stable) or 9 (sharper).
        ratio: blocks kept of a slot's ``(rows * columns)^2``; released 2 * 768 * 1280 / (H W), so 120 for each block of
            queries on average, at any size.
    """

    rows: int
    columns: int
    reach: int
    ratio: float

    @property
    def budget(self) -> int:
        """Pairs of blocks that a head and a slot of queries keep at most."""
        return max(0, int((self.rows * self.columns) ** 2 * self.ratio) - 1)

    def choose(self, q: Tensor, k: Tensor) -> Tensor:
        """Which blocks are attended to, (heads, blocks of q, blocks of k), from (blocks, 128, heads, d) of both."""
        count = self.rows * self.columns
        wide = torch.promote_types(q.dtype, torch.float32)
        means = [t.to(wide).mean(1).transpose(0, 1) for t in (q, k)]
        scores = means[0] @ means[1].transpose(1, 2) * q.shape[-1] ** -0.5
        allowed = near(self.rows, self.columns, self.reach).to(q.device)
        allowed = allowed.repeat(q.shape[0] // count, k.shape[0] // count)
        found = scores.masked_fill(~allowed, -torch.inf).softmax(-1).unflatten(1, (-1, count))  # type: ignore[no-untyped-call]
        flat = found.flatten(2)
        threshold = flat.topk(min(self.budget + 1, flat.shape[-1])).values[..., -1:]
        kept: Tensor = (flat > threshold).view(found.shape).flatten(1, 2)
        return kept

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What queries see, (blocks, 128, heads, d)."""
        if q.device.type == "meta":
            return self._counted(q, k, v)
        return gathered(q, k, v, self.choose(q, k))

    def _counted(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Shapes only; what is counted are the products of as many blocks as are kept at most."""
        count = self.rows * self.columns
        pairs = int(near(self.rows, self.columns, self.reach).sum()) * (k.shape[0] // count)
        pairs = min(self.budget, pairs) * (q.shape[0] // count)
        each, rest = divmod(pairs * TOKENS**2, q.shape[0] * TOKENS)
        one = q.flatten(0, 1).transpose(0, 1)  # (heads, tokens, d)
        for queries, n in ((one[:, :1], rest), (one, each)):
            keys, values = (t[0, :1].transpose(0, 1).expand(-1, n, -1) for t in (k, v))
            seen = fused(queries, keys, values)
        return seen.transpose(0, 1).reshape(q.shape)


def gathered(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention over the blocks of a mask; zeros where it has none.

    Blocks of queries that keep as many blocks are computed together, so that nothing is filled up or hidden.

    Args:
        q: (blocks, 128, heads, d); k and v the same, with blocks of their own.
        mask: (heads, blocks of q, blocks of k).
    """
    out, counts = torch.zeros_like(q), mask.sum(-1)
    for n in sorted(set(counts.flatten().tolist())):
        if not n:
            continue
        heads, queries = (counts == n).nonzero(as_tuple=True)
        kept = mask[heads, queries].nonzero()[:, 1].view(-1, n)
        rows = max(1, ROOM // (n * k.shape[1] * k.shape[-1]))
        for h, i, j in zip(heads.split(rows), queries.split(rows), kept.split(rows), strict=True):  # type: ignore[no-untyped-call]
            keys, values = (t[j, :, h[:, None]].flatten(1, 2) for t in (k, v))
            out[i, :, h] = fused(q[i, :, h], keys, values)
    return out
