"""A picture's tokens, those of a small picture of it, and a text in one sequence, and who may attend to whom.

The sequence is [text | high | low]: a grid of high-resolution tokens, then a grid ``ratio`` times coarser. Who may
attend to whom is one rule, :func:`allowed`; from it come the block mask of a GPU kernel and the tables of the CPU's
gather (:mod:`methods.shared.sparse_attention`) and the counts of products. Scale-DiT (Zhang and Tai,
arXiv:2510.16325), its released masks:

    text -> text, high
    high -> text; high within ``radius`` rows and columns; low in the windows around its own
    low  -> low within ``low_radius`` rows and columns; text only where ``low_text``

Windows are ``window`` high tokens a side, ``window / ratio`` low ones. *Around* is a window and its eight neighbours
(``plane``), or by number in raster order, one less to one more (``raster``, as released): there a window at the edge of
a row sees the far end of the row before or after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.errors import UsageError, near
from methods.backbones import Tensor
from methods.shared.orders import known, permutation

NEIGHBOURS = ("plane", "raster")
TEXT, HIGH, LOW, NONE = range(4)  # kinds of tokens; the last fills up a block
BLOCK = 128  # tokens a side of a block of the GPU kernel
ROOM = 1 << 26  # numbers that one piece of work holds


@dataclass(frozen=True)
class Layout:
    """What stands in the sequence, in what order, and who sees whom. All sizes are in tokens.

    Attributes:
        grid: rows and columns of high-resolution tokens.
        text: number of text tokens.
        ratio: rows of the high grid to one of the low grid; 0 where there are no low-resolution tokens.
        window: side of a window of the high grid.
        radius: how far a high token sees in the high grid; None: everything.
        low_radius: the same for the low grid.
        order: of :data:`methods.shared.orders.ORDERS`.
        neighbours: ``plane`` or ``raster``.
        low_seen: whether high tokens see all low ones, whatever their windows.
        low_text: whether low tokens see the text.

    Raises:
        UsageError: an unknown order or rule, grids that windows do not fill.
    """

    grid: tuple[int, int]
    text: int
    ratio: int = 4
    window: int = 16
    radius: int | None = 8
    low_radius: int | None = 2
    order: str = "window"
    neighbours: str = "plane"
    low_seen: bool = False
    low_text: bool = False

    def __post_init__(self) -> None:
        known(self.order)
        if self.neighbours not in NEIGHBOURS:
            raise UsageError(f"unknown rule of neighbours {self.neighbours!r}; {near(self.neighbours, NEIGHBOURS)}")
        if any(side % self.window for side in self.grid) or (self.ratio and self.window % self.ratio):
            raise UsageError(
                f"a grid of {self.grid[0]}x{self.grid[1]} tokens is not whole windows of {self.window}, or those not "
                f"whole low-resolution tokens of {self.ratio}"
            )

    @property
    def high(self) -> int:
        """Number of high-resolution tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def low_grid(self) -> tuple[int, int]:
        """Rows and columns of low-resolution tokens."""
        return (self.grid[0] // self.ratio, self.grid[1] // self.ratio) if self.ratio else (0, 0)

    @property
    def low(self) -> int:
        """Number of low-resolution tokens."""
        return self.low_grid[0] * self.low_grid[1]

    @property
    def length(self) -> int:
        """Number of all tokens."""
        return self.text + self.high + self.low

    @property
    def low_window(self) -> int:
        """Side of a window of the low grid."""
        return self.window // self.ratio if self.ratio else 0

    @property
    def orders(self) -> tuple[Tensor, Tensor]:
        """Permutations of the high and of the low grid: reordered = raster[p]."""
        import torch

        low = permutation(self.low_grid, self.low_window, self.order) if self.low else torch.arange(0)
        return permutation(self.grid, self.window, self.order), low


class Tokens(NamedTuple):
    """Tokens: what kind they are, their row and column in their grid, row and column of their window."""

    kind: Tensor
    y: Tensor
    x: Tensor
    wy: Tensor
    wx: Tensor

    def at(self, places: Any) -> Tokens:
        """The tokens at places of the sequence."""
        return Tokens(*(t[places] for t in self))


def tokens(layout: Layout, device: Any = None) -> Tokens:
    """All tokens of a layout, in the order of the sequence."""
    import torch

    columns = []
    for kind, grid, window, order in (
        (HIGH, layout.grid, layout.window, layout.orders[0]),
        (LOW, layout.low_grid, layout.low_window, layout.orders[1]),
    ):
        y, x = order // max(1, grid[1]), order % max(1, grid[1])
        columns.append(torch.stack([torch.full_like(y, kind), y, x, y // max(1, window), x // max(1, window)]))
    table = torch.cat([torch.zeros((5, layout.text), dtype=torch.long), *columns], dim=1)
    return Tokens(*table.to(device, torch.int32).unbind())


def allowed(q: Tokens, k: Tokens, layout: Layout) -> Tensor:
    """Whether queries may attend to keys, for any tokens of shapes that broadcast."""

    def near_by(radius: int | None) -> Any:
        return True if radius is None else (abs(q.y - k.y) <= radius) & (abs(q.x - k.x) <= radius)

    if layout.low_seen:
        around: Any = True
    elif layout.neighbours == "plane":
        around = (abs(q.wy - k.wy) <= 1) & (abs(q.wx - k.wx) <= 1)
    else:
        count = layout.grid[1] // layout.window
        around = abs((q.wy - k.wy) * count + q.wx - k.wx) <= 1
    of_text = (q.kind == TEXT) & ((k.kind == TEXT) | (k.kind == HIGH))
    of_high = (k.kind == TEXT) | ((k.kind == HIGH) & near_by(layout.radius)) | ((k.kind == LOW) & around)
    of_low = ((k.kind == LOW) & near_by(layout.low_radius)) | ((k.kind == TEXT) & layout.low_text)
    seen: Tensor = of_text | ((q.kind == HIGH) & of_high) | ((q.kind == LOW) & of_low)
    return seen


def pairs(layout: Layout) -> int:
    """How many pairs of query and key are allowed. A head of d channels takes 4 d operations for each."""

    def axis(n: int, radius: int | None) -> int:
        r = n if radius is None else radius
        return sum(min(n - 1, i + r) - max(0, i - r) + 1 for i in range(n))

    rows, columns = (side // layout.window for side in layout.grid)
    around = axis(rows, 1) * axis(columns, 1) if layout.neighbours == "plane" else axis(rows * columns, 1)
    to_low = layout.high * layout.low if layout.low_seen else around * layout.window**2 * layout.low_window**2
    return (
        layout.text * (layout.text + layout.high)
        + layout.high * layout.text
        + axis(layout.grid[0], layout.radius) * axis(layout.grid[1], layout.radius)
        + to_low
        + axis(layout.low_grid[0], layout.low_radius) * axis(layout.low_grid[1], layout.low_radius)
        + layout.low * layout.text * layout.low_text
    )


# -- blocks: the mask of a kernel


def blocks(layout: Layout, queries: int = BLOCK, keys: int = BLOCK, device: Any = None) -> tuple[Tensor, Tensor]:
    """Which blocks of the attention matrix hold an allowed pair, and which hold allowed pairs only.

    Boxes around the tokens of a block tell, where tokens fill their boxes; other blocks that boxes do not rule out are
    looked at pair by pair. So the work grows with the blocks, not with the pairs.

    Args:
        queries, keys: tokens a block; the last one of each axis is filled up with pairs that are not allowed.

    Returns:
        two boolean tables (blocks of queries, blocks of keys).
    """
    import torch

    every = tokens(layout, device)
    across = layout.grid[1] // layout.window
    rows, columns = (_Boxes(_filled(every, size), across) for size in (queries, keys))
    some, full, told = (torch.zeros((rows.count, columns.count), dtype=torch.bool, device=device) for _ in range(3))
    low = None if layout.low_seen else 1
    around = (2, 3) if layout.neighbours == "plane" else (4,)
    meetings: list[tuple[int, int, tuple[int, ...], int | None]] = [
        (TEXT, TEXT, (), None),
        (TEXT, HIGH, (), None),
        (HIGH, TEXT, (), None),
    ]
    meetings += [(HIGH, HIGH, (0, 1), layout.radius), (HIGH, LOW, around, low), (LOW, LOW, (0, 1), layout.low_radius)]
    for a, b, axes, reach in meetings + [(LOW, TEXT, (), None)] * layout.low_text:
        here, there = rows.of(a), columns.of(b)
        may = here.present[:, None] & there.present
        whole = (here.whole[:, None] & there.whole) if (a, b) != (HIGH, LOW) or reach is None else told & False
        every_pair = may.clone()
        for axis in axes if reach is not None else ():
            assert reach is not None
            least, most = here.least[axis][:, None], here.most[axis][:, None]
            first, last = there.least[axis], there.most[axis]
            may &= (least - last <= reach) & (first - most <= reach)
            every_pair &= (most - first <= reach) & (last - least <= reach)
        some |= may
        told |= whole
        full |= whole & every_pair
    open_ = (some & ~told).nonzero()
    for part in open_.split(max(1, ROOM // (16 * queries * keys))):  # type: ignore[no-untyped-call]
        i, j = part.unbind(1)
        q, k = rows.tokens.at(i), columns.tokens.at(j)
        seen = allowed(Tokens(*(t[:, :, None] for t in q)), Tokens(*(t[:, None, :] for t in k)), layout).flatten(1)
        some[i, j], full[i, j] = seen.any(1), seen.all(1)
    return some, full


def _filled(every: Tokens, size: int) -> Tokens:
    """Tokens in blocks (n, size)."""
    from torch.nn.functional import pad

    short = -every.kind.shape[0] % size
    return Tokens(*(pad(t, (0, short), value=NONE if t is every.kind else 0).view(-1, size) for t in every))


class _Box(NamedTuple):
    """Of tokens of one kind in each block: whether there are any; the least and the largest of their row, column, row,
    column and raster number of the window, (5, blocks); whether the block has no others, and these fill their box."""

    present: Tensor
    least: Tensor
    most: Tensor
    whole: Tensor


class _Boxes:
    """Boxes around the tokens of blocks (n, size), of a canvas of so many windows across."""

    def __init__(self, tokens: Tokens, across: int) -> None:
        self.tokens, self.count, self.across = tokens, tokens.kind.shape[0], across

    def of(self, kind: int) -> _Box:
        import torch

        mine = self.tokens.kind == kind
        number = self.tokens.wy * self.across + self.tokens.wx
        sides, far = torch.stack([*self.tokens[1:], number]), 1 << 28
        least, most = sides.masked_fill(~mine, far).amin(2), sides.masked_fill(~mine, -far).amax(2)
        area = (most[0] - least[0] + 1) * (most[1] - least[1] + 1)
        whole = mine.all(1) & ((area == mine.shape[1]) | (kind == TEXT))
        return _Box(mine.any(1), least, most, whole)
