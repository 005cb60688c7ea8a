"""What all verbs of the command line share: how they are declared, chosen for, and how they speak."""

from __future__ import annotations

import json as jsonlib
import re
import shutil
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from bench.cli.reporter import Reporter
from bench.errors import Exit, IncompleteError, PrerequisiteError, ScrollBenchError, text_of
from bench.reading import visible

if TYPE_CHECKING:
    from rich.console import Group

    from bench.analysis.board import Board
    from bench.analysis.votes import Verdict
    from bench.pipeline.generate import RunResult
    from bench.pipeline.plan import Plan
    from bench.pipeline.score_plan import ScoreResult


# What typer leaves by, or prints: of the click that it brings or finds.
LEAVING: tuple[type[BaseException], ...] = (
    typer.Exit,
    *(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"),
)
NARROW = 8  # characters that a column keeps
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?", re.ASCII)


# The verbs by what they are for, in the order of the help; one that is not named here comes last.
PANELS = {
    "Run and read": ("run", "board", "report", "sql", "curves", "start"),
    "Judge": ("compare", "gate", "reproduce", "calibrate", "calibrate-gsd", "votes", "preferences"),
    "Your own": ("check", "adopt", "new", "measure", "prompts"),
    "Look": ("doctor", "list", "show", "plan"),
    "Step by step": ("generate", "score", "train", "weights", "world", "store"),
}


class _Group(TyperGroup):
    """Prints errors a user can act on in plain words and leaves with their exit code (:class:`bench.errors.Exit`).

    Whatever else goes wrong is a fault of this project: its traceback is shown, and its code is no verdict's.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for names in PANELS.values() for name in names] if ctx.parent is None else []
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        panel = next((title for title, names in PANELS.items() if cmd_name in names), None)
        if command is not None and ctx.parent is None and panel:
            command.rich_help_panel = panel  # type: ignore[attr-defined]
        return command

    def invoke(self, ctx: Any) -> Any:
        json = "--json" in [*getattr(ctx, "_protected_args", ()), *ctx.args]
        _EMITTED.clear()
        try:
            return super().invoke(ctx)
        except ScrollBenchError as error:
            note(f"scrollbench: {error}")
            _fail(json, error.exit_code, str(error))
            raise typer.Exit(error.exit_code) from error
        except typer.Exit:
            raise
        except LEAVING as error:  # a wrong option, which is printed outside
            _fail(json, Exit.USAGE, getattr(error, "message", str(error)))
            raise
        except (KeyboardInterrupt, typer.Abort) as error:
            note("scrollbench: stopped; what was made is kept, and the same command goes on")
            _fail(json, Exit.INTERRUPTED, "stopped")
            raise typer.Exit(Exit.INTERRUPTED) from error
        except BrokenPipeError as error:
            raise typer.Exit(Exit.INTERRUPTED) from error
        except Exception as error:
            note(traceback.format_exc())
            note("scrollbench: this is a fault of ScrollBench and says nothing about what it was asked to judge")
            _fail(json, Exit.CRASHED, f"{type(error).__name__}: {text_of(error)}")
            raise typer.Exit(Exit.CRASHED) from error


class App(typer.Typer):
    """A Typer app whose every verb ends its help with an example that runs."""

    def __init__(self, name: str, text: str, example: str) -> None:
        super().__init__(
            name=name,
            help=text,
            epilog=f"Example: {example}",
            cls=_Group,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode="rich",
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def verb(self, example: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Declare a verb. Its help is the docstring; its name, unless given, the function's."""
        return self.command(name, epilog=f"Example: {example}")


# -- speaking: data on stdout, the rest on stderr


def note(text: str) -> None:
    """A sentence on stderr."""
    typer.echo(visible(text), err=True)


def say(text: str, bold: bool = False) -> None:
    """A line of data on stdout."""
    typer.echo(typer.style(visible(text), bold=True) if bold else visible(text))


_EMITTED: list[bool] = []  # whether this command has put its JSON on stdout


def _fail(json: bool, code: int, said: str) -> None:
    """What went wrong as JSON, unless stdout has JSON already: a result says itself what it lacks."""
    if json and not _EMITTED:
        emit({"error": said, "exit_code": int(code)})


def emit(data: Any) -> None:
    """JSON on stdout. What JSON does not know (dates, paths) is written as text."""
    _EMITTED.append(True)
    text = jsonlib.dumps(data, indent=1, ensure_ascii=False, default=str)
    typer.echo(re.sub("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", lambda c: f"\\u{ord(c[0]):04x}", text))


def width() -> int:
    """Columns to write for: the terminal's up to 160, and 120 where there is none."""
    return min(160, shutil.get_terminal_size((120, 40)).columns)


def show(board: Group) -> None:
    """A board on stdout."""
    from rich.console import Console

    Console(width=width(), highlight=False).print(board)


def records(
    rows: Sequence[Mapping[str, Any]], json: bool, columns: Sequence[str] | None = None, room: int | None = None
) -> None:
    """Rows as a table, or as JSON.

    Cells are broken into lines where the table shall fit ``room`` columns. Else columns that a terminal has no room
    for stand below the others, behind the first column again; where there is no terminal the table is as wide as it is.
    """
    if json:
        emit([dict(row) for row in rows])
        return
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    numeric = [all(_numeric(row.get(n)) for row in rows) for n in names]
    rooms = [max(len(line[i]) for line in lines) for i in range(len(names))]
    while room and sum(rooms) + 2 * (len(rooms) - 1) > room and max(rooms) > NARROW:
        rooms[rooms.index(max(rooms))] -= 1
    for block, columns_of in enumerate(_blocks(rooms, shutil.get_terminal_size((sys.maxsize, 0)).columns)):
        if block:
            say("")
        for number, line in enumerate(lines):
            broken = [textwrap.wrap(line[i], rooms[i]) or [""] for i in columns_of]
            for part in zip_longest(*broken, fillvalue=""):
                cells = [c.rjust(rooms[i]) if numeric[i] else c.ljust(rooms[i]) for c, i in zip(part, columns_of)]
                say("  ".join(cells).rstrip(), bold=number == 0)


def _blocks(rooms: Sequence[int], room: int) -> list[list[int]]:
    """Columns by their places, in blocks that fit; each begins with the first one, which names the line."""
    blocks: list[list[int]] = [[]]
    for i, wide in enumerate(rooms):
        if len(blocks[-1]) > 1 and sum(rooms[j] + 2 for j in blocks[-1]) + wide > room:
            blocks.append([0])
        blocks[-1].append(i)
    return blocks


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float | None) or (isinstance(value, str) and bool(NUMBER.fullmatch(value)))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(v, Mapping) for v in value) else ", ").join(map(_cell, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_cell(v)}" for k, v in value.items())
    return visible(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def result(values: Mapping[str, Any], json: bool) -> None:
    """One thing, a line for each of its fields that is not empty."""
    if json:
        emit(values)
        return
    said = {name: value for name, value in values.items() if value not in (None, "", (), [], {})}
    room = max(map(len, said), default=0)
    for name, value in said.items():
        say(f"{name:<{room}}  {_cell(value)}")


def sheets(entries: Iterable[Mapping[str, Any]], json: bool) -> None:
    """What is known of a few things: fields, tables of fields, then prose."""
    entries = list(entries)
    if json:
        emit(entries)
        return
    for i, entry in enumerate(entries):
        if i:
            say("")
        flat = {k: v for k, v in entry.items() if v not in (None, "", [], {}) and k != "text"}
        for name, value in flat.items():
            if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], Mapping)):
                say(f"{name}")
                for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value, 1):
                    knob = isinstance(inner, Mapping) and set(inner) == {"default", "type"}
                    say(f"    {key}: {inner['type']} = {inner['default']!r}" if knob else f"    {key}: {_cell(inner)}")
            else:
                say(f"{name:<12}{_cell(value)}")
        if entry.get("text"):
            say(f"\n{entry['text']}")


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as a dictionary."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else dict(value)


