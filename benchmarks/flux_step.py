"""One step of FLUX.1-dev's transformer at 4096x4096 on a GPU: plain with dense attention, and as Scale-DiT calls it.

The architecture is the real one, the weights are random; nothing is fetched. Both sides run the same code
(:mod:`methods.shared.flux_streams`) in bfloat16: ``dense`` without the small picture, by torch's fused attention over
everything; ``local`` with its tokens and an adapter of the released rank, by the kernel that the method chooses on the
device. That kernel is first compared with the CPU's gather on a small canvas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.memory import peak
from benchmarks.timing import Report, Settings, clocked, ratio, rounds

if TYPE_CHECKING:
    from methods.shared.token_layout import Layout

ROUNDS = 3
GRID, TEXT, NATIVE = 256, 512, 64  # tokens a side of 16 px, of text, a side of the native square
RANK, NTK = 16, 10.0
SMALL = (32, 64)  # grid of the comparison of kernels
TINY = {  # for --quick
    "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12], "num_attention_heads": 2, "num_layers": 1,
    "num_single_layers": 1, "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True,
    "in_channels": 64, "patch_size": 1,
}  # fmt: skip
PAPER = 2.29  # 17.89 s a step over 7.81 s
WITHIN = {"float32": 1e-4, "bfloat16": 2e-2}  # of numbers about 1: roundings of the type


class Sides(NamedTuple):
    """The two works, each one call of the network."""

    dense: Callable[[], Any]
    local: Callable[[], Any]
    attention: str  # how the local one computes it


def config() -> dict[str, Any]:
    """FLUX.1-dev's transformer."""
    from methods.backbones.loading import CONFIGS

    parts = json.loads((CONFIGS / "flux-dev.json").read_text(encoding="utf-8"))["parts"]
    return dict(parts["transformer"])


def network(settings: Mapping[str, Any], device: str, dtype: Any) -> Any:
    """A FluxTransformer2DModel with random weights, made on the device."""
    import torch
    from diffusers import FluxTransformer2DModel

    from methods.backbones.identity import quiet

    with torch.device("meta"), quiet():
        blank = FluxTransformer2DModel.from_config(settings).to(dtype)
    made = blank.to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, p in made.named_parameters():
        if p.ndim > 1:
            p.normal_(0.0, p.shape[-1] ** -0.5, generator=generator)
        else:
            p.fill_(0.0 if name.endswith("bias") else 1.0)
    return made


def sides(transformer: Any, layout: Layout, device: str) -> Sides:
    """Both works on random tokens of a layout that has a small picture."""
    import torch

    from methods.shared import lora
    from methods.shared.bridged import turned
    from methods.shared.flux_streams import ADAPTED, Inputs, predict
    from methods.shared.positions import axes_of
    from methods.shared.sparse_attention import choose

    generator, dtype = torch.Generator(device).manual_seed(1), transformer.dtype

    def drawn(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    c = transformer.config
    text, pooled = drawn(1, layout.text, c.joint_attention_dim), drawn(1, c.pooled_projection_dim)
    high, low = drawn(1, layout.high, c.in_channels), drawn(1, layout.low, c.in_channels)
    time, guidance = torch.full((1,), 0.8, device=device), torch.full((1,), 4.5, device=device)
    adapter = lora.fresh(lora.layers(transformer, ADAPTED), RANK, lambda s: drawn(*s))
    axes = axes_of(SimpleNamespace(transformer=transformer, window=2 * NATIVE, patch=2), "scale-dit")

    def call(of: Layout, beside: Any) -> tuple[Callable[[], Any], str]:
        table, attention = turned(of, axes, NTK, device), choose(of, device)
        inputs = Inputs(high, beside, text, pooled, time, guidance)

        def step() -> Any:
            with torch.no_grad():
                return predict(transformer, inputs, adapter, table, attention.attend)

        return step, attention.name

    dense, _ = call(replace(layout, ratio=0, radius=None), None)
    local, name = call(layout, low)
    return Sides(dense, local, name)


def off(layout: Layout, device: str, dtype: Any) -> float:
    """How far the attention that the device chooses is from the gather on the CPU in float32, at most."""
    import torch

    from methods.shared.sparse_attention import choose

    generator = torch.Generator().manual_seed(2)
    given = [torch.randn(1, 2, layout.length, 128, generator=generator).to(dtype) for _ in range(3)]
    there = choose(layout, device).attend(*(t.to(device) for t in given))
    here = choose(layout, "cpu").attend(*(t.float() for t in given))
    return float((there.float().cpu() - here).abs().max())


def one_step(told: Settings) -> Report:
    """Seconds of a step with dense attention over those of Scale-DiT's, and the memory of both."""
    import torch

    from methods.shared.token_layout import Layout

    report = Report()
    for name, within in WITHIN.items():
        far = off(Layout(SMALL, TEXT), told.device, getattr(torch, name))
        report.facts[f"kernel against the gather, {name}"] = far
        if not far < within:
            report.faults.append(f"the kernel is {far:.2g} from the gather in {name}, expected below {within:g}")
    side, settings = (32, TINY) if told.quick else (GRID, config())
    transformer = network(settings, told.device, torch.bfloat16)
    made = sides(transformer, Layout((side, side), TEXT), told.device)
    weights = sum(p.nbytes for p in transformer.parameters())
    works = {"dense": made.dense, "local": made.local}
    for name, work in works.items():  # the passes that do not count; kernels are compiled in them
        if not bool(work().isfinite().all()):
            report.faults.append(f"{name}: the answer is not finite")
        report.facts[f"{name}: peak with weights, GB"] = (weights + peak(work, told.device)) / 1e9
    times = rounds({name: partial(clocked, work, told.device) for name, work in works.items()}, told.repeats or ROUNDS)
    report.ratios.append(ratio(f"dense / local, a step at {16 * side}x{16 * side}", times["dense"], times["local"]))
    report.facts |= {"local attention": made.attention, "weights": "random", "the paper's ratio at 4096x4096": PAPER}
    return report
