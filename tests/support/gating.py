"""A suite in a folder for comparisons and gates: controls that draw a grey field, and the same with planted defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.pipeline.generate import generate
from bench.pipeline.plan import make_plan
from bench.pipeline.score import score
from bench.store import Store
from bench.store.index import build
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.support.small import write_suite

PLUGINS = '''
import numpy as np
from bench.registry import method, metric
from bench.types import Value

def field(prompt, canvas, noise, spread=0.02):
    """Grey, a little different for every prompt and column."""
    own = spread * noise.generator("canvas").standard_normal((3, 1, 1))
    columns = 0.01 * noise.generator("columns").standard_normal((1, 1, canvas.width))
    return 0.5 + own + columns * np.ones((1, canvas.height, 1))

@method("plain", family="control")
def plain(prompt, canvas, noise):
    """The baseline."""
    return field(prompt, canvas, noise)

@method("refactored", family="control")
def refactored(prompt, canvas, noise):
    """The same in other words."""
    return 1.0 * field(prompt, canvas, noise)

@method("noisy", family="control")
def noisy(prompt, canvas, noise, *, spread: float = 0.02):
    """As good, not the same: other noise for every prompt."""
    other = spread * noise.generator("other").standard_normal((3, 1, canvas.width))
    other += spread * noise.generator("all").standard_normal((3, 1, 1))
    return (field(prompt, canvas, noise) + other).clip(0, 1)

@method("dark", family="control")
def dark(prompt, canvas, noise, *, by: float = 0.2):
    """Too dark everywhere."""
    return field(prompt, canvas, noise) - by

@method("striped", family="control")
def striped(prompt, canvas, noise):
    """A seam in the last quarter."""
    out = field(prompt, canvas, noise).copy()
    out[:, :, -3] = 1.0
    return out

@method("gaps", family="control")
def gaps(prompt, canvas, noise):
    """One prompt is black, one is flat."""
    flat = {"p01": 0.0, "p02": 0.5}
    whole = np.ones((3, canvas.height, canvas.width))
    return flat[prompt.id] * whole if prompt.id in flat else field(prompt, canvas, noise)

@method("fails", family="control")
def fails(prompt, canvas, noise, *, at: str = "p03"):
    """Lost one prompt."""
    if prompt.id == at:
        raise ValueError("no idea what to draw")
    return field(prompt, canvas, noise)

@metric("brightness", scope="image", values={"brightness": "higher", "mean-level": "none"}, unit="levels")
def brightness(sample):
    """Mean value."""
    mean = float(sample.rgb.mean())
    return [Value("brightness", mean), Value("mean-level", mean)]

@metric("seam", scope="image", values={"seam": "lower"}, range=(0.0, 255.0))
def seam(sample):
    """Largest step between columns, in quarters along the picture."""
    steps = np.abs(np.diff(sample.rgb.astype(float), axis=1)).max((0, 2))
    steps = np.append(steps, 0.0).reshape(4, -1).max(1)
    return [Value("seam", float(s), i) for i, s in enumerate(steps)]
'''

SUITE = """
name = "gated"
version = "1"
tier = "miniature"
seeds = [0, 1]
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "many.jsonl"
[[methods]]
ref = "plugins.py@plain"
label = "plain"
[[metrics]]
ref = "plugins.py@brightness"
label = "brightness"
[[metrics]]
ref = "plugins.py@seam"
label = "seam"
[gate.margins]
brightness = 4
seam = 20
"""


def suite_in(folder: Path, extra: str = "", prompts: int = 12, text: str = SUITE, **overrides: Any) -> Suite:
    """The suite, written and loaded."""
    lines = [f'{{"id": "p{i:02}", "text": "a photo of thing {i}"}}' for i in range(prompts)]
    file = write_suite(folder, text + extra, PLUGINS)
    (folder / "many.jsonl").write_text("\n".join(lines) + "\n")
    return load_suite(file.rename(folder / "gated.toml"), overrides)


def run(suite: Suite, store: Store) -> None:
    """Pictures, scores, leaderboard; what fails stays undone."""
    generate(make_plan(suite, store), store)
    score(suite, store)
    build(store)


def made(folder: Path, *methods: str, **overrides: Any) -> tuple[Suite, Store]:
    """The suite with the pictures of its plug-in's methods, and their store."""
    refs = [f"{folder / 'plugins.py'}@{name}" if name != "plain" else name for name in methods]
    suite, store = suite_in(folder, methods=refs, **overrides), Store(folder / "store")
    run(suite, store)
    return suite, store
