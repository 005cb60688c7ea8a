"""What can run here, and the one command that mends each thing that cannot."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import PrerequisiteError, ScrollBenchError

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suite import Suite

GIB = 1 << 30
LOW_DISK = 2 * GIB  # below this a long run may not find room for its pictures


@dataclass(frozen=True)
class Check:
    """One finding. ``state`` is ``ok``, ``note`` (worth knowing) or ``missing`` (the suite cannot run)."""

    what: str
    state: str
    detail: str
    fix: str = ""


def examine(suite: Suite, store: Store) -> list[Check]:
    """Look at Python, packages, the device, the suite's weights and the store. Loads no network, changes nothing."""
    return [*_python(), *_packages(), *_device(), *_weights(suite), *_store(store)]


def ready(checks: list[Check]) -> bool:
    """Whether nothing is missing."""
    return all(check.state != "missing" for check in checks)


def _python() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check(
        "python",
        "ok" if good else "missing",
        f"{platform.python_version()} on {platform.platform()}",
        "" if good else "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("scrollbench") or ()]
    except PackageNotFoundError:
        yield Check("packages", "missing", "scrollbench is not installed, only on the path", "pip install -e .")
        return
    wrong = []
    plain = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    for r in plain:
        try:
            have = version(r.name)
        except PackageNotFoundError:
            wrong.append((str(r), "absent"))
            continue
        if not r.specifier.contains(have, prereleases=True):
            wrong.append((str(r), f"{have} is here"))
    if not wrong:
        yield Check("packages", "ok", f"all {len(plain)} are here")
    for name, what in wrong:
        yield Check(f"package {name}", "missing", what, f'pip install "{name}"')


def _device() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    yield Check("memory", "ok", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free")
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways (missing libraries among them)
        yield Check("torch", "missing", f"does not import: {error!r}", "pip install --force-reinstall torch")
        return
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield Check(f"device cuda:{i}", "ok", f"{p.name}, {p.total_memory / GIB:.0f} GiB")
    else:
        yield Check("device cpu", "note", "no CUDA device; the miniature suite needs none")


def _weights(suite: Suite) -> Iterator[Check]:
    from bench import extractors
    from bench.registry import find

    if suite.backbone is not None:
        factory, options = suite.backbone, dict(suite.backbone_options)
        yield _identified(
            f"backbone {factory}", lambda: str(find("backbones", factory).describe(**options).weights_digest)
        )
    try:
        wanted = dict.fromkeys(m.extractor for m in suite.metrics if m.extractor)
    except ScrollBenchError as error:
        yield Check("metrics", "missing", str(error))
        return
    for name in wanted:
        yield _identified(f"extractor {name}", lambda name=name: extractors.find(name).digest)  # type: ignore[misc]


def _identified(what: str, identify: Callable[[], str]) -> Check:
    try:
        return Check(what, "ok", f"weights {identify()}")
    except PrerequisiteError as error:  # the command that fetches stands on a line of its own, or in back quotes
        detail, _, fix = str(error).partition("\n")
        quoted = re.findall(r"`([^`]+)`", detail)
        return Check(what, "missing", detail, fix.strip() or (quoted[-1] if quoted else ""))
    except ScrollBenchError as error:
        return Check(what, "missing", str(error))


def _store(store: Store) -> Iterator[Check]:
    root = Path(store.root)
    place = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    state = "note" if free < LOW_DISK else "ok"
    yield Check(
        "disk", state, f"{free / GIB:.1f} GiB free at {place}", "choose another --store" if state == "note" else ""
    )
    if not root.exists():
        yield Check("store", "ok", f"{root} does not exist yet; the first run makes it")
        return
    try:
        count = sum(1 for _ in store.records())
    except ScrollBenchError as error:
        yield Check("store", "missing", str(error), "scrollbench store verify --repair")
    else:
        yield Check("store", "ok", f"{root}: {count} records")
