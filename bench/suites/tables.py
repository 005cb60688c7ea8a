"""The tables of suite files, as pydantic checks them; protocols are written with the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bench.errors import near
from bench.reading import MOST, shown

Tier = Literal["miniature", "full"]  # they never share a board
TIERS: tuple[str, ...] = get_args(Tier)
MOST_SEEDS = 100_000  # of one suite
Side = Annotated[int, Field(gt=0, lt=2**31)]  # pixels; PNG knows no longer one
Seed = Annotated[int, Field(ge=0, le=MOST)]


class StrictTable(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PartFile(StrictTable):
    """A canvas and the prompts to draw on it. ``prompts`` is a selection (bench.prompts) or a ``.jsonl`` file."""

    name: str = Field(min_length=1)
    width: Side
    height: Side
    loop: bool = False
    prompts: str = Field(min_length=1)


class _Named(StrictTable):
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
    """A reference set (bench.pipeline.references, bench.suites.natives). A ``planned`` folder is one that users fill
    themselves; with ``photographs``, which says how many, how large and from where, by real ones that no run can make.
    """

    kind: Literal["world", "folder", "native"]
    width: Side | None = None
    count: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    prompts: str | None = None
    seed: Annotated[int, Field(ge=0, le=MOST - 1_000_000)] | None = None  # and one more for each picture
    loop: bool | None = None
    path: str | None = None
    photographs: str | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The specification as :func:`bench.pipeline.references.load_reference` takes it."""
        return self.model_dump(exclude_none=True, exclude={"planned", "note", "photographs"})


def _first(seeds: Any) -> Any:
    return list(range(min(seeds, MOST_SEEDS + 1))) if type(seeds) is int else seeds


# 500 is short for 0 to 499.
Seeds = Annotated[list[Seed], BeforeValidator(_first), Field(min_length=1, max_length=MOST_SEEDS)]


class MiniatureFile(StrictTable):
    """How a suite of tier full runs on the embedded miniature (bench.suites.miniature).

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


class GateFile(StrictTable):
    """Margins of gates (bench.analysis.gate): the loss in each number, in its unit, that still passes; measured by
    calibrate."""

    margins: dict[str, Annotated[float, Field(ge=0)]] = {}


class SuiteFile(StrictTable):
    """A suite as it is written. ``defaults`` are knobs for every method that has them and runs on ``backbone``.

    ``protocol`` names a preset (bench.suites.protocols) whose metrics and references come before the suite's own.
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


def explain(error: Mapping[str, Any]) -> str:
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


def default_label(ref: str, preset: str | None) -> str:
    """Name on the board: the reference, of a file only its last part, and the preset."""
    path, at, name = ref.rpartition("@")
    plain = f"{Path(path).name}@{name}" if at and path.endswith(".py") else ref
    return f"{plain}:{preset}" if preset else plain
