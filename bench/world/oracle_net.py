"""The learned oracle: one small fully convolutional network that reads a ScrollWorld picture of any width back.

It is trained on renders with blur, noise and collages (``scrollbench world train world-oracle``), never on
generated pictures, and shares nothing with the networks of the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import PrerequisiteError
from bench.world.colour_detector import KINDS, Detection
from bench.world.scene import BIOMES, STYLES, TIMES, WEATHERS

ATTRIBUTES = {"style": STYLES, "biome": BIOMES, "time": TIMES, "weather": WEATHERS}
WINDOW = 32  # px, one reading of the attributes each
THRESHOLD = 0.5  # of a heat peak


@dataclass(frozen=True)
class Reading:
    """What the oracle says: things, one dict of attributes a 32-px window, the horizon row of every column."""

    detections: list[Detection]
    attributes: list[dict[str, str]]
    horizon: np.ndarray


class OracleNet(nn.Module):
    """Input (n, 3, 32, w) in [-1, 1], w a multiple of 2. Outputs at half resolution."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            block(3, 24), block(24, width, 2), block(width, width),
            block(width, width, 1, 2), block(width, width, 1, 4), block(width, width),
        )  # fmt: skip
        self.heat = nn.Conv2d(width, len(KINDS), 1)
        self.line = nn.Conv1d(width * 16 // 4, 32, 3, padding=1)
        self.squeeze = nn.Conv2d(width, width // 4, 1)
        self.horizon = nn.Conv1d(32, 1, 1)
        self.attributes = nn.Sequential(
            nn.Linear(width * 4, 128), nn.ReLU(), nn.Linear(128, sum(map(len, ATTRIBUTES.values())))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heat logits (n, kinds, 16, w/2), attribute logits (n, windows, 17), horizon rows (n, w/2) in px."""
        f = self.body(x)
        column = self.squeeze(f).flatten(1, 2)
        horizon = 18 + 4 * self.horizon(F.relu(self.line(column)))[:, 0]
        step = min(WINDOW // 2, f.shape[-1])
        pooled = F.avg_pool2d(f, (4, step), (4, step))  # four bands of rows, one column a window
        logits = self.attributes(pooled.permute(0, 3, 1, 2).flatten(2))
        return self.heat(f), logits, horizon

    @torch.no_grad()
    def read(self, rgb: np.ndarray, loop: bool = False) -> Reading:
        """Read one uint8 picture (32, w, 3), w at least 32. Loop canvases are padded by their other end."""
        if rgb.shape[0] != WINDOW or rgb.shape[1] < WINDOW:
            raise ValueError(
                f"the oracle reads ScrollWorld pictures, 32 px high and at least 32 px wide, got {rgb.shape}"
            )
        width = rgb.shape[1]
        pad = 16 if loop else 0
        tail = (width % 2) and 1
        wide = (
            np.concatenate([rgb[:, width - pad :], rgb, rgb[:, : pad + tail]], axis=1)
            if loop
            else np.pad(rgb, ((0, 0), (0, tail), (0, 0)), "edge")
        )
        x = torch.from_numpy(np.ascontiguousarray(wide)).permute(2, 0, 1)[None].float() / 127.5 - 1
        heat, _, horizon = self.eval()(x)
        _, logits, _ = self(x[..., pad : pad + width - width % 2])
        found = []
        probability = heat[0].sigmoid()
        peak = (probability == F.max_pool2d(probability[None], 5, 1, 2)[0]) & (probability > THRESHOLD)
        for k, row, col in peak.nonzero().tolist():
            at = col * 2 + 0.5 - pad
            if 0 <= at < width:
                found.append(Detection(KINDS[k], at, row * 2 + 0.5, float(probability[k, row, col])))
        attributes: list[dict[str, str]] = [{} for _ in range(logits.shape[1])]
        start = 0
        for name, values in ATTRIBUTES.items():
            best = logits[0, :, start : start + len(values)].argmax(-1).tolist()
            for window, i in zip(attributes, best):
                window[name] = values[i]
            start += len(values)
        rows = horizon[0].repeat_interleave(2)[pad : pad + width].numpy()
        return Reading(sorted(found, key=lambda d: d.x), attributes, rows)


def load_oracle(folder: Path = Path(__file__).parent / "weights" / "world-oracle") -> OracleNet:
    """Load the trained oracle. Raises ``PrerequisiteError`` when its weights are not there."""
    path = folder / "model.safetensors"
    if not path.exists():
        raise PrerequisiteError(f"no oracle weights at {path}; train them with `scrollbench world train world-oracle`")
    net = OracleNet()
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return net.eval()
