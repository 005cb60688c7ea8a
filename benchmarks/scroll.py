"""What a picture takes as it grows to 32768x4096: memory and seconds of making, keeping and scoring it.

ScrollScape makes it on networks in the released layouts with random numbers in them: a Wan whose transformer has no
layers, so that it looks at each token by itself (attention over all frames is what ScrollScape needs of a GPU, and says
nothing of pictures on disk), its video decoder, and the smallest of Real-ESRGAN's compact networks, which enlarges four
times. Everything else is what ``scrollbench run`` does: frames decoded one at a time, enlarged, joined on disk, kept by
content, and scored with gsd-dino, repeat-count and clip-score through the miniature's networks. Frames are half a frame
apart at every width, so that work grows with the picture.

Each size runs in a process of its own. Memory is the resident high-water mark of that process less what it held after
its imports; what lies in the system's cache of files is not the process's. Seconds are the processor's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.timing import Report, Settings

HEIGHT, WIDTHS = 4096, (8192, 16384, 32768)
QUICK = 256, (512, 1024)
MOST = 1.1  # memory over that of half the width
SUITE = """
name = "scroll"
version = "1"
tier = "full"
backbone = "wan-1.3b"
backbone_options = {{ model = "{wan}" }}
parts = [{{ name = "wide", width = {width}, height = {height}, prompts = "prompts.jsonl" }}]

[[methods]]
ref = "scrollscape"
[methods.set]
alignment = "none"
steps = 1
guidance = 1.0
tap = "image"
frame_width = {frame}
step = {step}
model = "{model}"
scale = 4.0
tile = 256
context = 32

