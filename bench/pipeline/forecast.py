"""What a suite will cost, before it is run: every method on the meta device with the full-size network, no weights.

Operations and network evaluations are counted, not estimated: the method itself runs, on shapes. Seconds are operations
over a rate. The rate is a GPU's peak times an efficiency (an assumption, ``EFFICIENCY``), or what pictures already in
the store reached (``gpu="measured"``). Memory is the most that tensors hold at once, weights included, with attention
as a fused kernel; workspaces of libraries and the allocator's fragmentation come on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.errors import PrerequisiteError, ScrollBenchError, UsageError, near
from bench.noise import Noise
from bench.pipeline.meta import counting, remembered
from bench.pipeline.plan import network_id
from bench.reading import read_toml
from bench.registry import find
from bench.suites.natives import drawn
from bench.suites.suite import Suite
from bench.suites.values import MethodUse, Part
from bench.types import Parts, Prompt

if TYPE_CHECKING:
    from bench.pipeline.meta import Tally
    from bench.store import Store

EFFICIENCY = 0.4  # share of a GPU's peak that real runs reach: an assumption until measured
MEASURED = "measured"


@dataclass(frozen=True)
class Gpu:
    """A row of gpus.toml: peak TFLOP/s with 16-bit and 32-bit numbers, memory in GB, dollars an hour."""

    name: str
    title: str
    half: float
    single: float
    memory: float
    price: float


@dataclass(frozen=True)
class Forecast:
    """One method on one part of a suite. Operations, memory and seconds are of one picture.

    Attributes:
        backbone, precision: of the method.
        pictures: how many the suite wants.
        nfe: network evaluations.
        attention, other: floating-point operations; a multiplication with an addition is two.
        parameters, weights: numbers in the networks, and their bytes at the precision asked for.
        peak: bytes alive at most, weights included; activations are the difference.
        seconds: at the rate of ``rate_from``; None where no rate is known.
        problem: why there is no forecast, empty if there is one.
    """

    part: str
    method: str
    backbone: str | None
    precision: str
    pictures: int
    nfe: int = 0
    attention: int = 0
    other: int = 0
    parameters: int = 0
    weights: int = 0
    peak: int = 0
    seconds: float | None = None
    rate_from: str = ""
    problem: str = ""

    @property
    def hours(self) -> float | None:
        """All pictures, one after the other on one device."""
        return None if self.seconds is None else self.seconds * self.pictures / 3600


def gpus() -> dict[str, Gpu]:
    """The GPUs known by name."""
    table = read_toml(Path(__file__).with_name("gpus.toml"))
    return {name: Gpu(name, **row) for name, row in table.items()}


def forecast(
    suite: Suite,
    gpu: str = "h100",
    efficiency: float = EFFICIENCY,
    store: Store | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Forecast]:
    """Forecast every method of a suite that uses the backbone, in the suite's order, and its native squares.

    Args:
        suite: resolved; weights are not needed.
        gpu: a name of :func:`gpus`, or ``measured``: the rate that this store's pictures of the suite reached.
        efficiency: share of the peak that is reached, in (0, 1].
        store: where measured pictures are.
        advance: called after every row.

    Raises:
        UsageError: an unknown GPU, an efficiency out of range.
        PrerequisiteError: ``measured`` without a picture to measure by.
    """
    if gpu != MEASURED and gpu not in gpus():
        raise UsageError(f"unknown GPU {gpu!r}; {near(gpu, [*gpus(), MEASURED])}")
    if not 0 < efficiency <= 1:
        raise UsageError(f"--efficiency is a share of the peak above 0 and at most 1, got {efficiency}")
    rows = []
    loaded: tuple[str, Any, str] = ("", None, "")
    for of, use in ((s, u) for s in drawn(suite) for u in s.methods):
        if use.control:
            continue
        if loaded[0] != network_id(use):
            loaded = (network_id(use), *_skeleton(use))
        _, backbone, problem = loaded
        for part in of.parts:
            pictures = len(part.prompts.prompts) * len(of.seeds)
            row = Forecast(part.name, use.label, use.backbone, _precision(use), pictures, problem=problem)
            rows.append(row if backbone is None else _count(row, backbone, use, part))
            advance()
    return _timed(rows, suite, gpu, efficiency, store)


def _precision(use: MethodUse) -> str:
    return str(use.backbone_options.get("precision", "fp32"))


def sheet(rows: list[Forecast], gpu: str = MEASURED, price: float | None = None) -> list[dict[str, Any]]:
    """Forecasts in units for people: TFLOP, billions of parameters, GB, seconds a picture, hours and dollars in all.

    Args:
        rows: of :func:`forecast`.
        gpu: the name they were made for; its memory decides ``fits``, its price the cost.
        price: dollars an hour, instead of the table's.
    """
    chosen = gpus().get(gpu)
    if price is not None and not 0 <= price < math.inf:
        raise UsageError(f"--price takes dollars an hour, from 0; got {price}")
    rate = price if price is not None else chosen.price if chosen else None
    return [_line(r, chosen, rate) for r in rows]


def _line(row: Forecast, gpu: Gpu | None, price: float | None) -> dict[str, Any]:
    known = not row.problem
    return {
        "part": row.part, "method": row.method, "backbone": row.backbone, "pictures": row.pictures,
        "nfe": row.nfe if known else None,
        "attention_tflop": row.attention / 1e12 if known else None,
        "other_tflop": row.other / 1e12 if known else None,
        "parameters_b": row.parameters / 1e9 if known else None,
        "weights_gb": row.weights / 1e9 if known else None,
        "activations_gb": (row.peak - row.weights) / 1e9 if known else None,
        "peak_gb": row.peak / 1e9 if known else None,
        "fits": row.peak / 1e9 <= gpu.memory if known and gpu else None,
        "seconds": row.seconds, "hours": row.hours,
        "cost_usd": row.hours * price if row.hours is not None and price is not None else None,
        "note": row.problem or row.rate_from,
    }  # fmt: skip


def _skeleton(use: MethodUse) -> tuple[Any, str]:
    """The full-size network on the meta device, or None and why not."""
    try:
        factory = find("backbones", str(use.backbone))
        if not hasattr(factory, "skeleton"):
            return None, f"backbone {use.backbone} offers no skeleton"
        return factory.skeleton(**use.backbone_options), ""
    except Exception as error:  # a wrong option, a library of another version: the other rows are none the worse
        return None, _words(error)


def _count(row: Forecast, backbone: Any, use: MethodUse, part: Part) -> Forecast:
    """Run the method once on shapes."""
    prompt: Prompt = part.prompts.prompts[0]
    modules = [m for m in backbone.parts.values() if hasattr(m, "parameters")]
    backbone.meter.reset()
    try:
        with counting() as tally:
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    if tensor.device.type == "meta":
                        tally.track(tensor)
            weights = tally.live
            with _remembering(backbone, tally):
                made = use.method.fn(backbone, prompt, part.canvas, Noise(0, prompt.id), **use.params)
                for _ in made if isinstance(made, Parts) else ():
                    pass  # a large picture costs while it is handed on
    except ScrollBenchError as error:
        return replace(row, problem=_words(error))
    except Exception as error:  # e.g. a sampler that looks at its numbers, which fails in any way
        return replace(row, problem=f"cannot run without numbers: {_words(error)}")
    return replace(
        row,
        nfe=backbone.meter.nfe,
        attention=tally.attention,
        other=tally.other,
        parameters=sum(p.numel() for m in modules for p in m.parameters()),
        weights=weights,
        peak=tally.peak,
    )


def _words(error: Exception) -> str:
    """What an error says, in one line; its kind where that is no sentence of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ScrollBenchError) else f"{type(error).__name__}: {text}"


