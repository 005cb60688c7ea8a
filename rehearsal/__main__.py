"""``python -m rehearsal``: go the documented way for every suite of tier full, and say what was covered."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from rehearsal.stages import begin, processor, stage, stages


def main() -> int:
    """Run what the command line asks for; what was done before in the same folder is not done again."""
    if "--gpu" in sys.argv:
        from rehearsal import gpu

        return gpu.main()
    parser = argparse.ArgumentParser(prog="nox -s rehearsal --")
    parser.add_argument("--only", action="append", help="this suite, or README; may be repeated")
    parser.add_argument("--work", type=Path, help="folder to work in, kept: the same command again goes on")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="stages at a time; one for each core")
    parser.add_argument("--gpu", action="store_true", help="instead, `start` on full-size weights: rehearsal/gpu.py")
    told = parser.parse_args()
    work = (told.work or Path(tempfile.mkdtemp(prefix="scrollbench-rehearsal-"))).resolve()
    for folder in ("done", "mirror"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    names = told.only or stages()
    if unknown := set(names) - set(stages()):
        parser.error(f"--only takes one of {', '.join(stages())}; got {', '.join(sorted(unknown))}")
    begun, context = time.monotonic(), get_context("spawn")
    numbers: Queue[int] = context.Queue()
    for n in range(told.workers):
        numbers.put(n)
    went: list[dict[str, Any]] = []
    with ProcessPoolExecutor(told.workers, context, begin, (work, numbers)) as pool:
        for done in as_completed([pool.submit(stage, name, work) for name in names]):
            found, said = done.result()
            print(said, flush=True)
            went += [found] if found else []
    went.sort(key=lambda found: names.index(found["suite"]))
    said = covered(went)
    (work / "covered.md").write_text(said, encoding="utf-8")
    wall, cores = (time.monotonic() - begun) / 60, processor() / 60
    print(f"\n{said}\n{len(went)} of {len(names)} went through in {wall:.1f} minutes, {cores:.1f} of a core: {work}")
    return 0 if len(went) == len(names) else 1


def covered(found: list[dict[str, Any]]) -> str:
    """Suites, methods and metrics that went through, as a table in Markdown."""
    rows = ["| suite | methods | metrics |", "|---|---|---|"]
    suites = [(f["suite"], f["methods"], f["metrics"]) for f in found if "methods" in f]
    rows += [f"| {suite} | {', '.join(methods)} | {', '.join(metrics)} |" for suite, methods, metrics in suites]
    pairs = sum(len(methods) * len(metrics) for _, methods, metrics in suites)
    return "\n".join(rows) + f"\n\n{len(rows) - 2} suites, {pairs} methods x metrics\n"


if __name__ == "__main__":
    sys.exit(main())
