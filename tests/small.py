"""A suite in a folder: three prompts, a control and a latent method that draw noise, a backbone without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.plan import Plan, make_plan
from bench.store import Store
from bench.suite import Suite, load_suite

PLUGINS = '''
from bench.registry import method, metric
from bench.types import Cost, Value

@method("grain", family="control", presets={"fine": {"scale": 0.5}})
def grain(prompt, canvas, noise, *, scale: float = 1.0):
    """Grey noise."""
    return scale * noise.generator("canvas").random((3, canvas.height, canvas.width))

@method("latent-grain", family="latent")
def latent_grain(backbone, prompt, canvas, noise, *, steps: int = 3):
    """Grey noise that asks a network how it is doing."""
    backbone.meter.nfe += steps
    return noise.generator("latent").random((3, canvas.height, canvas.width))

@metric("brightness", scope="image", values={"brightness": "none"})
def brightness(sample, *, scale: float = 1.0):
    """Mean value."""
    return [Value("brightness", scale * float(sample.rgb.mean()))]

class Info:
    name, family, weights_digest = "fake", "latent", "weights-1"

class Meter:
    def reset(self):
        self.nfe, self.flags = 0, []
    def cost(self):
        return Cost(self.nfe, {"denoise": 0.25}, 4096)

class Backbone:
    weights = Info.weights_digest
    def __init__(self):
        self.meter = Meter()

loads = []

def fake(device="cpu", precision="fp32"):
    loads.append(device)
    return Backbone()

fake.describe = lambda **options: Info
'''

SUITE = """
name = "small"
version = "1"
tier = "miniature"
title = "Small"
backbone = "plugins.py@fake"
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "prompts.jsonl"
[[methods]]
ref = "plugins.py@grain"
[[methods]]
ref = "plugins.py@latent-grain"
label = "latent"
[[metrics]]
ref = "plugins.py@brightness"
"""

PROMPTS = "".join(f'{{"id": "{i}", "text": "a photo of a {i}", "theme": "sea"}}\n' for i in ("harbour", "reef", "dune"))


def write_suite(folder: Path, suite: str = SUITE, plugins: str = PLUGINS) -> Path:
    """Write suite, prompts and plug-ins; returns the suite's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugins.py").write_text(plugins)
    (folder / "prompts.jsonl").write_text(PROMPTS)
    (folder / "small.toml").write_text(suite)
    return folder / "small.toml"


def small(folder: Path, suite: str = SUITE, plugins: str = PLUGINS, **overrides: Any) -> Suite:
    """The suite, written and loaded."""
    return load_suite(write_suite(folder, suite, plugins), overrides)


def planned(folder: Path, store: Store, shard: tuple[int, int] | None = None, **overrides: Any) -> Plan:
    """A plan of the suite as it stands in the folder."""
    return make_plan(small(folder, **overrides), store, shard)


def picture_ids(store: Store) -> dict[str, str]:
    """Recipe id -> image id of what the store really holds, every picture read and verified."""
    made = {r: record["image_id"] for r, record in store.ledger().images.items()}
    for image_id in made.values():
        store.read_image(image_id)
    return made
