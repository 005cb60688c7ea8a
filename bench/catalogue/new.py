"""Small working files to begin with: a method, a metric, a suite."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError, near

METHOD = '''"""A sampler of panoramas. Say whose idea it is, and what deviates from it."""

import torch

from bench.registry import method
from methods.shared.canvas import cells, picture, start
from methods.shared.windows import gather, grid, merge


@method(NAME, family="latent", paper="yours")
def sample(backbone, prompt, canvas, noise, *, steps: int = 20, guidance: float = 2.5, stride: int = 4):
    """Denoise overlapping windows of the canvas, and average them after every step."""
    size = cells(backbone, canvas)  # (height, width) in latent cells; refuses sides that are no whole cells
    windows = grid(*size, backbone.window, stride, loop=canvas.loop, factor=backbone.factor)
    with torch.no_grad():
        text = backbone.condition(prompt.text, prompt.negative)
        scheduler = backbone.scheduler(steps)
        x = start(backbone, scheduler, noise, size)  # all that is random comes from `noise`
        for t in scheduler.timesteps:
            views = gather(x, windows)
            out = backbone.guided(scheduler.scale_model_input(views, t), t, text, guidance)
            views = scheduler.step(out, t, views).prev_sample
            x = merge(views, windows, size)  # yours: what becomes of cells that several windows share
        return picture(backbone, x, canvas.loop)  # (3, height, width) in [0, 1]
'''

METRIC = '''"""A number of a picture."""

from bench.registry import metric
from bench.types import Value


@metric(NAME, scope="image", values={NAME: "lower"}, view="tiles", range=(0, 1))
def measure(sample):
    """How far the brightest and the darkest square of a panorama are apart; 0 where all are alike."""
    tiles = [float(crop.mean()) / 255 for crop in sample.crops()]  # crops: uint8 (side, side, 3)
    return [Value(NAME, max(tiles) - min(tiles))]  # None instead of a number where it is undefined
'''

SUITE = """name = NAME
version = "1" # raise it when prompts, methods or metrics change on purpose
tier = "miniature" # full: real weights
title = "Mine"
seeds = [0]
backbone = "world-sd" # `scrollbench list backbones`
defaults = { steps = 20, guidance = 2.5 } # of all methods that have such knobs

parts = [{ name = "4to1", width = 128, height = 32, prompts = "scrollworld@1:8" }]

methods = [
  { ref = "direct" },
  { ref = "multidiffusion", set = { stride = 4 } },
  # { ref = "mine.py@mine" }, # a file beside this one
]

metrics = [
  { ref = "sharpness" },
  { ref = "gsd-lpips", view = "tiles", extractor = "world-lpips" },
  # { ref = "mymetric.py@mymetric" },
]
"""


@dataclass(frozen=True)
class Kind:
    """What can be begun: its text, where NAME stands for its name, the ending of its file, and what to do next."""

    text: str
    suffix: str
    commands: tuple[str, ...]


KINDS = {
    "method": Kind(
        METHOD,
        ".py",
        (
            "scrollbench check REF --out preview.png",
            "scrollbench gate --baseline multidiffusion --candidate REF --limit 12 --run",
            "scrollbench run --method REF",
        ),
    ),
    "metric": Kind(
        METRIC, ".py", ("scrollbench measure FOLDER --metric REF", "scrollbench run --limit 2 --metric REF")
    ),
    "suite": Kind(SUITE, ".toml", ("scrollbench plan --suite FILE", "scrollbench run --suite FILE")),
}


def write_new(kind: str, file: Path) -> list[str]:
    """Write a small working file, named as its file is (of a suite the letters and digits).

    Args:
        kind: of ``KINDS``.
        file: where; must not exist.

    Returns:
        commands that use it.

    Raises:
        UsageError: an unknown kind, another ending, a file that is there already or cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; {near(kind, KINDS)}")
    new = KINDS[kind]
    if file.suffix != new.suffix:
        raise UsageError(
            f"a {kind} is a file {new.suffix}; got {str(file)!r}, try {str(file.with_suffix(new.suffix))!r}"
        )
    plain = re.sub("[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "mine"  # what a suite may be called
    name = json.dumps(plain if kind == "suite" else file.stem, ensure_ascii=False)  # as Python and TOML write it, too
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(new.text.replace("NAME", name))
    except FileExistsError as error:
        raise UsageError(f"{file} is there already; give the name of a new file") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    ref, path = shlex.quote(f"{file}@{file.stem}"), shlex.quote(str(file))
    return [command.replace("REF", ref).replace("FILE", path) for command in new.commands]
