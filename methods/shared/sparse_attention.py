"""Attention over a layout of tokens where most pairs are not allowed: the same numbers, as a device does them best."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from methods.backbones import Tensor
from methods.shared.token_layout import BLOCK, HIGH, LOW, ROOM, Layout, Tokens, allowed, blocks, tokens


class Attention(NamedTuple):
    """How a layout's attention is computed: a name for records, and ``(q, k, v) -> (b, heads, tokens, d)``."""

    name: str
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]


def choose(layout: Layout, device: Any) -> Attention:
    """The way for a device, the name saying which: all take q, k and v of (b, heads, ``layout.length``, d).

    ``sdpa``: torch's own, where all may attend to all. ``flex-attention`` on CUDA: torch's kernel, compiled, on the
    blocks that hold an allowed pair; exact in the type it is given. ``gather`` elsewhere: queries in small tiles, each
    with the keys that it may see. ``counted`` on the meta device: nothing is computed, and :mod:`bench.meta` counts the
    products of the GPU kernel, whole blocks.
    """
    import torch

    where = torch.device(device)
    if not layout.low and layout.radius is None:
        return Attention("sdpa", torch.nn.functional.scaled_dot_product_attention)
    if where.type == "meta":
        return Attention("counted", _counted(layout))
    if where.type == "cuda":
        return Attention("flex-attention", _flex(layout, where))
    return Attention("gather", _gather(layout, where))


def block_mask(layout: Layout, device: Any = None) -> Any:
    """The ``BlockMask`` of torch's flex attention, made from the table of blocks; no table of pairs is ever made."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    some, full = blocks(layout, device=device)
    every = tokens(layout, device)

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return allowed(every.at(q), every.at(k), layout)

    def listed(table: Tensor) -> tuple[Tensor, Tensor]:
        order = table.int().argsort(dim=1, descending=True, stable=True)
        return table.sum(1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *listed(some & ~full), *listed(full), BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(layout.length,) * 2
    )


@cache
def _compiled() -> Any:
    """The kernel; compiled once for every combination of shapes."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(layout: Layout, device: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    mask = block_mask(layout, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen: Tensor = _compiled()(q, k, v, block_mask=mask)
        return seen

    return attend


def _counted(layout: Layout) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    products = int(blocks(layout)[0].sum()) * BLOCK**2

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention as fused

        each, rest = divmod(products, layout.length)  # two products of as many pairs in all
        for queries, n in ((q[..., :1, :], rest), (q, each)):
            keys, values = (t[..., :1, :].expand(*t.shape[:2], n, t.shape[3]) for t in (k, v))
            seen = fused(queries, keys, values)
        return seen

    return attend


class Table(NamedTuple):
    """Queries that are computed together, and what they see beside the keys ``shared`` by all of their kind.

    Attributes:
        queries: (tiles, t) places in the sequence.
        keys: (tiles, m) places, some of them for filling up.
        seen: (tiles, t, m), which of the keys each query sees.
    """

    queries: Tensor
    keys: Tensor
    seen: Tensor


def tables(layout: Layout, device: Any = None) -> dict[int, tuple[Table | None, list[slice]]]:
    """For high and low tokens: the table of what they see one by one (None: nothing), and slices that they all see."""
    high = slice(layout.text, layout.text + layout.high)
    low = slice(layout.text + layout.high, layout.length)
    text = slice(0, layout.text)
    every = tokens(layout, device)
    shared_high = [text] + [high] * (layout.radius is None) + [low] * layout.low_seen
    shared_low = [text] * layout.low_text + [low] * (layout.low_radius is None)
    found: dict[int, tuple[Table | None, list[slice]]] = {HIGH: (_table(layout, every, HIGH), shared_high)}
    if layout.low:
        found[LOW] = (_table(layout, every, LOW), shared_low)
    return found


