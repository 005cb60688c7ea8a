"""The store of a benchmark that was run in full, as far as numbers go: records of any shape, made up."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.ids import digest
from bench.store.records import stamped
from bench.suites.load import load_suite
from tests.support.gating import suite_in


@dataclass(frozen=True)
class Shape:
    """The product of the first five fields is the number of score rows; ``size`` is of the pictures, px."""

    methods: int
    prompts: int
    seeds: int
    metrics: int
    views: int
    size: tuple[int, int] = (16, 8)

    @property
    def rows(self) -> int:
        """How many score rows there are."""
        return self.methods * self.prompts * self.seeds * self.metrics * self.views


PLUGIN = '''
@metric("m{i}", scope="image", values={{"m{i}": "lower"}})
def m{i}(sample):
    """Made up."""
    return [Value("m{i}", 0.0)]
'''

SUITE = """
name = "million"
version = "1"
tier = "miniature"
seeds = {seeds}
[[parts]]
name = "2to1"
width = {size[0]}
height = {size[1]}
prompts = "many.jsonl"
[[methods]]
ref = "plugins.py@plain"
label = "plain"
"""


def made_up(method: int, prompt: int, seed: int) -> str:
    """The id of a picture that is not there."""
    return digest(["image", method, prompt, seed])


def write(folder: Path, shape: Shape, picture: Callable[[int, int, int], str] = made_up) -> Path:
    """A suite and its store's records in a folder; returns the suite's file. ``picture`` gives each picture's id."""
    numbers = range(shape.metrics)
    text = SUITE.format(seeds=shape.seeds, size=shape.size)
    text += "".join(f'[[metrics]]\nref = "plugins.py@m{i}"\nlabel = "m{i}"\n' for i in numbers)
    text += "[gate.margins]\n" + "".join(f"m{i} = 0.05\n" for i in numbers)
    file = Path(suite_in(folder, prompts=shape.prompts, text=text).file or "")
    with (folder / "plugins.py").open("a") as plugins:
        plugins.write("".join(PLUGIN.format(i=i) for i in numbers))
    fill(folder / "store" / "records", load_suite(str(file)).digest, shape, picture)
    return file


def fill(folder: Path, suite: str, shape: Shape, picture: Callable[[int, int, int], str] = made_up) -> None:
    """A segment of records as a run leaves them; every method is 0.01 worse than the one before."""
    noise, views, (width, height) = random.Random(0), range(shape.views), shape.size
    folder.mkdir(parents=True)
    with (folder / "million.jsonl").open("wb") as segment:

        def write(kind: str, **fields: Any) -> None:
            segment.write(stamped({"kind": kind, "time": "2026-01-01T00:00:00Z", **fields})[1])

        for m, p, s in product(range(shape.methods), range(shape.prompts), range(shape.seeds)):
            recipe_id, image_id = digest(["recipe", m, p, s]), picture(m, p, s)
            cell = {"suite": "million@1", "suite_digest": suite, "tier": "miniature", "part": "2to1", "seed": s,
                    "prompt_set": "many", "label": f"s{m:02}", "prompt_id": f"p{p:02}",
                    "recipe_id": recipe_id}  # fmt: skip
            recipe = {"method": f"s{m:02}", "prompt_id": f"p{p:02}", "prompt": f"a photo of thing {p}", "seed": s,
                      "params": {}, "canvas": {"width": width, "height": height, "loop": False}}  # fmt: skip
            write("member", **cell, control=False, optimises=[])
            write("image", **cell, recipe=recipe, image_id=image_id, width=width, height=height, flags=[])
            level = digest([p]).count("0") / 10 + 0.01 * m
            for name in (f"m{i}" for i in range(shape.metrics)):
                values = [[name, v, level + noise.random() / 10] for v in views]
                write("score", key=digest([image_id, name]), image_id=image_id, recipe_id=recipe_id, metric=name,
                      metric_version="1", metric_source="m", params={}, view="whole", values=values)  # fmt: skip
