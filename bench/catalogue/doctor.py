"""What can run here, and the one command that mends each thing that cannot."""

from __future__ import annotations

import math
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from bench import extractors
from bench.catalogue.needs import bases, bill, extractor_of, here, needed
from bench.catalogue.needs import extractors as seen
from bench.device import choose, mend_precision
from bench.errors import PrerequisiteError, ScrollBenchError, UsageError
from bench.extractors import catalogue
from bench.extractors.weights.manifest import remedy, state
from bench.registry import find, names
from bench.suites.load import load_suite

if TYPE_CHECKING:
    from bench.catalogue.needs import Base
    from bench.extractors.weights.manifest import Model, Presence
    from bench.store import Store
    from bench.suites.suite import Suite
    from bench.suites.tables import MethodFile, MetricFile

GIB = 1 << 30
LOW_DISK = 2 * GIB  # below this a long run may not find room for its pictures


@dataclass(frozen=True)
class Finding:
    """One finding.

    ``state`` is ``ok``, ``note`` (worth knowing), ``missing`` (the suite cannot run), or ``unavailable`` (a method or
    metric that the suite names and this project does not have: no command mends it, the others run).
    """

    what: str
    state: str
    detail: str
    fix: str = ""


def examine(suite: Suite, store: Store) -> list[Finding]:
    """Look at Python, packages, device, all that the suite names, and the store. Loads no network, changes nothing."""
    found = [*_python(), *_packages(), *_device(), *_named(suite), *_memory(suite), *_store(store)]
    return [*found, *_all_of_it(suite)]


def suites() -> list[Finding]:
    """A line for each suite: how much of what it names is here. What is missing in them is a ``note``."""
    lines = []
    for name in names("suites"):
        try:
            found = _named(load_suite(name))
        except ScrollBenchError as error:
            lines.append(Finding(f"suite {name}", "note", str(error)))
            continue
        absent = [check.what for check in found if check.state in ("missing", "unavailable")]
        here = f"{len(found) - len(absent)} of {len(found)} things it names are here"
        if not absent:
            lines.append(Finding(f"suite {name}", "ok", here))
            continue
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        lines.append(Finding(f"suite {name}", "note", f"{here}, not {some}", f"scrollbench doctor --suite {name}"))
    return lines


def worst_first(checks: list[Finding]) -> list[Finding]:
    """What keeps the suite from running, then what is worth knowing, what nothing mends, and what is well."""
    order = ("missing", "note", "unavailable", "ok")
    return sorted(checks, key=lambda check: order.index(check.state))


