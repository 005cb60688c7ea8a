"""A report of 15 methods on 1,000 prompts: its size, what building it takes, and what opening it in Chromium takes.

The pictures are placeholders (soft random clouds), the numbers made up; everything else is what ``scrollbench report``
does. What is built runs in a process of its own. Memory is its resident high-water mark less what it held after its
imports; for a page, the heap of its scripts. ``busy`` are the processor's seconds of the page's thread, which other
work on the machine changes little; ``opens`` are those of a clock until heading, table or pictures are there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import resident
from benchmarks.timing import Report, Settings
from oracles import materials  # noqa: F401  puts the tests' folder, where the store is made, on the path
from tests.support import chromium
from tests.support.made_up import Shape, write

SHAPE, QUICK = Shape(15, 1000, 1, 5, 4, (256, 32)), Shape(3, 4, 1, 2, 4, (64, 16))
PAGES = ("index", "compare", "claims", "validity", "cost", "viewer", "vote")
SIZES = {False: ((3072, 512), (32768, 4096)), True: ((1100, 128), (5000, 96))}
SOON = 3.0  # s of the processor that a page may take before it is there


def pages(told: Settings) -> Report:
    """Figures of building and opening; a fault where a page takes its thread more than three seconds."""
    from bench.store import Store

    report, shape = Report(), QUICK if told.quick else SHAPE
    store = Store(told.work / "store")
    file = write(told.work, shape, lambda *at: store.write_image(clouds(at, *shape.size)))
    out = told.work / "report"
    report.tables["build"] = [_built(file, out, "first"), _built(file, out, "again")]
    report.tables["one picture"] = [_child("picture", told.work, *map(str, size)) for size in SIZES[told.quick]]
    report.facts |= {f"MB, {name}": size / 1e6 for name, size in _sizes(out).items()}
    report.facts["pictures"] = shape.methods * shape.prompts * shape.seeds
    if lacks := chromium.missing():
        report.facts["opening"] = f"not measured: {lacks}"
        return report
    with chromium.launched() as browser:
        opened(browser, out, "index")  # the browser itself
        report.tables["open"] = rows = [opened(browser, out, name) for name in PAGES]
    report.faults += [f"{r['page']} is busy for {r['busy s']:.1f} s" for r in rows if r["busy s"] > SOON]
    return report


def clouds(at: tuple[int, ...], width: int, height: int) -> np.ndarray:
    """A placeholder, another for each place: (height, width, 3)."""
    from PIL import Image

    few = np.random.default_rng(at).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


def opened(browser: Any, out: Path, name: str) -> dict[str, Any]:
    """Open a page as somebody does, and wait until it shows what it is for."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    probe = context.new_cdp_session(page)
    probe.send("Performance.enable", {"timeDomain": "threadTicks"})
    start = time.monotonic()
    page.goto((out / f"{name}.html").as_uri(), wait_until="load")
    page.wait_for_selector("main h1")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    there = time.monotonic() - start
    said = {m["name"]: m["value"] for m in probe.send("Performance.getMetrics")["metrics"]}
    context.close()
    return {"page": name, "opens s": there, "busy s": said["TaskDuration"], "heap MB": said["JSHeapUsedSize"] / 1e6,
            "elements": int(said["Nodes"])}  # fmt: skip


def _built(file: Path, out: Path, which: str) -> dict[str, Any]:
    start = time.monotonic()
    found = _child("build", file, out)
    return {"build": which, "processor s": found["seconds"], "clock s": time.monotonic() - start,
            "MiB": found["peak"] / 2**20}  # fmt: skip


def _sizes(out: Path) -> dict[str, int]:
    """Bytes of a report by folder."""
    files = [p for p in out.rglob("*") if p.is_file()]
    found = {"all": sum(p.stat().st_size for p in files)}
    for folder in ("data", "previews", "vendor"):
        found[folder] = sum(p.stat().st_size for p in files if p.relative_to(out).parts[0] == folder)
    return found


def _child(*what: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pages", *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, what))}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- what the processes do


def build(file: str, out: str) -> dict[str, Any]:
    """The leaderboard, and the report of it."""
    from bench.report.site.write import write_site
    from bench.store import Store
    from bench.store.index import build as index
    from bench.suites.load import load_suite

    suite, store = load_suite(file), Store(Path(file).parent / "store")
    if not Path(out).exists():
        index(store)
    return resident(lambda: write_site(store, suite, Path(out)))


def picture(work: str, width: str, height: str) -> dict[str, Any]:
    """One picture of a size, on disk as large ones are: what its files take."""
    from bench.report.site import pictures
    from bench.store.raster import Raster

    wide, tall, folder = int(width), int(height), Path(work) / f"one-{width}"
    strip = clouds((wide,), wide, 64)
    raster = Raster(folder, tall, wide, (strip[: min(64, tall - y)] for y in range(0, tall, 64)))

    class One:
        def open_image(self, _: str) -> Raster:
            return raster

    found = resident(lambda: pictures.write_pictures(One(), [("one", wide, tall)], folder))  # type: ignore[arg-type]
    files = [p for p in folder.rglob("*.webp") if p.is_file()]
    return {"picture": f"{wide} x {tall}", "files": len(files), "MB": sum(p.stat().st_size for p in files) / 1e6,
            "processor s": found["seconds"], "MiB": found["peak"] / 2**20}  # fmt: skip


if __name__ == "__main__":
    verb, *what = sys.argv[1:]
    print(json.dumps({"build": build, "picture": picture}[verb](*what)))
