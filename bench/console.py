"""What all verbs of the command line share: how they are declared, chosen for, and how they speak."""

from __future__ import annotations

import functools
import inspect
import json as jsonlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bench.errors import IncompleteError, PrerequisiteError, ScrollBenchError, UsageError

if TYPE_CHECKING:
    from rich.console import Group

    from bench.board import Board
    from bench.plan import Plan
    from bench.progress import Reporter
    from bench.run import RunResult
    from bench.score import ScoreResult
    from bench.store import Store
    from bench.suite import Suite


class _Group(TyperGroup):
    """Prints errors a user can act on in plain words and leaves with their exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ScrollBenchError as error:
            note(f"scrollbench: {error}")
            raise typer.Exit(error.exit_code) from error


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

    def group(self, name: str, text: str, example: str) -> App:
        """Declare verbs under a word of their own."""
        app = App(name, text, example)
        self.add_typer(app, name=name)
        return app


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


# -- which suite, which part of it, which store


@dataclass(frozen=True)
class Selection:
    """A resolved suite, the store it lives in, this machine's share of the work, and the device it is done on."""

    suite: Suite
    store: Store
    shard: tuple[int, int] | None
    device: str | None


def _select(
    suite: Annotated[str, typer.Option("--suite", "-s", help="Name of a suite, or a TOML file.")] = "miniature",
    tier: Annotated[
        str | None, typer.Option("--tier", help="miniature: run a suite of tier full on the embedded miniature.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Only these methods: NAME, NAME:PRESET or FILE.py@NAME. Repeatable."),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only these metrics. Repeatable.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A knob: METHOD.KNOB=VALUE. Repeatable.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="That many prompts, spread over the set; 0 for the whole set.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Only these seeds. Repeatable.")] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="I/N: this machine's share of the pictures, I from 1 to N.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where networks run: cpu, cuda, cuda:1.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store folder.", envvar="SCROLLBENCH_STORE")] = None,
) -> Selection:
    from bench.store import Store
    from bench.suite import load_suite

    overrides = {"methods": method, "metrics": metric, "set": set_, "limit": limit, "seeds": seed, "tier": tier}
    chosen = load_suite(suite, {k: v for k, v in overrides.items() if v or v == 0})
    if device:  # provenance, not identity: the same suite on another machine
        chosen = replace(chosen, backbone_options={**chosen.backbone_options, "device": device})
    return Selection(chosen, Store(store), _shard(shard), device)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UsageError(f"--shard takes I/N with I from 1 to N, e.g. 1/4; got {text!r}")
    return int(parts[1]), int(parts[2])


def selection(verb: Callable[..., None], suite: str = "miniature") -> Callable[..., None]:
    """Give a verb the options that choose a suite, ``suite`` by default; its first argument is a :class:`Selection`."""
    own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]
    options = [
        p.replace(default=suite) if p.name == "suite" else p
        for p in inspect.signature(_select, eval_str=True).parameters.values()
    ]

    @functools.wraps(verb)
    def wrapped(**given: Any) -> None:
        chosen = _select(**{p.name: given.pop(p.name) for p in options})
        try:
            verb(chosen, **given)
        except PrerequisiteError as error:
            if chosen.suite.tier != "full" or chosen.suite.spec.miniature is None:
                raise
            hint = f"Without them: --tier miniature runs suite {chosen.suite.name} on the embedded miniature."
            raise PrerequisiteError(f"{error}\n{hint}") from error

    taken = sorted(
        (p.replace(kind=p.KEYWORD_ONLY) for p in (*options, *own)), key=lambda p: p.default is not p.empty
    )  # arguments, which have no default, come first
    wrapped.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in taken}
    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped


# -- speaking: data on stdout, the rest on stderr


def note(text: str) -> None:
    """A sentence on stderr."""
    typer.echo(text, err=True)


def say(text: str) -> None:
    """A line of data on stdout."""
    typer.echo(text)


def emit(data: Any) -> None:
    """JSON on stdout. What JSON does not know (dates, paths) is written as text."""
    typer.echo(jsonlib.dumps(data, indent=1, ensure_ascii=False, default=str))


def width() -> int:
    """Columns to write for: the terminal's up to 160, and 120 where there is none."""
    return min(160, shutil.get_terminal_size((120, 40)).columns)


def show(board: Group) -> None:
    """A board on stdout."""
    from rich.console import Console

    Console(width=width(), highlight=False).print(board)


def records(rows: Sequence[Mapping[str, Any]], json: bool, columns: Sequence[str] | None = None) -> None:
    """Rows as a table as wide as they are, or as JSON."""
    if json:
        emit([dict(row) for row in rows])
        return
    names = list(columns or dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    numeric = [all(isinstance(row.get(n), int | float | None) for row in rows) for n in names]
    rooms = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for number, line in enumerate(lines):
        cells = [c.rjust(room) if right else c.ljust(room) for c, room, right in zip(line, rooms, numeric)]
        say(typer.style("  ".join(cells).rstrip(), bold=number == 0 or None))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(v, Mapping) for v in value) else ", ").join(map(_cell, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_cell(v)}" for k, v in value.items())
    return str(value)


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
    from bench.progress import Reporter

    return Reporter()


# -- what some verbs say


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """Counts of a plan by part and method, in the plan's order; ``blocked`` wait for weights, with the reason."""
    states = ("wanted", "done", "jobs", "quarantined")
    counts = {state: Counter((j.part.name, j.use.label) for j in getattr(plan, state)) for state in states}
    rows: list[dict[str, Any]] = [
        {"part": part, "method": label, **{"to_do" if s == "jobs" else s: counts[s][part, label] for s in states}}
        for part, label in counts["wanted"]
    ]
    rows += [
        {"part": b.part, "method": b.label, "wanted": b.pictures, "done": 0, "to_do": 0, "quarantined": 0,
         "blocked": b.pictures, "why": b.reason} for b in plan.blocked
    ]  # fmt: skip
    return rows


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
