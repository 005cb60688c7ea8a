"""The board of a suite to take along: Markdown, CSV, LaTeX or a page of HTML, with intervals and tie groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis.board import ARROWS, NO_BACKBONE, Line, Section, Spot
from bench.analysis.columns import Column
from bench.suites.uses import NEEDS_PHOTOGRAPHS

if TYPE_CHECKING:
    from bench.suites.suite import Suite

WEIGHTS = Path(__file__).parents[1] / "world" / "weights"

# -- what is said


def heading(column: Column) -> str:
    """Name and direction, and the unit where the name does not say it."""
    unit = f" ({column.unit})" if column.unit and column.label == "seconds" else ""
    return f"{column.label}{unit} {ARROWS.get(column.direction, '')}".strip()


def looks(column: Column) -> str:
    """What a column looks at: network, view, reference, and the share of pixels seen where it is not all."""
    seen = f"sees {100 * column.seen:.0f} %" if column.seen is not None and column.seen < 0.995 else ""
    against = f"against {column.reference}" if column.reference else ""
    return ", ".join(filter(None, (column.extractor, column.view, against, seen)))


def notes(suite: Suite, found: Sequence[Section]) -> list[str]:
    """What the marks mean, as far as they occur, and what is not here."""
    rows = [row for s in found for row in s.rows]
    spots = [spot for row in rows for spot in row.spots.values()]
    said = []
    if suite.tier == "miniature":
        said.append("tier miniature: tiny stand-in networks on ScrollWorld; never compare with numbers of tier full")
    backbones = dict.fromkeys(s.backbone for s in found)
    said += [f"{name} misses the miniature's gate: {why}" for name in backbones if (why := _missed(name))]
    if len(backbones.keys() - {NO_BACKBONE}) > 1:
        said.append("compare methods within their backbone: another network is another comparison")
    if prompts := sorted({spot.prompts for spot in spots if spot.prompts}):
        said.append(_certainty(prompts, len(suite.seeds)))
    if any(spot.group for spot in spots):
        lettered = [s for s in found if any(spot.group for row in s.rows for spot in row.spots.values())]
        families = dict.fromkeys(s.family.text for s in lettered)
        said.append(
            "letters: two methods that share one are not told apart (paired by prompt; 5 % for all of "
            f"{'; '.join(families)}); 1-2 the ranks that are possible; bold: nobody is shown to be better"
        )
    for s in found:
        if s.mute and prompts and prompts[-1] > 1:
            said.append(
                f"{_where(s, found)}no letters and ranks: so few prompts could tell nothing among {s.family.text}; "
                f"{s.family.least} prompts could"
            )
    if any(spot.prompts > 1 and spot.low is None for spot in spots):
        said.append("no interval: too few prompts differ from the others to tell (cannot be told at this n)")
    if any(row.line.control for row in rows):
        said.append("controls are made from the known truth to show what metrics see; they are not ranked")
    if what := sorted({w for row in rows for w in row.line.optimises}):
        said.append(f"† descends on {', '.join(what)} while sampling; not ranked")
    if any(row.adopted for row in rows):
        said.append("‡ made elsewhere and brought in; costs unknown")
    if any(row.lossy for row in rows):
        said.append("§ from files with lossy compression, or resized")
    if any(row.untidy for row in rows):
        said.append(
            "¶ the sampler left its backbone or settings changed; both were as they should be before each picture"
        )
    if any(spot.missing for spot in spots):
        said.append("* some pictures or scores are missing; not ranked")
    said += _doubts(suite, found)
    for kind in ("method", "metric", "reference"):
        absent = [u for u in suite.unavailable if u.kind == kind]
        if bring := [u.label for u in absent if u.reason.startswith(NEEDS_PHOTOGRAPHS)]:
            said.append(f"needs photographs (`scrollbench list references`): {', '.join(bring)}")
        if others := [u.label for u in absent if u.label not in bring]:
            said.append(f"{kind}s the suite names that are not here: {', '.join(others)}")
    return said


def _missed(network: str) -> str:
    """What a network of the miniature lacks to pass its gate, by its card; empty for one that passes, or another's."""
    card = WEIGHTS / network / "card.json"
    return str(json.loads(card.read_text(encoding="utf-8")).get("missed", "")) if card.is_file() else ""


