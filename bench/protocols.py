"""Protocol presets: a paper's evaluation as data, each field of it stated by the paper or assumed with a reason.

A protocol is a TOML file of ``[[metrics]]`` and ``[references]`` as suites have them. Every entry of a preset says its
view, extractor, reference and changed knobs: nothing is left to defaults that may move. What the paper does not say
stands in the entry's ``assumed``, field by field; what is not in ``assumed`` is stated in ``source``. ``left_out`` are
the paper's columns that cannot be had here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from bench.errors import UsageError, near
from bench.reading import is_file, read_toml, shown
from bench.suite_file import MetricFile, ReferenceFile, _explain, _Table

FOLDER = Path(__file__).with_suffix("")


@dataclass(frozen=True)
class Protocol:
    """How a paper measures.

    Attributes:
        name, title, source: what it is called, what it looks at, where that is said.
        metrics: entries of a suite's ``[[metrics]]``.
        references: entries of a suite's ``[references]``; folders that users fill are ``planned``.
        assumed: entry's name on the board -> field -> why that, where the paper is silent.
        left_out: the paper's columns that are not among the metrics, and why.
    """

    name: str
    title: str
    source: str
    metrics: list[dict[str, Any]]
    references: dict[str, dict[str, Any]]
    assumed: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]


class _Entry(MetricFile):
    assumed: dict[str, str] = Field(default_factory=dict)


class _ProtocolFile(_Table):
    name: str
    title: str
    source: str
    metrics: list[_Entry] = Field(min_length=1)
    references: dict[str, ReferenceFile] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


def protocols() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def load_protocol(name: str | Path) -> Protocol:
    """A preset by its name, or any protocol by the path of its TOML file.

    Raises:
        UsageError: an unknown name or unreadable file; wrong keys or values; two entries of one name; an entry that
            assumes a field it does not give, or names a reference that the file does not define.
    """
    file = Path(name) if str(name).endswith(".toml") else FOLDER / f"{name}.toml"
    if file.parent == FOLDER and not is_file(file):
        raise UsageError(f"unknown protocol {shown(name)}; {near(str(name), protocols())}")
    try:
        spec = _ProtocolFile.model_validate(read_toml(file, "protocol"))
    except ValidationError as error:
        raise UsageError("\n".join(f"{file}: {_explain(e)}" for e in error.errors())) from error
    _check(spec, file)
    return Protocol(
        spec.name, spec.title, spec.source,
        [m.model_dump(exclude_unset=True, exclude={"assumed"}) for m in spec.metrics],
        {n: r.model_dump(exclude_unset=True) for n, r in spec.references.items()},
        {m.name: m.assumed for m in spec.metrics if m.assumed}, spec.left_out,
    )  # fmt: skip


def _check(spec: _ProtocolFile, file: Path) -> None:
    names = [m.name for m in spec.metrics]
    for i, m in enumerate(spec.metrics):
        if m.name in names[:i]:
            raise UsageError(f"{file}: metrics[{i}]: {m.name!r} is there twice; give one of them another label")
        for field in m.assumed:
            if field not in m.model_fields_set - {"assumed"}:
                raise UsageError(f"{file}: metrics[{i}].assumed.{field}: the entry does not give {field!r}")
        if m.view is None:
            raise UsageError(f"{file}: metrics[{i}].view: missing; a protocol says where its metrics look")
        if m.reference is not None and m.reference not in spec.references:
            known = near(m.reference, spec.references)
            raise UsageError(f"{file}: metrics[{i}].reference: unknown {m.reference!r}; {known}")
