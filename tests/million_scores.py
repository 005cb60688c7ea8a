"""How long the board, `compare` and `gate` take on a leaderboard of 1,000,000 score rows: run by hand, asserts no time.

    python tests/million_scores.py              # seconds of each command, start of Python included
    python tests/million_scores.py --profile    # and where they go

In two shapes: few methods with many seeds, and many methods, because ranks compare every two of them.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gating import suite_in

from bench.cli import main
from bench.index import NAME, query_file
from bench.suite import load_suite
from bench.tables import TABLES, VIEWS


@dataclass(frozen=True)
class Shape:
    """The product of all fields is the number of score rows."""

    methods: int
    prompts: int
    seeds: int
    metrics: int
    views: int


SHAPES = (Shape(2, 1000, 10, 5, 10), Shape(20, 1000, 1, 10, 5))
COMMANDS = ("board", "board --format md", "compare s00 s01", "gate --baseline s00 --candidate s01")

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
width = 16
height = 8
prompts = "many.jsonl"
[[methods]]
ref = "plugins.py@plain"
label = "plain"
"""


def write(folder: Path, shape: Shape) -> Path:
    """A suite and its store's leaderboard in a folder; returns the suite's file."""
    numbers = range(shape.metrics)
    text = SUITE.format(seeds=shape.seeds)
    text += "".join(f'[[metrics]]\nref = "plugins.py@m{i}"\nlabel = "m{i}"\n' for i in numbers)
    text += "[gate.margins]\n" + "".join(f"m{i} = 0.05\n" for i in numbers)
    file = Path(suite_in(folder, prompts=shape.prompts, text=text).file or "")
    with (folder / "plugins.py").open("a") as plugins:
        plugins.write("".join(PLUGIN.format(i=i) for i in numbers))
    (folder / "store").mkdir()
    fill(folder / "store" / NAME, load_suite(str(file)).digest, shape)
    return file


def fill(path: Path, digest: str, shape: Shape) -> None:
    """A leaderboard as the index makes it, filled by SQL; every method is 0.01 worse than the one before."""
    import duckdb

    with duckdb.connect(str(path)) as con:
        for table, columns in TABLES.items():
            declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            con.execute(f"create table {table} ({declared})")
        for view, sql in VIEWS.items():
            con.execute(f"create view {view} as {sql}")
        con.execute(f"""create temp table cell as select printf('s%02d', m) as method, printf('p%02d', p) as prompt_id,
            s as seed, m || '-' || p || '-' || s as recipe_id, 'i-' || m || '-' || p || '-' || s as image_id,
            hash(p) % 1000 / 1000.0 + 0.01 * m as level
            from range({shape.methods}) m(m), range({shape.prompts}) p(p), range({shape.seeds}) s(s)""")
        con.execute(f"""insert into member by name select 'million@1' as suite, '{digest}' as suite_digest,
            '2to1' as part, method, false as control, prompt_id, seed, recipe_id, 'many' as prompt_set,
            'miniature' as tier from cell""")
        con.execute("""insert into recipe by name select recipe_id, prompt_id, seed, 16 as width, 8 as height,
            false as loop, method, '{}' as params from cell""")
        con.execute("insert into image by name select recipe_id, image_id, 16 as width, 8 as height from cell")
        con.execute(f"""insert into part by name
            select '{digest}' as suite_digest, '2to1' as part, 16 as width, 8 as height, false as loop""")
        con.execute(f"""insert into protocol by name select 'protocol' || i as protocol, 'm' || i as metric,
            'whole' as view, '{{}}' as params from range({shape.metrics}) r(i)""")
        con.execute(f"""insert into score by name select image_id, 'protocol' || i as protocol, 'm' || i as metric,
            'm' || i as name, v as "index", level + random() / 10 as value
            from cell, range({shape.metrics}) r(i), range({shape.views}) w(v)""")


def measure(command: list[str]) -> str:
    """Run a command in a process of its own; returns its wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    code = "from bench.cli import main; main()"
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
            ((rows,),) = query_file(Path(folder) / "store" / NAME, "select count(*) from score")[1]
            sys.stdout.write(f"{rows:,} score rows: {shape}\n")
            for words in COMMANDS:
                command = [*words.split(), "--suite", str(file), "--store", str(Path(folder) / "store")]
                sys.stdout.write(f"  {words}: {measure(command)}\n")
                if "--profile" in sys.argv[1:]:
                    profile(command)