def _where(s: Section, found: Sequence[Section]) -> str:
    return f"{s.part}, {s.backbone}: " if len(found) > 1 else ""


def standing(spot: Spot) -> str:
    """Letters and possible ranks: ``ab 1-3``."""
    if not spot.group or spot.ranks is None:
        return spot.group
    low, high = spot.ranks
    return f"{spot.group} {low}" + (f"-{high}" if high > low else "")


def _doubts(suite: Suite, found: Sequence[Section]) -> list[str]:
    """Where the records do not say one thing, and the command after which they do."""
    lines = [row.line for s in found for row in s.rows]
    said = []
    if contested := sum(line.contested for line in lines):
        said.append(
            f"{contested} pictures: merged records say two things of them, and one was chosen; "
            f"`scrollbench run {suite.command}` settles it"
        )
    if mixed := sorted({f"{line.method} ({line.samplers})" for line in lines if line.samplers > 1}):
        said.append(
            f"pictures of several versions of a method: {', '.join(mixed)}; `scrollbench run {suite.command}` "
            "makes them of one"
        )
    if others := {c.label: c.left_out for s in found for c in s.columns if c.left_out}:
        counts = ", ".join(f"{label} ({n})" for label, n in others.items())
        said.append(
            "left out are scores by another source or version of the metric, other weights or another reference: "
            f"{counts}; `scrollbench score {suite.command}` scores all in one way"
        )
    return said


def _certainty(prompts: Sequence[int], seeds: int) -> str:
    if prompts[-1] == 1:
        return "one prompt: no intervals and no ranks, both need several"
    over = f"{prompts[0]} to {prompts[-1]}" if prompts[0] < prompts[-1] else f"{prompts[0]}"
    each = f"each the mean of {seeds} seeds" if seeds > 1 else "at one seed; the spread between seeds is unknown"
    return f"intervals: 95 % of the mean over {over} prompts, {each}"


def coverage(line: Line) -> str:
    """Pictures made of those wanted."""
    return f"{line.made}/{line.wanted}" + (f", {line.failed} failed" if line.failed else "")


def title(suite: Suite) -> str:
    """One line that says which board this is."""
    return f"{suite.ref}: {suite.title}" if suite.title else suite.ref


def subtitle(suite: Suite) -> str:
    """Tier and identity: boards with another one must not be compared."""
    return f"tier {suite.tier}, suite {suite.digest[:8]}"


def columns(found: Sequence[Section]) -> list[Column]:
    """The columns of all sections, each once."""
    return list({c.label: c for s in found for c in s.columns}.values())


CSV = ("suite", "suite_digest", "tier", "part", "backbone", "method", "control", "optimises", "adopted", "lossy",
       "wanted", "made", "failed", "column", "direction", "unit", "extractor", "view", "reference", "seen", "value",
       "low", "high", "group", "rank_low", "rank_high", "n", "missing")  # fmt: skip


def records(suite: Suite, found: Sequence[Section]) -> list[dict[str, Any]]:
    """The board as flat records, one for each number, with the columns of ``CSV``."""
    made = []
    for s in found:
        for row in s.rows:
            for c in s.columns:
                spot, line = row.spots.get(c.label), row.line
                low, high = spot.ranks if spot and spot.ranks else (None, None)
                values = (
                    suite.ref, suite.digest, suite.tier, s.part, s.backbone, line.method, line.control,
                    " ".join(line.optimises), row.adopted, row.lossy, line.wanted, line.made, line.failed, c.label,
                    c.direction, c.unit, c.extractor, c.view, c.reference, c.seen,
                    *((spot.value, spot.low, spot.high, spot.group) if spot else (None, None, None, "")), low, high,
                    *((spot.n, spot.missing) if spot else (0, None)),
                )  # fmt: skip
                made.append(dict(zip(CSV, values)))
    return made


def number(value: float) -> str:
    """Three significant digits, at most four decimals; whole numbers and thousands written out.

    What four decimals would show as 0 is written as a power of ten, and so is what has no place in a column.
    """
    if value and not 5e-5 <= abs(value) < 1e7:
        return f"{value:.2e}"
    if value == round(value):
        return str(round(value))
    exponent = int(f"{value:e}".partition("e")[2])
    return f"{value:.{max(0, min(4, 2 - exponent))}f}"