def progress() -> Reporter:
    """A reporter on stderr."""
    return Reporter()


# -- what some verbs say


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """Counts of a plan by part and method, in the plan's order; ``blocked`` wait for weights, with the reason."""
    states = ("wanted", "done", "jobs", "quarantined")
    counts = {state: Counter((j.part, j.use.label) for j in getattr(plan, state)) for state in states}
    rows: list[dict[str, Any]] = [
        {"part": part, "method": label, **{"to_do" if s == "jobs" else s: counts[s][part, label] for s in states}}
        for part, label in counts["wanted"]
    ]
    rows += [
        {"part": b.part, "method": b.label, "wanted": b.pictures, "done": 0, "to_do": 0, "quarantined": 0,
         "blocked": b.pictures, "why": b.reason} for b in plan.blocked
    ]  # fmt: skip
    return rows


def blocked_lines(plan: Plan) -> list[str]:
    """Why pictures wait, one line for each reason with all that wait for it."""
    reasons: dict[str, list[str]] = {}
    for b in plan.blocked:
        waiting = reasons.setdefault(" ".join(b.reason.split()), [])
        if b.label not in waiting:
            waiting.append(b.label)
    return [f"blocked: {', '.join(labels)}: {reason}" for reason, labels in reasons.items()]


def board_json(board: Board) -> dict[str, Any]:
    """A board as JSON: its columns, and a line for each method with its numbers by column."""
    lines = []
    for line in board.lines:
        numbers = {c.label: asdict(cell) for c in board.columns if (cell := board.cells.get((line.method, c.label)))}
        lines.append({**asdict(line), "numbers": numbers})
    return {"part": board.part, "columns": [asdict(c) for c in board.columns], "methods": lines}


