"""How long the index, the board, `compare` and `gate` take for 1,000,000 score rows: run by hand, asserts no time.

    python tests/support/million_scores.py              # seconds of each command, start of Python included
    python tests/support/million_scores.py --profile    # and where they go

In two shapes: few methods with many seeds, and many methods, because ranks compare every two of them.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from bench.cli.app import main
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


SHAPES = (Shape(2, 1000, 10, 5, 10), Shape(20, 1000, 1, 10, 5))
COMMANDS = ("store index", "board", "board --format md", "compare s00 s01", "gate --baseline s00 --candidate s01")

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


def measure(command: list[str]) -> str:
    """Run a command in a process of its own; returns its wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = "from bench.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return f"{wall:.2f} s, {cpu:.2f} s of CPU"


def profile(command: list[str]) -> None:
    """Where the seconds of a command go, in this process, imports of the first one included."""
    with cProfile.Profile() as watched, open(os.devnull, "w") as nowhere:
        sys.stdout, kept = nowhere, sys.stdout
        try:
            main(command, standalone_mode=False)
        finally:
            sys.stdout = kept
    pstats.Stats(watched).sort_stats("cumulative").print_stats("bench|duckdb|numpy|rich", 30)


if __name__ == "__main__":
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            file = write(Path(folder), shape)
            sys.stdout.write(f"{shape.rows:,} score rows: {shape}\n")
            for words in COMMANDS:
                command = [*words.split(), "--store", str(Path(folder) / "store")]
                command += ["--suite", str(file)] if words != "store index" else []
                sys.stdout.write(f"  {words}: {measure(command)}\n")
                if "--profile" in sys.argv[1:]:
                    profile(command)
