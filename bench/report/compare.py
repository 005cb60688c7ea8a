"""A comparison of two methods, as it is printed: with as many digits as its interval bears out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.analysis.compare import names, rows
from bench.report.wording import number

if TYPE_CHECKING:
    from bench.analysis.compare import Comparison, Report


def table(report: Report) -> list[dict[str, object]]:
    """A line for each comparison, as text where it is a number."""
    both = names(report)
    said = []
    for c, row in zip(report.comparisons, rows(report), strict=True):
        line: dict[str, object] = dict(row)
        for key in (*both, "gain", "low", "high"):
            line[key] = _digits(row[key], c)
        for key, value in row.items():
            if key in ("p", "corrected") and value is not None:
                line[key] = f"{value:.2g}"
            elif key == "detects" and value is not None:
                line[key] = number(value)
        said.append(line)
    return said


def _digits(value: float | None, c: Comparison) -> str | None:
    """Two digits of the interval's half width decide how many decimals all of a line have."""
    if value is None:
        return None
    half = (c.gain.high - c.gain.low) / 2 if c.gain else 0.0
    if not half or not math.isfinite(half):
        return number(value)
    decimals = 1 - math.floor(math.log10(half))
    return f"{value:.{decimals}f}" if 0 <= decimals <= 6 else number(value)


def lines(report: Report, worst: int) -> Iterator[str]:
    """What the table does not say: pictures, what words mean, what is missing, where it got worse."""
    old, new = report.a.name, report.b.name
    made = ", ".join(f"{side.name}: {n}" for side, n in zip((report.a, report.b), report.made))
    equal = f"; equal in both: {report.equal}" if report.of == "pictures" else ""
    yield f"{report.of} of {report.cells}: {made}{equal}"
    together = next((c.family.text for c in report.comparisons), "")
    yield f"gain: positive where {new} is better, with its 95 % interval"
    yield f"corrected: p for all that is compared together ({together}), whatever was asked for"
    yield "detects: the smallest true difference that so many prompts would show, with power 80 %"
    for c in report.comparisons:
        name = c.measure.name
        if c.note:
            yield f"{name}: {c.note}"
        if c.gain and c.gain.n < c.family.least:
            yield f"{name}: {c.gain.n} prompts could show nothing; {c.family.least} could"
        if any(c.missing):
            yield f"{name}: missing on {c.missing[0]} {report.of} of {old}, {c.missing[1]} of {new}"
        if c.said == "worse":
            for p in c.losses[:worst]:
                yield f"{name} worst on {p.prompt_id}: {p.a:.4g} -> {p.b:.4g}"
                if p.picture_a and p.picture_b:
                    yield f"    {old}: {p.picture_a}"
                    yield f"    {new}: {p.picture_b}"