def _table(layout: Layout, every: Tokens, kind: int) -> Table | None:
    """Tiles of queries with the keys around them; the surplus of a tile's keys is masked.

    A tile is half a radius a side: for 17 x 17 keys within 8 tokens it looks at 20 x 20. Up to a radius of 3 it is one
    token, and every product is an allowed one.
    """
    import torch

    first = layout.text + (layout.high if kind == LOW else 0)
    grid, window, radius, order = (
        (layout.grid, layout.window, layout.radius, layout.orders[0])
        if kind == HIGH
        else (layout.low_grid, layout.low_window, layout.low_radius, layout.orders[1])
    )
    side = next(t for t in range(max(1, (radius or window) // 2), 0, -1) if window % t == 0)
    places = _places(grid, order, first)
    corner_y, corner_x = (torch.arange(n // side) * side for n in grid)
    corner_y, corner_x = (c.flatten() for c in torch.meshgrid(corner_y, corner_x, indexing="ij"))
    queries = _rectangles(places, corner_y, corner_x, (0, side))
    keys = []
    if radius is not None:
        keys.append(_rectangles(places, corner_y, corner_x, (-radius, side + radius)))
    if kind == HIGH and layout.low and not layout.low_seen:
        keys.append(_around(layout, corner_y // window, corner_x // window))
    if not keys:
        return None
    found = torch.cat(keys, dim=1)
    there = found >= 0
    queries, found, there = (t.to(every.kind.device) for t in (queries, found.clamp(min=0), there))
    q, k = every.at(queries), every.at(found)
    seen = allowed(Tokens(*(t[:, :, None] for t in q)), Tokens(*(t[:, None, :] for t in k)), layout)
    return Table(queries, found, seen & there[:, None, :])


def _places(grid: tuple[int, int], order: Tensor, first: int) -> Tensor:
    """Where in the sequence the token of each row and column stands."""
    return first + order.argsort().view(grid)


def _rectangles(places: Tensor, y: Tensor, x: Tensor, reach: tuple[int, int]) -> Tensor:
    """Places of the tokens from ``reach[0]`` to before ``reach[1]`` around corners, (corners, tokens); -1 outside."""
    import torch

    offsets = torch.arange(*reach)
    ys, xs = (y[:, None] + offsets)[:, :, None], (x[:, None] + offsets)[:, None, :]
    inside = (ys >= 0) & (ys < places.shape[0]) & (xs >= 0) & (xs < places.shape[1])
    taken = places[ys.clamp(0, places.shape[0] - 1), xs.clamp(0, places.shape[1] - 1)]
    return taken.where(inside, -1).flatten(1)


def _around(layout: Layout, wy: Tensor, wx: Tensor) -> Tensor:
    """Places of the low tokens in the windows around windows (wy, wx), (windows, tokens); -1 where there are none."""
    import torch

    places = _places(layout.low_grid, layout.orders[1], layout.text + layout.high)
    size, across = layout.low_window, layout.grid[1] // layout.window
    if layout.neighbours == "plane":
        return _rectangles(places, wy * size, wx * size, (-size, 2 * size))
    number = (wy * across + wx)[:, None] + torch.arange(-1, 2)
    count = across * (layout.grid[0] // layout.window)
    own = _rectangles(places, number.flatten() // across * size, number.flatten() % across * size, (0, size))
    return own.where(((number >= 0) & (number < count)).view(-1, 1), -1).view(len(wy), -1)


def _gather(layout: Layout, device: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    import torch
    from torch.nn.functional import scaled_dot_product_attention as fused

    kinds = tables(layout, device)
    text, middle = layout.text, layout.text + layout.high
    own = {HIGH: slice(text, middle), LOW: slice(middle, layout.length)}

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        done = [fused(q[..., :text, :], k[..., :middle, :], v[..., :middle, :])]
        for kind, (table, shared) in kinds.items():
            spans = shared or [slice(0, 0)]
            all_k, all_v = (torch.cat([t[..., s, :] for s in spans], dim=-2) for t in (k, v))
            if table is None:
                done.append(fused(q[..., own[kind], :], all_k, all_v))
            else:
                done.append(_tiles(q, k, v, all_k, all_v, table))
        return torch.cat(done, dim=-2)

    return attend


def _tiles(q: Tensor, k: Tensor, v: Tensor, all_k: Tensor, all_v: Tensor, table: Table) -> Tensor:
    """Attention of a table's queries, in the order of the sequence: one softmax over shared keys and their own."""
    import torch

    q = q * q.shape[-1] ** -0.5
    done, tiles = [], table.queries.shape[0]
    row = k.shape[0] * k.shape[1] * table.keys.shape[1] * max(k.shape[-1], table.queries.shape[1])
    for part in torch.arange(tiles, device=q.device).split(max(1, ROOM // row)):  # type: ignore[no-untyped-call]
        queries, keys = table.queries[part], table.keys[part]
        mine, near_k, near_v = q[..., queries, :], k[..., keys, :], v[..., keys, :]
        own = (mine @ near_k.transpose(-1, -2)).masked_fill(~table.seen[part], -torch.inf)
        common = (mine.flatten(2, 3) @ all_k.transpose(-1, -2)).unflatten(2, queries.shape)  # type: ignore[no-untyped-call]
        weights = torch.cat([common, own], dim=-1).softmax(dim=-1)
        far, near_by = weights.split([common.shape[-1], own.shape[-1]], dim=-1)  # type: ignore[no-untyped-call]
        distant = (far.flatten(2, 3) @ all_v).unflatten(2, queries.shape)  # type: ignore[no-untyped-call]
        done.append(distant + near_by @ near_v)
    joined = torch.cat(done, dim=2).flatten(2, 3)
    return joined[..., table.queries.flatten().argsort(), :]
