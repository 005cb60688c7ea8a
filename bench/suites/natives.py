"""Native squares: what a suite's own backbone makes at the size it was trained for, as reference sets of the suite.

A reference of kind ``native`` holds one picture for every prompt and seed of the suite, by the method ``direct`` with
the suite's defaults. They are planned, forecast and made like other pictures, and stand on no board: their cells belong
to a suite of their own, ``SUITE-REFERENCE``. One that is named ``base-BACKBONE`` is the base of relative-fid.
"""

from __future__ import annotations

from dataclasses import replace

from bench.errors import UsageError
from bench.registry import find
from bench.suites.suite import Suite
from bench.suites.tables import MethodFile
from bench.types import Canvas

METHOD = "direct"


def natives(suite: Suite) -> dict[str, Suite]:
    """The references of kind ``native`` by name, each as the suite that its pictures belong to.

    Raises:
        UsageError: a reference without a ``width``, the side of the squares.
    """
    made = {}
    for name, r in suite.spec.references.items():
        if r.kind != "native":
            continue
        if r.width is None:
            raise UsageError(f"{suite.file}: references.{name}.width: missing; expected the side of a native square")
        defaults = {k: v for k, v in suite.spec.defaults.items() if k in find("methods", METHOD).params}
        methods = [MethodFile(ref=METHOD, label=name, set=defaults)]
        spec = suite.spec.model_copy(update={"defaults": {}, "methods": methods, "metrics": [], "references": {}})
        parts = tuple(replace(p, canvas=Canvas(r.width, r.width)) for p in suite.parts)
        made[name] = replace(
            suite, name=f"{suite.name}-{name}", title=f"{suite.title}: reference {name}", parts=parts, references={},
            spec=spec, knobs=(), left_out=(),
        )  # fmt: skip
    return made


def drawn(suite: Suite) -> tuple[Suite, ...]:
    """The suite, and its native squares where any of its methods runs on the backbone that makes them."""
    wanted = any(m.backbone is not None and m.backbone == suite.backbone for m in suite.methods)
    return (suite, *(natives(suite).values() if wanted else ()))
