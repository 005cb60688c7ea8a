"""ScrollScape on Wan2.1-1.3B's own architecture with random weights: what was predicted beside what is measured.

One clip of the size that a picture of 32768x4096 begins with (8192x1024 px: frames of 832x1024, about 70,000 tokens in
one attention) and one of 4096x512, ``STEPS`` steps of each: positions on the canvas, guidance, decoding by TAP,
joining. Steps are few, for each costs the same. Nothing is fetched: weights are drawn and the text is blank, so the
picture is noise. The prediction is that of ``scrollbench plan --forecast``: the same call on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import prediction
from benchmarks.memory import peak
from benchmarks.timing import Report, Settings

STEPS = 2
CANVASES, QUICK = ((4096, 512), (8192, 1024)), ((96, 16), (192, 32))
TINY: dict[str, dict[str, Any]] = {  # for --quick
    "transformer": {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32},
    "vae": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}


def wan(device: str, quick: bool) -> Any:
    """The backbone: transformer and decoder drawn on the device, in bf16 and float32; a text encoder says nothing."""
    import torch

    from methods.backbones import Conditioning
    from methods.backbones.identity import quiet
    from methods.backbones.loading import blank_parts
    from methods.backbones.wan import Wan

    class Blank(Wan):
        def condition(self, prompt: str, negative: str = "") -> Conditioning:
            width = self.transformer.config.text_dim
            return Conditioning(torch.zeros(2, self._tokens, width, dtype=self.dtype, device=self.device))

    made = blank_parts("wan-1.3b") | {"text_encoder": torch.nn.Identity()}
    seeded = [] if device in ("cpu", "meta") else [device]
    with torch.random.fork_rng(devices=seeded), torch.device(device), quiet():
        torch.manual_seed(0)
        for name, tiny in TINY.items():
            config = {**made[name].config, **(tiny if quick else {})}
            made[name] = type(made[name]).from_config(config)
    return Blank("wan-1.3b", "", made, device=device, precision="fp32" if quick else "bf16", shift=5.0)


def picture(backbone: Any, size: tuple[int, int]) -> Callable[[], bool]:
    """What makes a picture (width, height) and says whether all of it is finite."""
    from bench.noise import Noise
    from bench.types import Canvas, Parts, Prompt
    from methods.scrollscape import scrollscape

    knobs = scrollscape.resolve({"steps": STEPS, "alignment": "none", "scan": "right"})

    def make() -> bool:
        backbone.meter.reset()
        made = scrollscape.fn(backbone, Prompt("blank", ""), Canvas(*size), Noise(0, "blank"), **knobs)
        values = [part for _, _, part in made] if isinstance(made, Parts) else [made]
        return values[0].device.type == "meta" or all(bool(v.isfinite().all()) for v in values)

    return make


def predicted(size: tuple[int, int], quick: bool) -> tuple[float, int]:
    """(operations, bytes at most) of a picture."""
    backbone = wan("meta", quick)
    return prediction.counted([backbone.transformer, backbone.vae], picture(backbone, size))


def clip(told: Settings) -> Report:
    """Seconds by stage and memory of both canvases beside the prediction; on a CPU, unless quick, that alone."""
    report = Report()
    report.facts |= {"steps": STEPS, "weights": "random", "predicted for": prediction.FOR}
    measuring = told.quick or told.device.startswith("cuda")
    backbone = wan(told.device, told.quick) if measuring else None
    for size in QUICK if told.quick else CANVASES:
        operations, expected = predicted(size, told.quick)
        row = {"canvas": f"{size[0]}x{size[1]}", **prediction.foretold(operations, expected)}
        report.tables.setdefault("pictures", []).append(row)
        if backbone is None:
            continue
        make, finite = picture(backbone, size), []
        there = prediction.weights([backbone.transformer, backbone.vae])
        used = there + peak(lambda: finite.append(make()), told.device)  # noqa: B023
        seconds = backbone.meter.cost().seconds
        row |= {**prediction.measured(used, expected), "measured s": sum(seconds.values())}
        row |= {f"{stage} s": seconds[stage] for stage in ("denoise", "decode", "fuse")}
        if finite != [True]:
            report.faults.append(f"{row['canvas']}: the picture is not finite")
        report.faults += prediction.faults(row["canvas"], used, expected)
    return report
