"""How far the detectors can be believed: known pictures read back, clean, degraded and with injected defects.

``read`` rows say how exactly a detector reads fresh renders; ``track`` rows how well a number follows the strength of
a defect that was put in (Spearman's rank correlation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.errors import PrerequisiteError, UsageError, near
from bench.pictures import picture_files, read_picture
from bench.types import Prompt
from bench.world import defects
from bench.world.detect import DETECTORS, KINDS, detect, horizon_rows, load_oracle
from bench.world.render import HEIGHT, Picture, render
from bench.world.scene import OBJECTS, UNIQUES, Scene, sample_scene

RGB = NDArray[np.uint8]
Degrade = Callable[[RGB], RGB]
FIRST_SEED = 2**31  # renders below are for training
WIDE = 8 * HEIGHT
DEGRADED: dict[str, Degrade] = {
    "clean": lambda rgb: rgb,
    "blur 0.5": partial(defects.blur, sigma=0.5),
    "blur 1.0": partial(defects.blur, sigma=1.0),
    "noise 0.05": partial(defects.noise, sigma=0.05),
    "noise 0.1": partial(defects.noise, sigma=0.1),
}


class Progress(Protocol):
    """Told how far the work is."""

    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, n: int = 1, note: str = "") -> None: ...
    def finish(self, stage: str) -> None: ...


def verify(
    n: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
    detectors: Sequence[str] | None = None,
    more: dict[str, Degrade] | None = None,
) -> list[dict[str, Any]]:
    """Read ``n`` fresh squares and ``n / 4`` panoramas back, degraded in known ways, and follow injected defects.

    Args:
        n: squares; every number below 100 says little.
        seed: which scenes and renders.
        progress: told after every picture.
        detectors: ``colour``, ``net``; by default both, or ``colour`` alone without the oracle's weights.
        more: further ways to degrade, such as a network's encoding and decoding.

    Returns:
        Rows ``{"check", "detector", "pictures", "group", "n", "exact", "precision", "recall", "spearman"}``, None
        where a column does not apply. ``group`` is a kind, ``style/time`` or ``all`` (every kind at once).
    """
    names = tuple(detectors) if detectors is not None else available()
    for name in names:
        if name not in DETECTORS:
            raise UsageError(f"unknown detector {name!r}; {near(name, DETECTORS)}")
    ways = {**DEGRADED, **(more or {})}
    rng = np.random.default_rng([2**42, seed])
    jobs = [("squares", HEIGHT)] * n + [("panoramas", WIDE)] * max(1, n // 4)
    if progress:
        progress.start("verify", len(jobs))
    table = Table()
    for i, (size, width) in enumerate(jobs):
        picture = render(sample_scene(rng), width, FIRST_SEED + seed * 10**6 + i)
        for way, degrade in ways.items():
            rgb = degrade(picture.rgb)
            for name in names:
                table.add((name, f"{size}, {way}"), picture, rgb)
        if progress:
            progress.advance("verify")
    rows = table.rows() + [r for name in names for r in track(name, max(2, n // 20), seed)]
    if progress:
        progress.finish("verify")
    return rows


def available() -> tuple[str, ...]:
    """The detectors that can be run here."""
    try:
        load_oracle()
    except PrerequisiteError:
        return ("colour",)
    return DETECTORS


class Table:
    """Hits, extras and misses by detector, kind of picture, and group."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)  # (shown, read)

    def add(self, key: tuple[str, str], picture: Picture, rgb: RGB) -> None:
        """Read one picture and compare with its truth."""
        scene = picture.scene
        seen = [d.kind for d in detect(rgb, scene, detector=key[0])]
        wanted = [k for k in KINDS if k in UNIQUES or k in seen or (scene.counted and k == scene.counted[0])]
        pairs = {k: (picture.count(k), seen.count(k)) for k in wanted}
        for kind, pair in pairs.items():
            self.cells[(*key, kind)].append(pair)
        right = int(all(shown == read for shown, read in pairs.values()))
        for group in ("all", f"{scene.style}/{scene.time}"):
            self.cells[(*key, group)].append((1, right))

    def rows(self) -> list[dict[str, Any]]:
        """One row a cell; precision and recall only for kinds, which are counted thing by thing."""
        order = {g: i for i, g in enumerate(("all", *UNIQUES, *OBJECTS))}
        out = []
        for key in sorted(self.cells, key=lambda c: (*c[:2], order.get(c[2], len(order)), c[2])):
            name, pictures, group = key
            p = np.array(self.cells[key])
            hits, is_kind = np.minimum(p[:, 0], p[:, 1]).sum(), group in KINDS
            out.append(_row(
                "read", name, pictures, group, len(p), exact=float((p[:, 0] == p[:, 1]).mean()),
                precision=_share(hits, p[:, 1].sum()) if is_kind else None,
                recall=_share(hits, p[:, 0].sum()) if is_kind else None,
            ))  # fmt: skip
        return out


