"""A suite as it is written: a TOML file, checked key by key. What it means is resolved in bench.suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bench.errors import UsageError, near
from bench.reading import MOST, read_toml, shown

Tier = Literal["miniature", "full"]  # they never share a board
TIERS: tuple[str, ...] = get_args(Tier)
MOST_SEEDS = 100_000  # of one suite
Side = Annotated[int, Field(gt=0, lt=2**31)]  # pixels; PNG knows no longer one
Seed = Annotated[int, Field(ge=0, le=MOST)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PartFile(_Table):
    """A canvas and the prompts to draw on it. ``prompts`` is a selection (bench.prompts) or a ``.jsonl`` file."""

    name: str = Field(min_length=1)
    width: Side
    height: Side
    loop: bool = False
    prompts: str = Field(min_length=1)


class _Named(_Table):
    """Something that may stand by name: ``planned`` says that its absence is no mistake, ``note`` what it is."""

    planned: bool = False
    note: str = ""


class MethodFile(_Named):
    """A method and its knobs; ``label`` is its name on the board.

    ``backbone`` and ``backbone_options`` are the suite's unless given; ``miniature`` holds knobs for that tier, or the
    reason why the method cannot run there.
    """

    ref: str = Field(min_length=1)
    preset: str | None = None
    label: str | None = None
    set: dict[str, Any] = {}
    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    miniature: dict[str, Any] | str = {}

    @property
    def name(self) -> str:
        """What the board calls it."""
        return self.label or default_label(self.ref, self.preset)


class MetricFile(_Named):
    """A metric, where it looks, with what network, and (set metrics) against which of the ``references``."""

    ref: str = Field(min_length=1)
    label: str | None = None
    view: str | None = None
    extractor: str | None = None
    reference: str | None = None
    set: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """What the board calls it."""
        return self.label or default_label(self.ref, None)


class ReferenceFile(_Named):
    """A reference set (bench.references, bench.natives). A ``planned`` folder is one that users fill themselves."""

    kind: Literal["world", "folder", "native"]
    width: Side | None = None
    count: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    prompts: str | None = None
    seed: Annotated[int, Field(ge=0, le=MOST - 1_000_000)] | None = None  # and one more for each picture
    loop: bool | None = None
    path: str | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The specification as :func:`bench.references.load_reference` takes it."""
        return self.model_dump(exclude_none=True, exclude={"planned", "note"})


def _first(seeds: Any) -> Any:
    return list(range(min(seeds, MOST_SEEDS + 1))) if type(seeds) is int else seeds


# 500 is short for 0 to 499.
Seeds = Annotated[list[Seed], BeforeValidator(_first), Field(min_length=1, max_length=MOST_SEEDS)]


class MiniatureFile(_Table):
    """How a suite of tier full runs on the embedded miniature (bench.suite_miniature).

    ``scale`` divides sides of canvases and views. ``backbones`` are stand-ins for those that methods name themselves.
    ``metrics`` and ``references`` replace the suite's; without metrics its own look through the tier's networks.
    """

    scale: int = Field(gt=0)
    backbone: str = "world-sd"
    backbones: dict[str, str] = {}
    seeds: Seeds | None = None
    defaults: dict[str, Any] = {}
    metrics: list[MetricFile] = []
    references: dict[str, ReferenceFile] = {}


class GateFile(_Table):
    """Margins of gates (bench.gate): the loss in each number, in its unit, that still passes; measured by calibrate."""

    margins: dict[str, Annotated[float, Field(ge=0)]] = {}


