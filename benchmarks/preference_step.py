"""One step of DRSPO's preference training on SDXL's own architecture with random weights: predicted beside measured.

A pair of 1024x4096 px, rank 64, gradients through checkpointed blocks: the low stage on the whole scroll at half of the
size a side and at the full one, the high stage through its 13 windows. Nothing is fetched: weights are drawn, the text
is blank and the pictures are noise. The prediction is the same step on shapes alone, backward pass and optimiser too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import prediction
from benchmarks.memory import peak
from benchmarks.timing import Report, Settings, clocked

SIZE, TINY_SIZE = (4096, 1024), (64, 32)
STAGES: dict[str, dict[str, Any]] = {
    "low, half of the size": {"stage": "low", "scale": 2.0},
    "low": {"stage": "low", "scale": 1.0},
    "high, 13 windows": {"stage": "high", "scale": 1.0},
}
QUICK: dict[str, dict[str, Any]] = {"low": {"stage": "low", "scale": 1.0}}
TINY: dict[str, dict[str, Any]] = {  # for --quick
    "unet": {
        "block_out_channels": [8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 16,
        "attention_head_dim": [1, 1, 1], "transformer_layers_per_block": 1, "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 16 + 6 * 4,
    },
    "vae": {"block_out_channels": [4, 4, 4, 4], "layers_per_block": 1, "norm_num_groups": 2},
}  # fmt: skip
POOLED = 1280  # numbers of the second text encoder, 16 for --quick
ROOM = 80.0  # GB of the GPU that the paper's setting should fit


@dataclass(frozen=True)
class Noisy:
    """Preferences of one pair, which nobody has."""

    pairs: list[Any]
    identity = about = "noise"

    def picture(self, image: str) -> np.ndarray:
        pair = self.pairs[0]
        return np.random.default_rng(len(image)).integers(0, 256, (pair.height, pair.width, 3), dtype=np.uint8)


def network(device: str, quick: bool) -> Any:
    """SDXL whose text encoders say nothing, drawn on the device, in bf16."""
    import torch

    from methods.backbones import Conditioning
    from methods.backbones.identity import quiet
    from methods.backbones.loading import CONFIGS, BlankTokenizer, part_class
    from methods.backbones.sdxl import SDXL

    class Blank(SDXL):
        def condition(self, prompt: str, negative: str = "") -> Conditioning:
            width, made = self.unet.config.cross_attention_dim, {"dtype": self.dtype, "device": self.device}
            pooled = torch.zeros(2, 16 if quick else POOLED, **made)
            return Conditioning(torch.zeros(2, 77, width, **made), {"text_embeds": pooled})

    known = json.loads((CONFIGS / "sdxl.json").read_text(encoding="utf-8"))["parts"]
    made: dict[str, Any] = {"scheduler": known["scheduler"]}
    for name in ("", "_2"):
        made |= {f"tokenizer{name}": BlankTokenizer(77), f"text_encoder{name}": torch.nn.Identity()}
    seeded = [] if device in ("cpu", "meta") else [device]
    with torch.random.fork_rng(devices=seeded), torch.device(device), quiet():
        torch.manual_seed(0)
        for name, tiny in TINY.items():
            made[name] = part_class(known[name]["_class_name"]).from_config({**known[name], **(tiny if quick else {})})
    return Blank("sdxl", "", made, device=device, precision="fp32" if quick else "bf16")


def step(backbone: Any, told: dict[str, Any], size: tuple[int, int], rank: int = 64) -> Callable[[], bool]:
    """What makes one whole step and says whether its loss is finite."""
    import torch

    from methods.training.drspo import Preferred, drspo
    from methods.training.preferences import Pair

    pair = Pair("scroll", "p", "", "", *size, "a", "bb", "a", "b", 0, 0, 1.0, 0.0)
    knobs = drspo.resolve({**told, "rank": rank, "drop": 0.0, "held_out": 0.0})
    recipe: Any = Preferred(backbone, Noisy([pair]), knobs)
    (optimiser,) = recipe.optimisers()

    def make() -> bool:
        optimiser.zero_grad()
        loss = recipe.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))
        loss.backward()
        optimiser.step()
        return loss.device.type == "meta" or bool(loss.detach().isfinite())

    return make


def predicted(told: dict[str, Any], size: tuple[int, int], quick: bool) -> tuple[float, int]:
    """(operations, bytes at most) of a step."""
    backbone = network("meta", quick)
    return prediction.counted([backbone.unet, backbone.vae], lambda: step(backbone, told, size)())


def preference_step(told: Settings) -> Report:
    """Memory and seconds of a step of each stage beside the prediction; on a CPU, unless quick, that alone."""
    report = Report()
    report.facts |= {"weights": "random", "predicted for": prediction.FOR}
    measuring, size = told.quick or told.device.startswith("cuda"), TINY_SIZE if told.quick else SIZE
    for name, stage in (QUICK if told.quick else STAGES).items():
        operations, expected = predicted(stage, size, told.quick)
        row = {"stage": name, **prediction.foretold(operations, expected)}
        report.tables.setdefault("one step", []).append(row)
        if expected > ROOM * 1e9:
            report.faults.append(f"{name}: {expected / 1e9:.0f} GB, more than the {ROOM:.0f} of a GPU")
        if measuring:
            report.faults += measured(row, network(told.device, told.quick), stage, size, expected)
    return report


def measured(
    row: dict[str, Any], backbone: Any, stage: dict[str, Any], size: tuple[int, int], expected: int
) -> list[str]:
    """Fill a row with what a real step takes, the second; returns what is wrong with it."""
    device, finite = str(backbone.device), []
    there = prediction.weights([backbone.unet, backbone.vae])
    used = there + peak(lambda: finite.append(step(backbone, stage, size)()), device)
    again = step(backbone, stage, size)
    again()
    row |= {**prediction.measured(used, expected), "measured s": clocked(again, device)}
    faults = [] if finite == [True] else [f"{row['stage']}: the loss is not finite"]
    return faults + prediction.faults(row["stage"], used, expected)