def track(detector: str = "colour", n: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """How well numbers follow defects: the count follows copies, the horizon's range its breaks."""
    rng = np.random.default_rng([2**42, seed, 1])
    injected: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[float]] = defaultdict(list)
    for i in range(n):
        scene, at = _named(rng), FIRST_SEED + 5 * 10**8 + seed * 10**4 + i
        for k in (0, 1, 2, 4, 6, 8):
            picture = defects.copies(scene, WIDE, at, k)
            injected["copies"].append(k)
            found["copies"].append(sum(d.kind == scene.unique for d in detect(picture.rgb, scene, detector=detector)))
        for rows in (0, 1, 2, 3, 4):
            rgb = defects.horizon_break(render(scene, WIDE, at).rgb, rows, (WIDE // 4, WIDE // 2))
            line = horizon_rows(rgb) if detector == "colour" else load_oracle().read(rgb).horizon
            injected["horizon break"].append(rows)
            found["horizon break"].append(float(np.ptp(line)))
    out = []
    for defect, x in injected.items():
        columns = {"exact": _same(x, found[defect]), "spearman": _spearman(x, found[defect])}
        out.append(_row("track", detector, defect, "number", len(x), **columns))
    return out


def read_folder(folder: Path, prompts: Iterable[Prompt], detector: str = "colour") -> list[dict[str, Any]]:
    """Read generated pictures ``PROMPT-ID.png`` or ``PROMPT-ID_*.png`` (or another format) back: one row a picture.

    Raises:
        UsageError: no picture of any prompt is directly in the folder, or one that cannot be read.
    """
    files = [path for path in picture_files(folder) if path.parent == folder]
    rows = []
    for prompt in prompts:
        scene = Scene.from_dict(prompt.attributes["scene"])
        for path in (p for p in files if p.stem == prompt.id or p.stem.startswith(f"{prompt.id}_")):
            seen = [d.kind for d in detect(read_picture(path), scene, detector=detector)]
            counts = {k: seen.count(k) for k in KINDS}
            rows.append({"file": path.name, "prompt": prompt.id, "asked": scene.unique, **counts})
    if not rows:
        raise UsageError(f"{folder} holds no picture named after one of the prompts (PROMPT-ID.png or PROMPT-ID_*.png)")
    return rows


def _named(rng: np.random.Generator) -> Scene:
    while (scene := sample_scene(rng)).unique is None:
        pass
    return scene


def _row(check: str, detector: str, pictures: str, group: str, n: int, **columns: float | None) -> dict[str, Any]:
    empty = dict.fromkeys(("exact", "precision", "recall", "spearman"))
    return {"check": check, "detector": detector, "pictures": pictures, "group": group, "n": n, **empty, **columns}


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _same(injected: list[float], found: list[float]) -> float:
    return float(np.mean(np.array(injected) == np.round(found)))


def _spearman(injected: list[float], found: list[float]) -> float | None:
    if len(set(found)) < 2:  # nothing varies, nothing is followed
        return 0.0
    return float(spearmanr(injected, found).statistic)
