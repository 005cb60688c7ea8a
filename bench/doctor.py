"""What can run here, and the one command that mends each thing that cannot."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import PrerequisiteError, ScrollBenchError, UsageError

if TYPE_CHECKING:
    from bench.store import Store
    from bench.suite import Suite
    from bench.suite_file import MethodFile, MetricFile
    from bench.weights import Found, Model
    from bench.weights_suite import Base

GIB = 1 << 30
LOW_DISK = 2 * GIB  # below this a long run may not find room for its pictures


@dataclass(frozen=True)
class Check:
    """One finding.

    ``state`` is ``ok``, ``note`` (worth knowing), ``missing`` (the suite cannot run), or ``unavailable`` (a method or
    metric that the suite names and this project does not have: no command mends it, the others run).
    """

    what: str
    state: str
    detail: str
    fix: str = ""


def examine(suite: Suite, store: Store) -> list[Check]:
    """Look at Python, packages, device, all that the suite names, and the store. Loads no network, changes nothing."""
    return [*_python(), *_packages(), *_device(), *_named(suite), *_memory(suite), *_store(store)]


def suites() -> list[Check]:
    """A line for each suite: how much of what it names is here. What is missing in them is a ``note``."""
    from bench.registry import names
    from bench.suite import load_suite

    lines = []
    for name in names("suites"):
        try:
            found = _named(load_suite(name))
        except ScrollBenchError as error:
            lines.append(Check(f"suite {name}", "note", str(error)))
            continue
        absent = [check.what for check in found if check.state in ("missing", "unavailable")]
        here = f"{len(found) - len(absent)} of {len(found)} things it names are here"
        if not absent:
            lines.append(Check(f"suite {name}", "ok", here))
            continue
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        lines.append(Check(f"suite {name}", "note", f"{here}, not {some}", f"scrollbench doctor --suite {name}"))
    return lines


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


def _named(suite: Suite) -> list[Check]:
    """The suite's methods, metrics and references, then the networks they run on."""
    try:
        absent = {(u.kind, u.label): u.reason for u in suite.unavailable}
        problem = ""
    except ScrollBenchError as error:  # one wrong entry must not hide the others
        absent, problem = {}, str(error)
    rows = [_method(m, suite, absent) for m in suite.spec.methods]
    rows += [_metric(m, suite, absent) for m in suite.spec.metrics]
    seen = {row.what for row in rows}
    others = {f"{kind} {label}": why for (kind, label), why in absent.items()}
    rows += [Check(what, "unavailable", why) for what, why in others.items() if what not in seen]
    if problem and all(row.state != "missing" for row in rows):
        rows.append(Check("suite", "missing", problem))
    return [*rows, *_networks(suite)]


def _method(m: MethodFile, suite: Suite, absent: Mapping[tuple[str, str], str]) -> Check:
    from bench.weights_suite import here

    check = _plugin("method", m, absent)
    if check.state != "ok":
        return check
    family = getattr(here("methods", m.ref), "family", None)
    backbone = m.backbone or suite.backbone
    have = getattr(here("backbones", backbone), "family", None) if backbone else None
    if have is not None and family not in (have, "control"):
        return Check(check.what, "missing", f"samples in family {family}, backbone {backbone} is of family {have}")
    return Check(check.what, "ok", f"family {family}")


def _metric(m: MetricFile, suite: Suite, absent: Mapping[tuple[str, str], str]) -> Check:
    from bench.weights_suite import extractor_of, here

    check = _plugin("metric", m, absent)
    if check.state != "ok":
        return check
    network = extractor_of(here("metrics", m.ref), m.extractor, suite.tier)
    return Check(check.what, "ok", f"looks through {network or 'no network'}")


def _plugin(kind: str, m: MethodFile | MetricFile, absent: Mapping[tuple[str, str], str]) -> Check:
    from bench.registry import find, names

    what = f"{kind} {m.name}"
    if why := absent.get((kind, m.name)):
        return Check(what, "unavailable", why)
    try:
        find(f"{kind}s", m.ref)
    except UsageError as error:
        if m.planned and m.ref not in names(f"{kind}s"):
            return Check(what, "unavailable", "not in this project")
        return Check(what, "missing", str(error))
    return Check(what, "ok", "")


def _networks(suite: Suite) -> Iterator[Check]:
    from bench import extractors
    from bench.registry import find
    from bench.weights import state
    from bench.weights_suite import bases, needed
    from bench.weights_suite import extractors as seen

    models, told = needed(suite), set[str]()
    if suite.backbone and suite.backbone not in [base.ref for base in bases(suite)]:
        yield _identified(f"backbone {suite.backbone}", lambda: find("backbones", str(suite.backbone)), [])
    for base in bases(suite):
        made = [m for m in models if m.role == "backbone" and m.repository in base.said.values()]
        told |= {m.name for m in made}
        what = f"backbone {base.ref}" + (f" of {base.options['model']}" if "model" in base.options else "")
        yield _identified(what, lambda base=base: _weights_of(base), made)  # type: ignore[misc]
    for name in seen(suite):
        made = extractors.models(name)
        told |= {m.name for m in made}
        yield _identified(f"extractor {name}", lambda name=name: extractors.find(name).digest, made)  # type: ignore[misc]
    for found in (state(m) for m in models if m.name not in told):
        what = f"model {found.model.name}"
        yield Check(what, "ok", str(found.folder)) if found.state == "present" else _absent(what, [found])


def _weights_of(base: Base) -> str:
    from bench.registry import find

    info = find("backbones", base.ref).describe(**base.options)
    source = getattr(info, "source", "")
    return f"{info.weights_digest} of {source}" if source else str(info.weights_digest)


def _identified(what: str, identify: Callable[[], object], made: list[Model]) -> Check:
    """A network by its weights; of a plug-in's the manifest may know that they are here in part."""
    from bench.weights import state

    try:
        check = Check(what, "ok", f"weights {identify()}")
    except PrerequisiteError as error:  # the command that fetches stands on a line of its own, or in back quotes
        detail, _, fix = str(error).partition("\n")
        quoted = re.findall(r"`([^`]+)`", detail)
        detail = detail.removesuffix(" Fetch it with:")
        check = Check(what, "missing", detail, fix.strip() or (quoted[-1] if quoted else ""))
    except ScrollBenchError as error:
        return Check(what, "missing", str(error))
    lacking = ("partial",) if check.state == "ok" else ("partial", "missing")
    absent = [found for found in map(state, made) if found.state in lacking]
    return _absent(what, absent) if absent else check


def _absent(what: str, absent: list[Found]) -> Check:
    from bench.weights import remedy

    return Check(what, "missing", "; ".join(found.complaint for found in absent), remedy(absent))


def _memory(suite: Suite) -> Iterator[Check]:
    """A warning where a backbone's files alone are larger than the memory of the device it is asked to run on."""
    import psutil

    from bench.weights_suite import bases, needed

    device = str(suite.backbone_options.get("device", "cpu"))
    room = psutil.virtual_memory().total
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            yield Check(f"device {device}", "missing", "torch sees no CUDA device", "choose another --device")
            return
        room = torch.cuda.get_device_properties(device).total_memory
    for base in bases(suite):
        size = max((m.size_gb for m in needed(suite) if m.repository in base.said.values()), default=0.0)
        if size * 1e9 > room:
            said = f"its files are {size:.3g} GB, the memory of {device} is {room / GIB:.0f} GiB"
            fix = "a lower precision or offload, among the backbone's options, may help"
            yield Check(f"memory for {base.name}", "note", said, fix)


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
