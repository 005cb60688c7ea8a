"""What grows with a benchmark: a plan by its pictures, the index and what asks it by their score rows; and starting.

Every figure is of a command in a process of its own, start of Python included: seconds of the clock and of the
processor, and the resident high-water mark. The store's records are made up and hold no pictures.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import Report, Settings
from oracles import materials  # noqa: F401  puts the tests' folder, where the store is made, on the path
from tests.support.made_up import Shape, write

METHODS, SEEDS = 40, 25
ROWS = {False: (10**4, 10**5, 10**6), True: (2000, 4000)}
STARTS = 5
TARGETS = {  # of the largest size; s of a quiet core, and GB
    "plan": "10 s, 1 GB", "store index": "30 s", "board": "5 s", "--help": "0.4 s", "list": "1 s",
}  # fmt: skip
CHILD = """
import atexit, sys
from benchmarks.memory import high_water
atexit.register(lambda: print(high_water(), file=sys.stderr))
from bench.cli.app import main
main()
"""
ASKED = ("store index", "board", "compare s00 s01", "gate --baseline s00 --candidate s01")
SUITE = """
name = "plan"
version = "1"
tier = "miniature"
seeds = {seeds}
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "many.jsonl"
"""
METHOD = '[[methods]]\nref = "plugins.py@noisy"\nlabel = "s{0:02}"\nset = {{ spread = 0.{0:02} }}\n'


def scale(told: Settings) -> Report:
    """Seconds and memory of commands at growing sizes."""
    report = Report()
    for rows in ROWS[told.quick]:
        report.tables.setdefault("plan", []).append(_plan(told.work / f"plan-{rows}", rows))
    for rows in ROWS[told.quick]:
        for words, row in _asked(told.work / f"rows-{rows}", rows).items():
            report.tables.setdefault(words, []).append(row)
    times = 2 if told.quick else STARTS
    report.tables["start"] = [{"command": words, **_started(words, times)} for words in ("--help", "list methods")]
    report.facts |= {f"target of {name}": said for name, said in TARGETS.items()}
    return report


def _plan(folder: Path, pictures: int) -> dict[str, Any]:
    """A plan of so many pictures, of which none is made."""
    prompts, seeds = max(1, pictures // (METHODS * SEEDS)), list(range(SEEDS))
    file = write(folder, Shape(1, prompts, 1, 1, 1))
    methods = "".join(METHOD.format(i) for i in range(METHODS))
    file.write_text(SUITE.format(seeds=seeds) + methods)
    return {
        "pictures": METHODS * prompts * SEEDS,
        **command("plan", "--suite", str(file), "--store", str(folder / "new")),
    }


def _asked(folder: Path, rows: int) -> dict[str, dict[str, Any]]:
    """The commands that read all scores, on so many rows of five numbers at ten places."""
    file = write(folder, Shape(METHODS, max(1, rows // (METHODS * 50)), 1, 5, 10))
    found = {}
    for words in ASKED:
        chosen = () if words == "store index" else ("--suite", str(file))
        found[words] = {"rows": rows, **command(*words.split(), "--store", str(folder / "store"), *chosen)}
    return found


def _started(words: str, times: int) -> dict[str, float]:
    """The median start of a command that does next to nothing."""
    each = [command(*words.split()) for _ in range(times + 1)][1:]
    return {key: statistics.median(one[key] for one in each) for key in each[0]}


def command(*words: str) -> dict[str, float]:
    """Seconds of the clock and of the processor, and MB at most, of a command.

    Raises:
        RuntimeError: it ended with another code than 0, or 4, by which a gate says that something regressed.
    """
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    *said, bytes_at_most = child.stderr.read().decode().splitlines()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 4):
        raise RuntimeError(f"{' '.join(words)}: exit code {child.returncode}\n" + "\n".join(said[-20:]))
    spent = used.ru_utime + used.ru_stime
    return {"s": time.perf_counter() - began, "processor s": spent, "MB": int(bytes_at_most) / 1e6}
