"""The report of a suite as a folder that opens from disk (``scrollbench report``): pages, their data, the pictures.

Browsers forbid pages on ``file://`` to fetch, so data are scripts that put values into ``window.DATA``. Pages, scripts
and styles are files of ``bench/report/assets``, copied as they are: nothing of a suite is ever written into HTML, and
pages set it as text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis.board import sections
from bench.errors import StoreError, UsageError
from bench.progress import Progress, Silent
from bench.report.site import numbers, pictures
from bench.store.commit import write_file

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suites.suite import Suite

ASSETS = Path(__file__).parents[1] / "assets"
MARK = "scrollbench-report.json"  # says that a folder is a report, which may be written over
MOST = 16  # methods that are all compared with each other; of more, each with the first alone


@dataclass(frozen=True)
class Site:
    """A report that was written; ``bytes`` and ``files`` of the whole folder."""

    index: Path
    pictures: int
    files: int
    bytes: int


def write_site(store: Store, suite: Suite, out: Path, progress: Progress | None = None, *, whole: bool = True) -> Site:
    """Write the report of a suite into a folder; an earlier report there is brought up to date.

    Args:
        store: with a leaderboard (``scrollbench run``, ``scrollbench score``).
        out: a new or empty folder, or that of an earlier report.
        whole: with the pictures themselves; else previews alone.

    Raises:
        UsageError: a folder that holds something else.
        StoreError: no leaderboard, or it holds nothing of the suite.
    """
    progress = progress or Silent()
    _claim(out)
    found = sections(store, suite)
    placed = pictures.placed(store, suite)
    if not placed:
        raise StoreError(
            f"there are no pictures of suite {suite.ref} in {store.root}; `scrollbench run {suite.command}` makes them"
        )
    images = list(dict.fromkeys(row[4:7] for row in placed))
    progress.start("pictures", len(images))
    shown = pictures.write_pictures(store, images, out, whole, lambda: progress.advance("pictures"))
    pictures.sweep(out, shown)
    progress.finish("pictures")
    labels = list(dict.fromkeys(row.line.method for s in found for row in s.rows))[:MOST]
    progress.start("compare", len(labels) * (len(labels) - 1) // 2)
    compared = numbers.comparisons(store, suite, labels, lambda: progress.advance("compare"))
    progress.finish("compare")
    _data(out, "suite", numbers.suite_facts(suite, found))
    _data(out, "board", numbers.board(suite, found) | {"themes": numbers.themes(store, suite)})
    _data(out, "compare", compared)
    _data(out, "claims", numbers.claims(store, suite))
    _data(out, "validity", numbers.validity(store, suite))
    _data(out, "cost", numbers.costs(store, suite))
    _data(out, "along", numbers.along(store, suite))
    _data(out, "pictures", _table(placed, shown) | {"overlays": pictures.overlays(suite), "tile": pictures.TILE})
    shutil.copytree(ASSETS, out, dirs_exist_ok=True)
    write_file(out / MARK, json.dumps({"suite": suite.ref, "digest": suite.digest}).encode())
    files = [p for p in out.rglob("*") if p.is_file()]
    return Site(out / "index.html", len(images), len(files), sum(p.stat().st_size for p in files))


def _claim(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out takes a folder; {out} is a file")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise UsageError(f"{out} holds something that is not a report; name a new or an empty folder with --out")
    write_file(out / MARK, b"{}")


def _table(placed: Sequence[tuple[Any, ...]], shown: Sequence[pictures.Shown]) -> dict[str, Any]:
    """Images once, and for each place the number of its image: ``[part, prompt, method, seed, number]``."""
    at = {s.image_id: i for i, s in enumerate(shown)}
    return {"images": [list(asdict(s).values()) for s in shown], "places": [[*row[:4], at[row[4]]] for row in placed]}


def _data(out: Path, name: str, value: Any) -> None:
    """Write ``data/NAME.js``. ASCII, and no ``<``: right in every encoding, and inside a page too."""
    packed = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    script = f'(window.DATA = window.DATA || {{}})["{name}"] = {packed.replace("<", chr(92) + "u003c")};\n'
    write_file(out / "data" / f"{name}.js", script.encode())


def _finite(value: Any) -> Any:
    """JSON knows no infinity: ends of an interval that say nothing become null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