[[metrics]]
ref = "gsd-dino"
extractor = "world-vit"
[[metrics]]
ref = "repeat-count"
extractor = "world-vit"
[[metrics]]
ref = "clip-score"
extractor = "world-clip"
"""
PROMPT = {"id": "scroll", "text": "the sea by day, clear sky, one sun"}


def scroll(told: Settings) -> Report:
    """Memory and seconds by width; a fault where memory grows by more than a tenth when the width doubles."""
    report = Report()
    height, widths = QUICK if told.quick else (HEIGHT, WIDTHS)
    write(told.work)
    rows = [_row(told.work, width, height, told.quick) for width in widths]
    report.tables["by width"] = rows
    for part in ("make MiB", "score MiB"):
        grown = [b[part] / a[part] for a, b in pairwise(rows)]
        report.facts[f"{part}, over half the width"] = ", ".join(f"{g:.3f}" for g in grown)
        if max(grown) > MOST and not told.quick:
            report.faults.append(f"{part} grows by more than {MOST - 1:.0%} where the width doubles: {grown}")
    looked = _child(told.work, "look", widths[-1], height, told.quick)
    report.facts |= {k: v for k, v in looked.items() if k != "pixels are equal"}
    report.faults += [f"{name} reads other pixels" for name, ok in looked["pixels are equal"].items() if not ok]
    return report


def write(folder: Path) -> None:
    """Networks and prompt."""
    import torch
    from safetensors.torch import save_file

    from tests.support.tiny_pipelines import write_wan

    with torch.random.fork_rng(devices=[]):
        write_wan(folder / "wan", layers=0)
        draw = torch.Generator().manual_seed(0)
        shapes = {"0": (4, 3, 3, 3), "2": (4, 4, 3, 3), "4": (3 * 4 * 4, 4, 3, 3)}  # of convolutions
        state = {f"body.{k}.weight": 0.1 * torch.randn(s, generator=draw) for k, s in shapes.items()}
        state |= {f"body.{k}.bias": torch.zeros(s[0]) for k, s in shapes.items()}
        state |= {f"body.{k}.weight": torch.full((4,), 0.25) for k in ("1", "3")}  # of the steps between them
    save_file(state, folder / "compact.safetensors")
    (folder / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n", encoding="utf-8")


def _row(work: Path, width: int, height: int, quick: bool) -> dict[str, Any]:
    make, score = (_child(work, verb, width, height, quick) for verb in ("make", "score"))
    megapixels = width * height / 1e6
    return {
        "width": width, "megapixels": megapixels, "make MiB": make["peak"] / 2**20, "make s": make["seconds"],
        "s a megapixel": make["seconds"] / megapixels, "score MiB": score["peak"] / 2**20, "score s": score["seconds"],
        "PNG MB": make["bytes"] / 1e6,
    }  # fmt: skip


def _child(work: Path, *what: Any) -> dict[str, Any]:
    """What a process of its own finds."""
    command = [sys.executable, "-m", "benchmarks.scroll", str(work), *map(str, what)]
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}  # of glibc: freed arrays go back to the system
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, what))}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- what the processes do


def make(work: Path, width: int, height: int) -> dict[str, Any]:
    """Make and keep the picture."""
    from bench.pipeline.generate import generate
    from bench.pipeline.plan import make_plan
    from methods.backbones.wan import wan_small

    wan_small(model=str(work / "wan"))  # imports on the way
    suite, store = _asked(work, width, height)
    plan = make_plan(suite, store)
    made: list[Any] = []
    found = _watched(lambda: made.append(generate(plan, store)))
    if not made[0].complete:
        raise RuntimeError(f"no picture: {made[0].failures}")
    return {**found, "bytes": store.image_path(_id(store)).stat().st_size}


def score(work: Path, width: int, height: int) -> dict[str, Any]:
    """Score it."""
    from bench import extractors
    from bench.pipeline.score import score as run

    for name in ("world-vit", "world-clip"):
        extractors.load(name, "cpu")  # imports on the way
    suite, store = _asked(work, width, height)
    results: list[Any] = []
    found = _watched(lambda: results.append(run(suite, store)))
    if (results[0].scored, results[0].failed) != (3, 0):
        raise RuntimeError(f"expected three scores: {results[0]}")
    return found


def look(work: Path, width: int, height: int) -> dict[str, Any]:
    """Whether others read the same pixels from the PNG and the BigTIFF."""
    import numpy as np

    from bench.ids import image_id
    from bench.store.pictures import opened

    _, store = _asked(work, width, height)
    name = _id(store)
    files = {"PNG": store.image_path(name), "BigTIFF": store.copy_image(name, work / "scroll.tif")}
    same = {}
    for kind, file in files.items():
        with opened(file) as picture:  # Pillow, its limit of pixels lifted
            same[f"Pillow, {kind}"] = image_id(np.asarray(picture)) == name
    try:
        import pyvips
    except ImportError:
        return {"pixels are equal": same, "libvips": "not installed (pyvips)"}
    for kind, file in files.items():
        there = pyvips.Image.new_from_file(str(file), access="sequential")
        same[f"libvips, {kind}"] = image_id(there.numpy()) == name
    return {"pixels are equal": same, "libvips": f"{pyvips.version(0)}.{pyvips.version(1)}", "read alike": list(same)}


def _asked(work: Path, width: int, height: int) -> Any:
    from bench.store import Store
    from bench.suites.load import load_suite

    frame = min(52, width // 64 // 2)
    file = work / f"scroll-{width}.toml"
    told = {"width": width, "height": height, "frame": frame, "step": max(1, frame // 2)}
    file.write_text(SUITE.format(**told, model=work / "compact.safetensors", wan=work / "wan"), encoding="utf-8")
    return load_suite(file), Store(work / f"store-{width}")


def _id(store: Any) -> str:
    return next(str(r["image_id"]) for r in store.records() if r["kind"] == "image")


def _watched(do: Callable[[], Any]) -> dict[str, Any]:
    """Bytes that a call takes at most beyond what is there before it, and seconds of the processor."""
    before, start = _status("VmRSS"), time.process_time()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins here
    do()
    return {"peak": _status("VmHWM") - before, "seconds": time.process_time() - start}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    from bench import types

    folder, verb, *size, quick = sys.argv[1:]
    if quick == "True":
        types.WHOLE = 2**14  # so that small pictures go the way of large ones
    print(json.dumps({"make": make, "score": score, "look": look}[verb](Path(folder), *map(int, size))))
