"""PanoLlama's walk: what chunks save, whether a scroll's cost is linear in its width, what pictures save together.

A released extension takes a call for every token; ours puts retained tokens into the cache together with the last one
drawn. Both write the same tokens, which is checked; the entries of the first row are those of the released walk on
both sides. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.timing import Report, Settings, clocked, ratio, rounds

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones import Conditioning, TokenWalk

ROUNDS = 5
SIZES = {"dim": 128, "n_layer": 4, "n_head": 4, "vocab_size": 1024, "caption_dim": 64}  # block and text as released
QUICK = {
    "dim": 32,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 64,
    "caption_dim": 16,
    "block_size": 64,
    "cls_token_num": 8,
}
SQUARES = 10  # of the scroll whose calls are told
STRIDES = (3 / 4, 1 / 8)
EXTENSIONS = 12  # of the scroll whose extensions are timed one by one: 10:1 at three quarters
TOGETHER = 4  # pictures


class OneByOne:
    """A walk that is fed one token a call, whatever it is given."""

    def __init__(self, walk: TokenWalk) -> None:
        self.walk = walk

    def tell(self, conditioning: Conditioning) -> Tensor:
        return self.walk.tell(conditioning)

    def feed(self, tokens: Tensor, positions: Sequence[int]) -> Tensor:
        for i, position in enumerate(positions):
            logits = self.walk.feed(tokens[:, i : i + 1], [position])
        return logits

    def reset(self) -> None:
        self.walk.reset()


def begun(gpt: Any, device: str, pictures: int = 1) -> tuple[Any, Tensor, Any]:
    """(a walk that knows a random prompt, its opening, the meter that counts its calls)."""
    import torch

    from methods.backbones import Conditioning
    from methods.backbones.llamagen.gpt import Walk
    from methods.backbones.meter import Meter

    c, draw, meter = gpt.config, torch.Generator().manual_seed(1), Meter(device)
    text = torch.randn(2, c.cls_token_num, c.caption_dim, generator=draw).to(device)
    side = round(c.block_size**0.5)
    walk = Walk(gpt, (side, side), 7.5, meter, pictures)
    mask = torch.ones(2, c.cls_token_num, dtype=torch.bool)
    return walk, walk.tell(Conditioning(text, {"mask": mask})), meter


def likeliest(logits: Tensor, y: int, x: int) -> Tensor:
    """The choice of all sides."""
    return logits.argmax(-1)


def extension(
    gpt: Any, kept: int, device: str, wrap: Callable[[Any], Any] = lambda walk: walk, pictures: int = 1
) -> tuple[Callable[[], Tensor], Any]:
    """(what extends random squares and returns the tokens of their blocks, the meter that counts its calls)."""
    import torch

    from methods.panollama import fill

    inner, opening, meter = begun(gpt, device, pictures)
    side, draw = round(gpt.config.block_size**0.5), torch.Generator().manual_seed(2)
    squares = torch.randint(0, gpt.config.vocab_size, (TOGETHER, side, side), generator=draw)[:pictures].to(device)
    inner.feed(squares.flatten(1), range(side * side))
    walk = wrap(inner)
    block, there = torch.zeros_like(squares), np.zeros((side, side), dtype=bool)
    block[:, :, :kept] = squares[:, :, side - kept :]
    there[:, :kept] = True

    def extend() -> Tensor:
        tokens = block.clone()
        fill(walk, tokens, there.copy(), (0, 0), side, opening, likeliest, kept - 1)
        return tokens

    return extend, meter


def walk(told: Settings) -> Report:
    """Seconds of an extension one token a call over those of ours, by stride; of pictures alone over together; calls
    of a whole scroll, and how seconds and memory grow along it."""
    import torch

    from methods.backbones.llamagen.gpt import GPT, GPTConfig

    report = Report()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config: Any = QUICK if told.quick else SIZES
        gpt = GPT(GPTConfig(**config)).to(told.device).eval()
        side = round(gpt.config.block_size**0.5)
        for share in STRIDES:
            compare(report, gpt, side, round(share * side), told)
        crowd(report, gpt, side, told)
        along(report, gpt, side, told)
    return report


def compare(report: Report, gpt: Any, side: int, columns: int, told: Settings) -> None:
    """Add one stride to the report."""
    wraps: dict[str, Callable[[Any], Any]] = {"one by one": OneByOne, "chunks": lambda inner: inner}
    made = {name: extension(gpt, side - columns, told.device, wrap) for name, wrap in wraps.items()}
    maps, calls = {}, {}
    for name, (extend, meter) in made.items():
        meter.reset()
        maps[name] = extend()
        calls[name] = meter.nfe // 2
    label = f"{columns} of {side} columns"
    if not maps["one by one"].equal(maps["chunks"]):
        report.faults.append(f"{label}: chunks write other tokens than single steps")
    times = timed({name: extend for name, (extend, _) in made.items()}, told)
    report.ratios.append(ratio(f"one by one / chunks, {label}", times["one by one"], times["chunks"]))
    extensions = (SQUARES - 1) * side / columns
    whole = {name: side * side + extensions * n for name, n in calls.items()}
    report.tables.setdefault("calls", []).append({
        "columns": columns, "an extension": calls["chunks"], "one by one": calls["one by one"],
        f"{SQUARES}:1": round(whole["chunks"]), f"{SQUARES}:1, one by one": round(whole["one by one"]),
        "ratio": whole["one by one"] / whole["chunks"],
    })  # fmt: skip


def timed(sides: dict[str, Callable[[], object]], told: Settings) -> dict[str, list[float]]:
    """Seconds of every side in every round."""
    clocks = {name: lambda work=work: clocked(work, told.device) for name, work in sides.items()}
    return rounds(clocks, told.repeats or ROUNDS)


def crowd(report: Report, gpt: Any, side: int, told: Settings) -> None:
    """Add pictures alone over pictures together: the same work, divided otherwise."""
    kept = side - round(STRIDES[-1] * side)
    one, _ = extension(gpt, kept, told.device)
    several, _ = extension(gpt, kept, told.device, pictures=TOGETHER)
    if not one().equal(several()[:1]):
        report.faults.append(f"{TOGETHER} pictures together: other tokens than alone")
    times = timed({"alone": lambda: [one() for _ in range(TOGETHER)], "together": several}, told)
    report.ratios.append(ratio(f"{TOGETHER} pictures alone / together", times["alone"], times["together"]))


def along(report: Report, gpt: Any, side: int, told: Settings) -> None:
    """Add seconds and resident memory of the extensions of one scroll, one by one, and the line through them.

    Cost linear in width is seconds of an extension that do not depend on where it lies: the slope is 0.
    """
    import torch

    from methods.panollama import fill

    count, columns = 4 if told.quick else EXTENSIONS, round(STRIDES[0] * side)
    walk, opening, _ = begun(gpt, told.device)
    size = side, side + count * columns
    tokens, known = torch.zeros((1, *size), dtype=torch.long, device=told.device), np.zeros(size, dtype=bool)
    fill(walk, tokens, known, (0, 0), side, opening, likeliest)
    seconds, memory = [], [resident()]
    for i in range(1, count + 1):
        corner = 0, i * columns
        seconds.append(
            clocked(lambda at=corner: fill(walk, tokens, known, at, side, opening, likeliest), told.device)  # type: ignore[misc]
        )
        memory.append(resident())
    low, high = growth(seconds)
    report.facts |= {
        "seconds of an extension": float(np.mean(seconds)),
        "growth of an extension's seconds along the scroll, of their mean, 95 %": f"{low:+.1%} to {high:+.1%}",
        "resident memory gained along the scroll, MB": round((memory[-1] - memory[0]) / 1e6, 1),
    }


def growth(seconds: Sequence[float]) -> tuple[float, float]:
    """95 % interval of what a straight line through the seconds gains from the first to the last, over their mean."""
    from scipy.stats import t

    y = np.asarray(seconds)
    x = np.linspace(-0.5, 0.5, len(y))
    slope = (x @ y) / (x @ x)
    off = y - y.mean() - slope * x
    wide = t.ppf(0.975, len(y) - 2) * np.sqrt(off @ off / (len(y) - 2) / (x @ x))
    return (slope - wide) / y.mean(), (slope + wide) / y.mean()


def resident() -> int:
    """Bytes of this process in memory, 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0