class SuiteFile(_Table):
    """A suite as it is written. ``defaults`` are knobs for every method that has them and runs on ``backbone``.

    ``protocol`` names a preset (bench.protocols) whose metrics and references come before the suite's own.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(min_length=1)
    tier: Tier
    title: str = ""
    seeds: Seeds = [0]
    backbone: str | None = None
    backbone_options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    parts: list[PartFile] = Field(min_length=1)
    methods: list[MethodFile] = []
    protocol: str | None = None
    metrics: list[MetricFile] = []
    references: dict[str, ReferenceFile] = {}
    miniature: MiniatureFile | None = None
    gate: GateFile = GateFile()


_TABLES: dict[str, type[BaseModel]] = {
    "parts": PartFile, "methods": MethodFile, "metrics": MetricFile, "references": ReferenceFile,
    "miniature": MiniatureFile, "gate": GateFile,
}  # fmt: skip


def read_suite(file: Path) -> SuiteFile:
    """Read and check a suite file; relative paths in it come back anchored at its folder.

    Raises:
        UsageError: an unreadable file, or wrong keys and values, each with file, key and near misses.
    """
    try:
        spec = SuiteFile.model_validate(read_toml(file, "suite"))
    except ValidationError as error:
        raise UsageError("\n".join(f"{file}: {_explain(e)}" for e in error.errors())) from error
    spec = _anchored(_with_protocol(spec, file), file.parent)
    _check(spec, file)
    return spec


def _with_protocol(spec: SuiteFile, file: Path) -> SuiteFile:
    """The suite with the metrics and references of its protocol before its own."""
    from bench.protocols import load_protocol  # protocols are written with the tables above

    if spec.protocol is None:
        return spec
    try:
        preset = load_protocol(spec.protocol)
    except UsageError as error:
        raise UsageError(f"{file}: protocol: {error}") from error
    metrics = [MetricFile.model_validate(m) for m in preset.metrics]
    references = {name: ReferenceFile.model_validate(r) for name, r in preset.references.items()}
    return spec.model_copy(
        update={"metrics": [*metrics, *spec.metrics], "references": {**references, **spec.references}}
    )


def _explain(error: Mapping[str, Any]) -> str:
    """``methods[1].preste: unknown key; did you mean 'preset'?``"""
    where = error["loc"]
    key = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in where).lstrip(".")
    if error["type"] == "extra_forbidden":
        tables = [_TABLES[k] for k in where[:-1] if k in _TABLES]  # the innermost one holds the key
        known = (tables[-1] if tables else SuiteFile).model_fields
        return f"{key}: unknown key; {near(str(where[-1]), known)}"
    if error["type"] == "missing":
        return f"{key}: missing; expected a value"
    return f"{key}: {error['msg'][:1].lower()}{error['msg'][1:]}, got {shown(error['input'])}"


def _anchored(spec: SuiteFile, folder: Path) -> SuiteFile:
    """Relative paths written in a suite are meant from its folder."""

    def ref(text: str) -> str:
        file, at, name = text.rpartition("@")
        return f"{folder / file}@{name}" if at and file.endswith(".py") else text

    def path(text: str | None) -> str | None:
        return str(folder / Path(text).expanduser()) if text else text

    def looked(table: SuiteFile | MiniatureFile) -> dict[str, Any]:
        return {
            "metrics": [m.model_copy(update={"ref": ref(m.ref)}) for m in table.metrics],
            "references": {n: r.model_copy(update={"path": path(r.path)}) for n, r in table.references.items()},
        }

    small = spec.miniature
    if small is not None:
        stand_ins = {"backbone": ref(small.backbone), "backbones": {k: ref(v) for k, v in small.backbones.items()}}
        small = small.model_copy(update={**looked(small), **stand_ins})
    return spec.model_copy(
        update={
            "backbone": ref(spec.backbone) if spec.backbone else None,
            "methods": [
                m.model_copy(update={"ref": ref(m.ref), "backbone": ref(m.backbone) if m.backbone else None})
                for m in spec.methods
            ],
            "miniature": small,
            **looked(spec),
        }
    )


def _check(spec: SuiteFile, file: Path) -> None:
    """What one table must know of another, whatever a command changes later."""
    if spec.miniature is not None and spec.tier == "miniature":
        raise UsageError(f"{file}: miniature: this table shows how a suite of tier full gets there; the tier is given")
    small = spec.miniature.metrics if spec.miniature else []
    tables: dict[str, Sequence[MethodFile | MetricFile]] = {
        "methods": spec.methods, "metrics": spec.metrics, "miniature.metrics": small,
    }  # fmt: skip
    for table, entries in tables.items():
        for i, m in enumerate(entries):
            if m.planned and ".py@" in m.ref:
                raise UsageError(f"{file}: {table}[{i}].planned: only names can be planned, {m.ref!r} is a file")
            known = spec.miniature.references if spec.miniature and table != "metrics" else spec.references
            if isinstance(m, MetricFile) and m.reference is not None and m.reference not in known:
                raise UsageError(f"{file}: {table}[{i}].reference: unknown {m.reference!r}; {near(m.reference, known)}")


def check_labels(spec: SuiteFile, file: Path) -> None:
    """Refuse two entries of one table under one name."""
    names = {
        "parts": [p.name for p in spec.parts],
        "methods": [m.name for m in spec.methods],
        "metrics": [m.name for m in spec.metrics],
    }
    for table, used in names.items():
        for i, name in enumerate(used):
            if name in used[:i]:
                hint = "part names must differ" if table == "parts" else "give one of them another label"
                raise UsageError(f"{file}: {table}[{i}]: {name!r} is there twice; {hint}")


def default_label(ref: str, preset: str | None) -> str:
    """Name on the board: the reference, of a file only its last part, and the preset."""
    path, at, name = ref.rpartition("@")
    plain = f"{Path(path).name}@{name}" if at and path.endswith(".py") else ref
    return f"{plain}:{preset}" if preset else plain