def ready(checks: list[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(check.state != "missing" for check in checks)


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python",
        "ok" if good else "missing",
        f"{platform.python_version()} on {platform.platform()}",
        "" if good else "install Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("scrollbench") or ()]
    except PackageNotFoundError:
        yield Finding("packages", "missing", "scrollbench is not installed, only on the path", "pip install -e .")
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
        yield Finding("packages", "ok", f"all {len(plain)} are here")
    for name, what in wrong:
        yield Finding(f"package {name}", "missing", what, f'pip install "{name}"')


def _device() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    yield Finding("memory", "ok", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free")
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways (missing libraries among them)
        yield Finding("torch", "missing", f"does not import: {error!r}", "pip install --force-reinstall torch")
        return
    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            yield Finding(f"device cuda:{i}", "ok", f"{p.name}, {p.total_memory / GIB:.0f} GiB")
    else:
        yield Finding("device cpu", "note", "no CUDA device; the miniature suite needs none")


def _named(suite: Suite) -> list[Finding]:
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
    rows += [Finding(what, "unavailable", why) for what, why in others.items() if what not in seen]
    if problem and all(row.state != "missing" for row in rows):
        rows.append(Finding("suite", "missing", problem))
    return [*rows, *_networks(suite)]


def _method(m: MethodFile, suite: Suite, absent: Mapping[tuple[str, str], str]) -> Finding:
    check = _plugin("method", m, absent)
    if check.state != "ok":
        return check
    family = getattr(here("methods", m.ref), "family", None)
    backbone = m.backbone or suite.backbone
    have = getattr(here("backbones", backbone), "family", None) if backbone else None
    if have is not None and family not in (have, "control"):
        return Finding(check.what, "missing", f"samples in family {family}, backbone {backbone} is of family {have}")
    return Finding(check.what, "ok", f"family {family}")


def _metric(m: MetricFile, suite: Suite, absent: Mapping[tuple[str, str], str]) -> Finding:
    check = _plugin("metric", m, absent)
    if check.state != "ok":
        return check
    network = extractor_of(here("metrics", m.ref), m.extractor, suite.tier)
    return Finding(check.what, "ok", f"looks through {network or 'no network'}")


def _plugin(kind: str, m: MethodFile | MetricFile, absent: Mapping[tuple[str, str], str]) -> Finding:
    what = f"{kind} {m.name}"
    if why := absent.get((kind, m.name)):
        return Finding(what, "unavailable", why)
    try:
        find(f"{kind}s", m.ref)
    except UsageError as error:
        if m.planned and m.ref not in names(f"{kind}s"):
            return Finding(what, "unavailable", "not in this project")
        return Finding(what, "missing", str(error))
    return Finding(what, "ok", "")


def _networks(suite: Suite) -> Iterator[Finding]:
    models, told = needed(suite), set[str]()
    if suite.backbone and suite.backbone not in [base.ref for base in bases(suite)]:
        yield _identified(f"backbone {suite.backbone}", lambda: find("backbones", str(suite.backbone)), [])
    for base in bases(suite):
        made = [m for m in models if m.role == "backbone" and m.repository in base.said.values()]
        told |= {m.name for m in made}
        what = f"backbone {base.ref}" + (f" of {base.options['model']}" if "model" in base.options else "")
        yield _identified(what, lambda base=base: _weights_of(base), made)  # type: ignore[misc]
    for name in seen(suite):
        made = catalogue.models(name)
        told |= {m.name for m in made}
        yield _identified(f"extractor {name}", lambda name=name: extractors.find(name).digest, made)  # type: ignore[misc]
    for found in (state(m) for m in models if m.name not in told):
        what = f"model {found.model.name}"
        yield Finding(what, "ok", str(found.folder)) if found.state == "present" else _absent(what, [found])


def _weights_of(base: Base) -> str:
    info = find("backbones", base.ref).describe(**base.options)
    source = getattr(info, "source", "")
    return f"{info.weights_digest} of {source}" if source else str(info.weights_digest)


def _identified(what: str, identify: Callable[[], object], made: list[Model]) -> Finding:
    """A network by its weights; of a plug-in's the manifest may know that they are here in part."""
    try:
        check = Finding(what, "ok", f"weights {identify()}")
    except PrerequisiteError as error:  # the command that fetches stands on a line of its own, or in back quotes
        detail, _, fix = str(error).partition("\n")
        quoted = re.findall(r"`([^`]+)`", detail)
        detail = detail.removesuffix(" Fetch it with:")
        check = Finding(what, "missing", detail, fix.strip() or (quoted[-1] if quoted else ""))
    except ScrollBenchError as error:
        return Finding(what, "missing", str(error))
    lacking = ("partial",) if check.state == "ok" else ("partial", "missing")
    absent = [found for found in map(state, made) if found.state in lacking]
    return _absent(what, absent) if absent else check


def _absent(what: str, absent: list[Presence]) -> Finding:
    return Finding(what, "missing", "; ".join(found.complaint for found in absent), remedy(absent))


def _memory(suite: Suite) -> Iterator[Finding]:
    """Whether the precision and the size of each backbone go with the device that a run would take."""
    import psutil

    try:
        device = choose(suite.backbone_options.get("device"))
    except (PrerequisiteError, UsageError) as error:
        yield Finding(f"device {suite.backbone_options['device']}", "missing", str(error), "choose another --device")
        return
    yield Finding("networks run on", "ok", device)
    room = psutil.virtual_memory().total
    if device.startswith("cuda"):
        import torch

        room = torch.cuda.get_device_properties(device).total_memory
    seen = set()
    for base in bases(suite):
        precision = base.said.get("precision", "fp32")
        if (base.name, base.said.get("model"), precision) in seen:
            continue
        seen.add((base.name, base.said.get("model"), precision))
        if mend := mend_precision(device, precision):
            yield Finding(f"precision of {base.name}", "missing", f"{precision} on device {device}", mend)
        files = max((m.size_gb for m in needed(suite) if m.repository in base.said.values()), default=0.0) * 1e9
        size = min(files, _held(base)) if files > room else files
        if size > room:
            said = f"{size / 1e9:.3g} GB of numbers at {precision}, the memory of {device} is {room / GIB:.0f} GiB"
            yield Finding(f"memory for {base.name}", "note", said, 'offload = "model" or a lower --precision may help')


def _held(base: Base) -> float:
    """Bytes of a backbone's numbers in the precision that it runs in; of its files, where its shape is not known."""
    try:
        skeleton = find("backbones", base.ref).skeleton(**base.options)
    except (ScrollBenchError, AttributeError):
        return math.inf  # not known: the files say too much already
    modules = [m for m in skeleton.parts.values() if hasattr(m, "parameters")]
    return float(sum(p.numel() * p.element_size() for m in modules for p in m.parameters()))


def _all_of_it(suite: Suite) -> Iterator[Finding]:
    """One command that brings here all that is lacking, and what it comes to."""
    lacking = bill(suite)
    if lacking.absent or lacking.unmade:
        yield Finding("all that is lacking", "missing", lacking.text, f"scrollbench weights fetch {lacking.name}")


def _store(store: Store) -> Iterator[Finding]:
    root = Path(store.root)
    place = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    state = "note" if free < LOW_DISK else "ok"
    yield Finding(
        "disk", state, f"{free / GIB:.1f} GiB free at {place}", "choose another --store" if state == "note" else ""
    )
    if not root.exists():
        yield Finding("store", "ok", f"{root} does not exist yet; the first run makes it")
        return
    try:
        count = sum(1 for _ in store.records())
    except ScrollBenchError as error:
        yield Finding("store", "missing", str(error), "scrollbench store verify --repair")
    else:
        yield Finding("store", "ok", f"{root}: {count} records")
