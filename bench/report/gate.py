"""A gate's result for machines and for people: JUnit XML, Markdown, JSON, and the TOML of files that are reviewed."""

from __future__ import annotations

import math
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from bench.reading import visible

if TYPE_CHECKING:
    from bench.analysis.gate import GateResult, Judgement, Place
    from bench.analysis.samplers import Degenerate

MARKS = {"pass": "✅", "regressed": "❌", "inconclusive": "❔", "incomplete": "⭕"}


def rows(result: GateResult) -> list[dict[str, Any]]:
    """A line for each number, for a table; ``low`` and ``high`` are one-sided 95 % bounds of the gain."""
    several = len({c.comparison.part for c in result.checks}) > 1
    lines = [
        {
            **({"part": c.comparison.part} if several else {}), "number": c.name, "baseline": c.comparison.a,
            "candidate": c.comparison.b, "gain": c.comparison.gain and c.comparison.gain.value, "low": _finite(c.low),
            "high": _finite(c.high), "margin": c.margin, "verdict": c.verdict,
            "n": c.comparison.gain.n if c.comparison.gain else 0,
        }
        for c in result.checks
    ]  # fmt: skip
    if e := result.empty:
        lines.append({
            "number": "empty pictures", "baseline": e.baseline, "candidate": e.candidate,
            "gain": e.baseline - e.candidate, "margin": 0, "verdict": e.verdict, "n": e.pictures[1],
        })  # fmt: skip
    if s := result.speed:
        lines.append({
            "number": "speed (s)", "baseline": s.baseline, "candidate": s.candidate, "gain": 1 - s.ratio,
            "low": 1 - s.high, "high": 1 - s.low, "margin": s.limit - 1, "verdict": s.verdict, "n": s.n,
        })  # fmt: skip
    return lines


def table(result: GateResult) -> list[dict[str, Any]]:
    """The lines for a terminal, numbers to four digits."""
    return [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows(result)]


def failures(result: GateResult) -> list[str]:
    """What did not pass, and where, in words: a line each, with indented lines of places."""
    lines = []
    for c in result.checks:
        if c.verdict != "pass":
            lines.append(f"{c.verdict}: {c.message}")
            lines += [f"    {place(p)}" for p in c.places]
    if (e := result.empty) and e.verdict != "pass":
        lines += [f"{e.verdict}: {e.message}", *(f"    {line}" for line in _empty(e))]
    if result.speed and result.speed.verdict != "pass":
        lines.append(f"{result.speed.verdict}: {result.speed.message}")
    return lines


def place(p: Place) -> str:
    """``sea-07: 0.41 -> 0.52, most at view 3 of 8: PATH``; views are counted from 1."""
    at = f", most at view {p.view + 1} of {p.views} from the left" if p.view is not None else ""
    return f"{p.prompt_id}: {p.baseline:.4g} -> {p.candidate:.4g}{at}" + (f": {p.picture}" if p.picture else "")


def _empty(e: Degenerate) -> list[str]:
    return [f"{prompt}: {why}: {picture}" for _, prompt, why, picture in e.worst]


def data(result: GateResult) -> dict[str, Any]:
    """Everything as JSON."""
    sides = {
        name: {"label": side.name, "digest": side.digest, "made": made}
        for name, side, made in zip(
            ("baseline", "candidate"), (result.report.a, result.report.b), result.report.made, strict=True
        )
    }
    return {
        "verdict": result.verdict, "exit_code": result.exit_code, "suite": result.suite,
        "suite_digest": result.suite_digest, **sides, "pictures": result.report.cells, "equal": result.report.equal,
        "notes": list(result.notes), "checks": [_check(c) for c in result.checks],
        "empty": {**asdict(result.empty), "verdict": result.empty.verdict} if result.empty else None,
        "speed": asdict(result.speed) if result.speed else None,
    }  # fmt: skip


def _check(c: Judgement) -> dict[str, Any]:
    found = c.comparison
    return {
        "part": found.part, "number": c.name, "direction": found.measure.direction, "unit": found.measure.unit,
        "baseline": found.a, "candidate": found.b, "gain": found.gain and found.gain.value, "low": _finite(c.low),
        "high": _finite(c.high), "margin": c.margin, "n": found.gain.n if found.gain else 0,
        "p": found.gain and found.gain.p, "p_corrected": found.adjusted,
        "detectable": _finite(found.detectable), "missing": list(found.missing), "unpaired": found.unpaired,
        "verdict": c.verdict, "message": c.message, "worst": [asdict(p) for p in c.places],
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def markdown(result: GateResult) -> str:
    """A summary for a pull request."""
    base, new = result.report.a, result.report.b
    head = f"## {MARKS[result.verdict]} {result.verdict}: {_plain(new.name)} against {_plain(base.name)}"
    lines = [
        head, "",
        f"{_sources(result)}. Gains are positive where the candidate is better (of numbers without better and worse: "
        "where it has more); bounds are one-sided, 95 %.", "",
    ]  # fmt: skip
    table = rows(result)
    if table:
        names = list(dict.fromkeys(name for row in table for name in row))
        lines += ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
        lines += ["| " + " | ".join(_cell(name, row.get(name)) for name in names) + " |" for row in table]
    if said := failures(result):
        lines += ["", *(f"{'  ' if s.startswith(' ') else ''}- {_plain(s.strip())}" for s in said)]
    lines += ["", *(f"> {_plain(note)}" for note in result.notes)] if result.notes else []
    return "\n".join(lines) + "\n"


def _sources(result: GateResult) -> str:
    if not result.suite_digest:
        return f"Scores of {_plain(result.suite)}"
    base, new = result.report.a, result.report.b
    return (
        f"Suite {result.suite} (`{result.suite_digest[:8]}`), baseline `{base.digest[:8]}`, candidate "
        f"`{new.digest[:8]}`"
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{MARKS[value]} {value}" if name == "verdict" else _plain(str(value))


def _plain(text: str) -> str:
    text = escape(visible(" ".join(text.split())), quote=False)
    for mark in ("\\", "`", "*", "_", "[", "|"):
        text = text.replace(mark, "\\" + mark)
    return text


def junit(result: GateResult) -> str:
    """JUnit XML: a test case for each number. Regressed is a failure; inconclusive and incomplete are errors."""
    from xml.etree import ElementTree

    cases = [(c.comparison.part, c.name, c.verdict, c.message, "\n".join(map(place, c.places))) for c in result.checks]
    if e := result.empty:
        cases.append(("pictures", "empty pictures", e.verdict, e.message, "\n".join(_empty(e))))
    if s := result.speed:
        cases.append(("speed", "seconds", s.verdict, s.message, ""))
    failed = sum(verdict == "regressed" for *_, verdict, _, _ in cases)
    errors = sum(verdict in ("inconclusive", "incomplete") for *_, verdict, _, _ in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": str(errors)}
    name = f"{result.suite}: {result.report.b.name} against {result.report.a.name}"
    root = ElementTree.Element("testsuites", {"name": "scrollbench gate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(name), **counts})
    for part, number, verdict, message, places in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"{result.suite}.{part}", "name": number})
        if verdict != "pass":
            kind = "failure" if verdict == "regressed" else "error"
            mark = ElementTree.SubElement(case, kind, {"type": verdict, "message": _xml(message)})
            mark.text = _xml(places)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """Without the characters that XML 1.0 has no way to write."""
    return "".join(c for c in text if c in "\t\n\r" or ord(c) >= 0x20)
