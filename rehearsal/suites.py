"""Suites of tier full at a size and with steps for tiny networks: the same methods, backbones and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.registry import find
from bench.registry import names as registered
from bench.suites import shipped
from bench.suites.file import read_suite
from bench.suites.tables import MethodFile, MetricFile, SuiteFile
from bench.toml import written
from rehearsal.sizes import FACTOR

SCALES = {"scroll-32k": 2 * FACTOR}  # of which a quarter is one window high
STEPS = {"steps": 2, "low_steps": 2, "kept": 1, "threshold": 1, "resamplings": 1, "t_index_list": "0,25"}
DIVIDED = {"stride": 4, "columns": 1, "rows": 1}  # by FACTOR, and the least of it: half a window of 8 cells
UNTRAINED = {"low": "none", "high": "none", "alignment": "none", "bridge": "none"}  # weights that nobody released
PHOTOGRAPHS = 4  # of a set that users bring: as many as panoramas of two prompts and two seeds


def full() -> list[str]:
    """The suites of tier full that ship with the package."""
    return [name for name in registered("suites") if read_suite(find("suites", name)).tier == "full"]


def reduce(name: str, folder: Path) -> Path:
    """Write the small suite of a name into a folder and let the name stand for it in this process; returns its file."""
    spec = read_suite(find("suites", name))
    file = folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(written(_plain(reduced(spec))), encoding="utf-8")
    setattr(shipped, name.replace("-", "_"), file)
    return file


def reduced(spec: SuiteFile) -> SuiteFile:
    """The suite on canvases and views of an eighth, with two steps, in bfloat16 where it is in float16.

    On the miniature it is what it was.
    """
    scale = SCALES.get(spec.name, FACTOR)
    parts = [p.model_copy(update={"width": p.width // scale, "height": p.height // scale}) for p in spec.parts]
    references = {
        name: r.model_copy(update={"width": r.width // scale if r.width else None})
        for name, r in spec.references.items()
    }
    small = spec.miniature and spec.miniature.model_copy(update={"scale": spec.miniature.scale // scale})
    changes = {
        "parts": parts, "references": references, "seeds": spec.seeds[:2], "protocol": None, "miniature": small,
        "backbone_options": _options(spec.backbone_options), "defaults": _knobs(spec.defaults),
        "methods": [_method(m, spec) if m.ref in registered("methods") else m for m in spec.methods],
        "metrics": [_metric(m, scale) for m in spec.metrics],
    }  # fmt: skip
    return spec.model_copy(update=changes)


def _plain(spec: SuiteFile) -> dict[str, Any]:
    """As a suite is written: without what is empty, and names of references without their anchors."""
    table = spec.model_dump(exclude_defaults=True, exclude_none=True)
    table["gate"] = spec.gate.model_dump(exclude_defaults=True)
    return {k: v for k, v in table.items() if v or k == "seeds"}


def _options(given: dict[str, Any]) -> dict[str, Any]:
    said = {**given, "precision": "bf16"} if given.get("precision") == "fp16" else dict(given)
    return {k: v for k, v in said.items() if k != "variant"}


def _knobs(given: dict[str, Any]) -> dict[str, Any]:
    divided = {k: max(DIVIDED[k], v // FACTOR) for k, v in given.items() if k in DIVIDED}
    return {k: STEPS.get(k, v) for k, v in given.items()} | divided


def _method(m: MethodFile, spec: SuiteFile) -> MethodFile:
    method = find("methods", m.ref)
    own = {k: v for k, v in spec.defaults.items() if k in method.params and (m.backbone in (None, spec.backbone))}
    said = {**(method.presets[m.preset] if m.preset else {}), **own, **m.set}
    knobs = _knobs(m.set) | {k: v for k, v in STEPS.items() if k in method.params}
    knobs |= {k: max(least, said[k] // FACTOR) for k, least in DIVIDED.items() if isinstance(said.get(k), int)}
    knobs |= {k: v for k, v in UNTRAINED.items() if k in method.params}
    if "base" in method.params:
        knobs["base"] = _base(said.get("base", method.params["base"].default))
    return m.model_copy(update={"set": knobs, "backbone_options": _options(m.backbone_options)})


def _base(text: str) -> str:
    """What is enlarged, in two steps."""
    name, _, preset = text.partition(":")
    stride = find("methods", name).presets.get(preset, {}).get("stride")
    return f"{text} steps=2" + (f" stride={max(DIVIDED['stride'], stride // FACTOR)}" if stride else "")


def _metric(m: MetricFile, scale: int) -> MetricFile:
    name, colon, side = (m.view or "").partition(":")
    view = f"{name}:{int(side) // scale}" if colon else m.view
    few = {k: 1 for k in ("splits",) if k in m.set}
    return m.model_copy(update={"view": view, "set": {**m.set, **few}})


def photographs(spec: SuiteFile) -> list[Path]:
    """Fill the folders that a suite's users fill themselves, with noise; returns those that were filled now."""
    filled = []
    for reference in spec.references.values():
        if reference.kind == "folder" and reference.path and not Path(reference.path).expanduser().exists():
            folder = Path(reference.path).expanduser()
            folder.mkdir(parents=True)
            for i in range(PHOTOGRAPHS):
                rgb = np.random.default_rng(i).integers(0, 256, (64, 512, 3), np.uint8)
                Image.fromarray(rgb).save(folder / f"{i}.png")
            filled.append(folder)
    return filled
