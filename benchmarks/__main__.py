"""``python -m benchmarks``: run the benchmarks, print their ratios; exit 1 if two sides did not do the same work."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports the hub

from benchmarks import (
    attention,
    history,
    overhead,
    pages,
    preference_step,
    sampling,
    scale,
    scoring,
    scroll,
    sharing,
    statistics,
    steps,
    walk,
    wan_clip,
    workers,
)
from benchmarks.checkpoint import SIZES
from benchmarks.timing import Report, Settings

BENCHMARKS: dict[str, Callable[[Settings], Report]] = {
    "sampling": sampling.sampling,
    "overhead": overhead.overhead,
    "scoring": scoring.scoring,
    "sharing": sharing.sharing,
    "scale-dit": attention.scale_dit,
    "walk": walk.walk,
    "scroll": scroll.scroll,
    "steps": steps.steps,
    "wan-clip": wan_clip.clip,
    "drspo-step": preference_step.preference_step,
    "workers": workers.workers,
    "report": pages.pages,
    "scale": scale.scale,
    "statistics": statistics.statistics,
}


def machine(device: str) -> dict[str, Any]:
    """Where and when this is measured, and how busy the machine is at the start."""
    from bench.pipeline.environment import environment

    told = environment({"device": device})
    kept = ("cpu", "device", "threads", "platform", "python", "torch", "diffusers", "scrollbench", "git")
    busy = [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    facts = {"cores": os.cpu_count(), "torch-fidelity": version("torch-fidelity"), "load average": busy}
    return {"date": datetime.date.today().isoformat(), **{k: told[k] for k in kept}, **facts}


def show(name: str, report: Report, seconds: float) -> None:
    """Print one benchmark: ratios, then what they rest on."""
    print(f"\n{name}  ({seconds:.0f} s)")
    for r in report.ratios:
        over, under = r.seconds
        print(f"  {r.name:<56}{r.median:>7.3f}  [{r.low:.3f}, {r.high:.3f}]{r.rounds:>4}{over:>9.3g}{under:>9.3g}")
    for title, rows in report.tables.items():
        print(f"\n  {title}\n{lines(rows)}\n")
    for key, value in report.facts.items():
        print(f"    {key}: {said(value)}")
    sys.stdout.flush()


def said(value: Any) -> str:
    """Numbers in three digits, four from 100 on."""
    return str(value) if not isinstance(value, float) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.1f}"


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of figures, columns flush right."""
    cells = [list(rows[0]), *([said(row[key]) for key in rows[0]] for row in rows)]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  " + "  ".join(c.rjust(w) for c, w in zip(line, wide, strict=True)) for line in cells)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="nox -s perf --")
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="this benchmark; may be repeated")
    parser.add_argument("--repeats", type=int, help="rounds that count (3 to 5 by default)")
    parser.add_argument("--pictures", type=int, help="pictures of the sets that are scored; at least 8")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random Stable Diffusion checkpoint")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, help="of torch; its own number by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--history", type=Path, metavar="FOLDER", help="of earlier runs; this one is added, and drawn")
    told = parser.parse_args()
    for option, least in (("repeats", 1), ("pictures", 8), ("threads", 1)):
        given = getattr(told, option)
        if given is not None and given < least:
            parser.error(f"--{option} must be at least {least}, got {given}")

    import torch

    if told.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {told.device}: torch sees no CUDA device; use cpu")
    if told.threads:
        torch.set_num_threads(told.threads)
    found: dict[str, Any] = {"machine": machine(told.device), "quick": told.quick, "benchmarks": {}}
    print("\n".join(f"{k}: {v}" for k, v in found["machine"].items()))
    print(f"\n{'ratio of seconds':<58}{'median':>7}  [least, most] {'n':>3}  seconds of each")
    faults = []
    for name in told.only or BENCHMARKS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="scrollbench-perf-") as work:
            size = "tiny" if told.quick else told.size
            settings = Settings(Path(work), told.device, told.repeats, size, told.pictures, told.quick)
            report = BENCHMARKS[name](settings)
        show(name, report, time.monotonic() - start)
        found["benchmarks"][name] = asdict(report)
        faults += [f"{name}: {fault}" for fault in report.faults]
    if told.json:
        told.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if told.history:
        print(f"\n{history.keep(told.history, found)}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
