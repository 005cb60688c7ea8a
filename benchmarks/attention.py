"""How Scale-DiT's attention grows with the canvas beside dense attention: operations, seconds and memory of one head.

The sequence is FLUX's: 512 tokens of text and a grid of tokens of 16 px, 64 x 64 at the native 1024 px. ``dense`` is
plain FLUX, which sees all of that; ``local`` also has the small picture's tokens and computes what the method allows
(:mod:`methods.shared.token_layout`). Operations and memory are counted, the latter on shapes, without queries, keys and
values. Seconds, the processor's, are measured on grids that a CPU does in seconds; beyond they are forecast.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import flux_step
from benchmarks.memory import peak
from benchmarks.timing import Ratio, Report, Settings, ratio, rounds

if TYPE_CHECKING:
    from methods.shared.token_layout import Layout

ROUNDS = 3
TEXT, WIDTH, NATIVE = 512, 128, 64  # tokens of text, channels of a head, tokens a side of the native square
MEASURED = (16, 32, 48, 64, 80, 96, 112, 128)  # tokens a side
FORECAST = (192, 256, 384, 512)
PAPER = 130.4  # times fewer operations at 8192x8192
Row = dict[str, Any]


def layouts(side: int) -> dict[str, Layout]:
    """The two sides of a square grid."""
    from methods.shared.token_layout import Layout

    local = Layout((side, side), TEXT)
    return {"dense": replace(local, ratio=0, radius=None), "local": local}


def operations(layout: Layout) -> int:
    """Of one head, over the pairs that are allowed; a multiplication with an addition is two."""
    from methods.shared.token_layout import pairs

    return 4 * WIDTH * pairs(layout)


def gathered(layout: Layout) -> int:
    """Pairs of query and key that the CPU's gather computes, those that fill its tiles up included."""
    from methods.shared.sparse_attention import tables
    from methods.shared.token_layout import HIGH

    total = layout.text * (layout.text + layout.high)
    for kind, (table, shared) in tables(layout).items():
        queries = layout.high if kind == HIGH else layout.low
        total += queries * sum(s.stop - s.start for s in shared)
        total += 0 if table is None else table.seen.numel()
    return total


def prepared(layout: Layout) -> Callable[[], Any]:
    """Attention of one head over a layout, on this CPU in float32; tables are made before."""
    import torch

    from methods.shared.sparse_attention import choose

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, layout.length, WIDTH, generator=generator) for _ in range(3))
    attend = choose(layout, "cpu").attend
    return lambda: attend(q, k, v)


def memory(layout: Layout) -> int:
    """Bytes that such a call takes at most, counted on shapes."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from methods.shared.sparse_attention import choose

    attend = choose(layout, "cpu").attend
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, k, v = (torch.empty(1, 1, layout.length, WIDTH) for _ in range(3))
        return peak(lambda: attend(q, k, v))


def processor(work: Callable[[], Any]) -> float:
    """Seconds of the processor in a call, which other work on the machine changes less than the clock's."""
    start = time.process_time()
    work()
    return time.process_time() - start


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    """p of values ~ sizes^p by least squares on logarithms, and its 95 % interval (Student's t on the residuals).

    Raises:
        ValueError: fewer than three sizes.
    """
    import numpy as np
    from scipy.special import stdtrit

    n = len(sizes)
    if n < 3:
        raise ValueError(f"an exponent with an interval takes at least three sizes, got {n}")
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    left = y - y.mean() - slope * x
    half = float(stdtrit(n - 2, 0.975)) * math.sqrt(float(left @ left) / (n - 2) / float(x @ x))
    return slope, slope - half, slope + half


def counted(side: int) -> Row:
    """Operations and memory of both sides of a grid."""
    row: Row = {"side": side, "how": "forecast"}
    for name, layout in layouts(side).items():
        row[f"{name} GFLOP"] = operations(layout) / 1e9
    for name, layout in layouts(side).items():
        row[f"{name} MB"] = memory(layout) / 1e6
    return row


def timed(table: Sequence[Row], sides: Sequence[int], repeats: int) -> list[Ratio]:
    """Write the median seconds of both sides into the rows, and return their ratios for grids that are measured.

    A round does all of these once, so that what else the machine does falls on all alike. On other grids seconds are
    those of the largest measured by operations.
    """
    works = {f"{name} {side}": prepared(layout) for side in sides for name, layout in layouts(side).items()}
    for work in works.values():  # the pass that does not count
        work()
    times = rounds({name: partial(processor, work) for name, work in works.items()}, repeats)
    found = []
    for side in sides:
        name = f"dense / local, one head, {side} x {side} tokens"
        found.append(ratio(name, times[f"dense {side}"], times[f"local {side}"]))
    seconds = dict(zip(sides, (r.seconds for r in found), strict=True))
    last = next(row for row in table if row["side"] == max(sides))
    for row in table:
        row["how"] = "measured" if row["side"] in seconds else "forecast"
        for name, there in zip(("dense", "local"), seconds[max(sides)], strict=True):
            row[f"{name} s"] = there * row[f"{name} GFLOP"] / last[f"{name} GFLOP"]
        if row["side"] in seconds:
            row["dense s"], row["local s"] = seconds[row["side"]]
    return found


def growth(table: Sequence[Row]) -> list[Row]:
    """Exponents in the number of tokens, over all grids and from the native square on, where text is the lesser part.

    Of operations and bytes over all rows, of seconds over those measured.
    """
    fits = []
    for unit in ("GFLOP", "MB", "s"):
        rows = [r for r in table if unit != "s" or r["how"] == "measured"]
        for least in (min(r["side"] for r in rows), NATIVE):
            of = [r for r in rows if r["side"] >= least]
            if len(of) < 3:
                continue
            for name in ("dense", "local"):
                p, low, high = exponent([r["side"] ** 2 for r in of], [r[f"{name} {unit}"] for r in of])
                fit = {"of": f"{name} {unit}", "from": of[0]["side"], "to": of[-1]["side"]}
                fits.append({**fit, "exponent": p, "low": low, "high": high})
    return fits


def scale_dit(told: Settings) -> Report:
    """On the CPU how attention grows; on CUDA one step of full-size FLUX (:mod:`benchmarks.flux_step`)."""
    if told.device.startswith("cuda"):
        return flux_step.one_step(told)
    report, sides = Report(), MEASURED[:3] if told.quick else MEASURED
    table = [counted(side) for side in (*sides, *(() if told.quick else FORECAST))]
    report.ratios = timed(table, sides, told.repeats or ROUNDS)
    report.tables = {
        "attention of one head, grids by tokens of 16 px a side": table,
        "growth with the number of tokens, 95 %": growth(table),
    }
    side = sides[-1]
    layout = layouts(side)["local"]
    of_gather = 4 * WIDTH * gathered(layout) / operations(layout)
    report.facts = {
        f"gather: products computed over allowed, {side} x {side}": of_gather,
        f"scores that nothing writes down, {side} x {side}, MB": 4 * (side**2 + TEXT) ** 2 / 1e6,
        "8192x8192, blocks of 128 x 64, all over those with a pair, released rule": papers_saving(),
        "the same, the paper's": PAPER,
    }
    if of_gather < 1:
        report.faults.append(f"the gather computes {of_gather:.3f} of the products that are allowed")
    return report


def papers_saving() -> float:
    """All blocks of 128 queries and 64 keys at 8192 x 8192 px over those with an allowed pair, by the released rule."""
    from methods.shared.token_layout import Layout, blocks

    some, _ = blocks(Layout((512, 512), TEXT, neighbours="raster"), 128, 64)
    return some.numel() / int(some.sum())
