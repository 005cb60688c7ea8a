"""What chunks save in PanoLlama's walk: one extension with a call for every token, as released, over ours.

Ours puts retained tokens into the cache together with the last one drawn. Both write the same tokens, which is checked;
the entries of the first row are those of the released walk on both sides. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.timing import Report, Settings, clocked, ratio, rounds

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones import Conditioning, TokenWalk

ROUNDS = 5
SIZES = {"dim": 256, "n_layer": 6, "n_head": 4, "vocab_size": 4096, "caption_dim": 64}  # block and text as released
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
STRIDES = (3 / 4, 1 / 2, 1 / 8)


class OneByOne:
    """A walk that is fed one token a call, whatever it is given."""

    def __init__(self, walk: TokenWalk) -> None:
        self.walk = walk

    def tell(self, conditioning: Conditioning) -> Tensor:
        return self.walk.tell(conditioning)

    def feed(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        for token, position in zip(tokens, positions, strict=True):
            logits = self.walk.feed([token], [position])
        return logits

    def reset(self) -> None:
        self.walk.reset()


def extension(gpt: Any, kept: int, wrap: Callable[[Any], Any], device: str) -> tuple[Callable[[], Tensor], Any]:
    """(what extends a random square and returns the block's tokens, the meter that counts its calls)."""
    import torch

    from methods.backbones import Conditioning
    from methods.backbones.llamagen.gpt import Walk
    from methods.backbones.meter import Meter
    from methods.panollama import UNKNOWN, fill

    c, draw = gpt.config, torch.Generator().manual_seed(1)
    side, meter = round(c.block_size**0.5), Meter(device)
    text = torch.randn(2, c.cls_token_num, c.caption_dim, generator=draw).to(device)
    square = torch.randint(0, c.vocab_size, (side, side), generator=draw)
    inner = Walk(gpt, (side, side), 7.5, meter)
    opening = inner.tell(Conditioning(text, {"mask": torch.ones(2, c.cls_token_num, dtype=torch.bool)}))
    inner.feed(square.flatten().tolist(), range(c.block_size))
    walk = wrap(inner)
    block = torch.full_like(square, UNKNOWN)
    block[:, :kept] = square[:, side - kept :]

    def extend() -> Tensor:
        tokens = block.clone()
        fill(walk, tokens, (0, 0), side, opening, lambda logits, y, x: int(logits.argmax()), kept - 1)
        return tokens

    return extend, meter


def walk(told: Settings) -> Report:
    """Seconds of an extension one token a call over those of ours, by stride; and calls of a whole scroll."""
    import torch

    from methods.backbones.llamagen.gpt import GPT, GPTConfig

    report = Report()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config: Any = QUICK if told.quick else SIZES
        gpt = GPT(GPTConfig(**config)).to(told.device).eval()
        side = round(gpt.config.block_size**0.5)
        for share in STRIDES:
            columns = round(share * side)
            compare(report, gpt, side, columns, told)
    return report


def compare(report: Report, gpt: Any, side: int, columns: int, told: Settings) -> None:
    """Add one stride to the report."""
    wraps: dict[str, Callable[[Any], Any]] = {"one by one": OneByOne, "chunks": lambda inner: inner}
    made = {name: extension(gpt, side - columns, wrap, told.device) for name, wrap in wraps.items()}
    maps, calls = {}, {}
    for name, (extend, meter) in made.items():
        meter.reset()
        maps[name] = extend()
        calls[name] = meter.nfe // 2
    label = f"{columns} of {side} columns"
    if not maps["one by one"].equal(maps["chunks"]):
        report.faults.append(f"{label}: chunks write other tokens than single steps")

    def side_of(name: str) -> Callable[[], float]:
        return lambda: clocked(made[name][0], told.device)

    times = rounds({name: side_of(name) for name in made}, told.repeats or ROUNDS)
    report.ratios.append(ratio(f"one by one / chunks, {label}", times["one by one"], times["chunks"]))
    extensions = (SQUARES - 1) * side / columns
    whole = {name: side * side + extensions * n for name, n in calls.items()}
    report.tables.setdefault("calls", []).append({
        "columns": columns, "an extension": calls["chunks"], "one by one": calls["one by one"],
        f"{SQUARES}:1": round(whole["chunks"]), f"{SQUARES}:1, one by one": round(whole["one by one"]),
        "ratio": whole["one by one"] / whole["chunks"],
    })  # fmt: skip