class _remembering:
    """While open, the backbone's networks run once for every shape and are added up from memory afterwards."""

    def __init__(self, backbone: Any, tally: Tally) -> None:
        self.backbone, self.tally = backbone, tally
        self.calls = [n for n in ("predict", "decode", "encode") if hasattr(backbone, n)]

    def __enter__(self) -> None:
        meter = self.backbone.meter
        for name in self.calls:
            setattr(self.backbone, name, remembered(getattr(self.backbone, name), self.tally, meter))
        meter.remember = lambda call: remembered(call, self.tally, meter)

    def __exit__(self, *_: object) -> None:
        for name in self.calls:
            delattr(self.backbone, name)
        del self.backbone.meter.remember


def _timed(rows: list[Forecast], suite: Suite, gpu: str, efficiency: float, store: Store | None) -> list[Forecast]:
    if gpu == MEASURED:
        rates = measured_rates(rows, suite, store)
        usual = median(rates.values())
        return [
            r
            if r.problem
            else replace(
                r,
                seconds=(r.attention + r.other) / rates.get(r.method, usual),
                rate_from="its own pictures" if r.method in rates else "pictures of the other methods",
            )
            for r in rows
        ]
    chosen, out = gpus()[gpu], []
    for r in rows:
        peak = chosen.half if r.precision in ("bf16", "fp16") else chosen.single
        seconds = None if r.problem else (r.attention + r.other) / (peak * 1e12 * efficiency)
        said = "" if r.problem else f"{efficiency:.0%} of {peak:g} TFLOP/s ({r.precision}), an assumption"
        out.append(replace(r, seconds=seconds, rate_from=said))
    return out


def measured_rates(rows: list[Forecast], suite: Suite, store: Store | None) -> dict[str, float]:
    """Operations a second by method label: counted operations over the median recorded seconds of a picture.

    Raises:
        PrerequisiteError: the store holds no picture of these methods in this suite.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    images: Mapping[str, Any] = store.ledger().images if store is not None else {}
    for record in images.values():
        cost = record["cost"] or {}  # of pictures made elsewhere there is none
        if record["suite"] == suite.ref and cost.get("nfe") and None not in cost["seconds"].values():
            taken.setdefault((record["part"], record["label"]), []).append(sum(cost["seconds"].values()))
    found: dict[str, list[float]] = {}
    for row in rows:
        seconds = taken.get((row.part, row.method))
        if seconds and not row.problem:
            found.setdefault(row.method, []).append((row.attention + row.other) / median(seconds))
    if not found:
        raise PrerequisiteError(
            f"no picture of suite {suite.ref} has been made here, so there is no rate to measure by; make one: "
            f"scrollbench generate --suite {suite.name} --limit 1"
        )
    return {label: median(rates) for label, rates in found.items()}