def require_complete(made: RunResult | None, scored: ScoreResult | None = None) -> None:
    """Leave with exit code 5 (3 if only something must be fetched first) and what to do, if work is left undone."""
    failures = made.failures if made else ()
    problems = [f"{f.label}, {f.part}, {f.prompt_id}, seed {f.seed}: {f.reason}: {f.message}" for f in failures]
    fetch = all(f.reason == "prerequisite" for f in failures)
    if made and made.quarantined:
        problems.append(
            f"{made.quarantined} pictures failed too often before and were left alone; --retry tries them again"
        )
        fetch = False
    if made:
        problems += [f"{b.label}, {b.part}: {b.pictures} pictures not tried: {b.reason}" for b in made.blocked]
    if scored:
        problems += [f"metric {label}: {why}" for label, why in scored.blocked.items()]
        if scored.failed or scored.sets_failed:
            problems += [f"{scored.failed + scored.sets_failed} scores could not be computed", *scored.notes]
            fetch = False
    if not problems:
        return
    shown = [*problems[:5], f"and {len(problems) - 5} more"] if len(problems) > 5 else problems
    text = (
        "not complete:\n  "
        + "\n  ".join(shown)
        + "\nMend what is named; the same command goes on where this one stopped."
    )
    raise (PrerequisiteError if fetch else IncompleteError)(text)


def step_reporter(progress: Reporter, stage: str) -> Callable[[Any], None]:
    """Turns the trainer's reports into progress of a stage."""
    last = 0

    def report(step: Any) -> None:
        nonlocal last
        if not last:
            progress.start(stage, step.steps)
        progress.advance(stage, step.step - last, f"loss {step.loss:.4f}")
        last = step.step

    return report


def verdict(found: Verdict, json: bool) -> None:
    """What people's votes say: strengths, voters, and how far each number agrees."""
    if json:
        emit(asdict(found))
        return
    if found.strengths:
        ranked = sorted(found.strengths.each, key=lambda s: -s.value)
        say(f"strengths by {found.votes} votes (log odds, intervals clustered by prompt and voter)")
        records([vars(s) for s in ranked], False)
    else:
        say(found.note)
    say("\nvoters")
    records([{**vars(v), "doubts": "; ".join(v.doubts)} for v in found.voters], False)
    if found.agreement:
        say("\nhow often a number prefers what people prefer")
        records([vars(a) for a in found.agreement], False)
