"""The verbs of ``scrollbench prompts``: lint a set, adopt a list, compute a card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli import console
from bench.cli.console import App
from bench.cli.options import Json
from bench.errors import Exit, UsageError

if TYPE_CHECKING:
    from bench.prompts.lint import Finding, Report

prompts_app = App(
    "prompts", "Look after prompt sets: lint, adopt, compute cards.", "scrollbench prompts lint scrollworld"
)

Set = Annotated[str, typer.Argument(help="NAME@VERSION[:SELECTION], a folder with prompts.jsonl, or a .jsonl file.")]
Tokenizers = Annotated[
    list[str] | None,
    typer.Option("--tokenizer", help="bert=FOLDER or t5=FOLDER: count these tokens exactly. Repeatable."),
]
FINDINGS = 5  # shown of each check
IDS = 3  # shown of each finding


@prompts_app.verb("scrollbench prompts lint scrollworld@1")
def lint(
    set_: Set,
    extractor: Annotated[
        str | None, typer.Option("--extractor", help="A CLIP extractor (NAME or clip@FOLDER) to embed the texts with.")
    ] = None,
    tokenizer: Tokenizers = None,
    device: Annotated[str, typer.Option("--device", help="Where the extractor runs.")] = "cpu",
    json: Json = False,
) -> None:
    """Look for duplicates, templates, cut prompts, imbalance, unstated things, banned words. Exit code 1 on errors."""
    report = bench.prompts.lint.lint(
        bench.load_prompts(set_), extractor=extractor, tokenizers=_folders(tokenizer), device=device
    )
    if json:
        console.emit(report.plain())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(Exit.FAILED)


@prompts_app.verb("scrollbench prompts adopt captions.txt --as captions")
def adopt(
    file: Annotated[Path, typer.Argument(help="A list of prompts: .txt, .csv, .jsonl or .json.")],
    name: Annotated[str, typer.Option("--as", help="Name of the new set.")],
    version: Annotated[str, typer.Option("--version", help="Its version.")] = "1",
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of sets; $SCROLLBENCH_PROMPTS or prompts/ by default.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="OURS=THEIRS, e.g. text=caption. Repeatable.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Under what terms the list may be used.")] = "unknown: say",
    title: Annotated[str, typer.Option("--title", help="Title of the set; its name by default.")] = "",
    language: Annotated[str, typer.Option("--language", help="Of the prompts, such as en or zh.")] = "en",
    json: Json = False,
) -> None:
    """Make a set of somebody's list: stable ids, a card, and what the lint says of it. Nothing is overwritten."""
    made = bench.prompts.adopt.adopt(
        file, name, version, root=root, fields=_pairs("--field", field), licence=licence, title=title, language=language
    )
    report = bench.prompts.lint.lint(made)
    said = {"set": made.ref, "folder": str(made.file and made.file.parent), "prompts": len(made.prompts)}
    if json:
        console.emit({**said, "lint": report.plain()})
    else:
        console.result(said, json)
        console.say("")
        _show(report)


@prompts_app.verb("scrollbench prompts card scrollworld@1")
def card(
    set_: Set,
    split: Annotated[
        list[int] | None, typer.Option("--split", help="Choose a balanced split of that size. Repeatable.")
    ] = None,
    tokenizer: Tokenizers = None,
    json: Json = False,
) -> None:
    """Compute counts, statistics and balanced splits again and write them into card.toml; the rest of it is kept."""
    chosen = bench.load_prompts(set_)
    if chosen.file is None or chosen.file.name != "prompts.jsonl" or ":" in set_:
        raise UsageError(f"{set_}: a card is of a whole set, a folder with prompts.jsonl; adopt a file first")
    computed = bench.prompts.card.update_card(chosen.file.parent, split or (), _folders(tokenizer))
    splits = {name: f"{len(ids)} prompts" for name, ids in computed["splits"].items()}
    console.sheets([{"card": str(chosen.file.with_name("card.toml")), **computed, "splits": splits}], json)


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"{option} takes NAME=VALUE, got {text!r}")
        pairs[key] = value
    return pairs


def _folders(given: list[str] | None) -> dict[str, Path]:
    return {name: Path(folder).expanduser() for name, folder in _pairs("--tokenizer", given).items()}


def _show(report: Report) -> None:
    """The checks as a table, the first findings of each, then shares and statistics."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "error": "bold red", "warning": "yellow"}
    table = Table(box=box.SIMPLE_HEAD, title=f"{report.set}, {report.prompts} prompts", title_justify="left")
    for column in ("check", "limit", "worst", "verdict"):
        table.add_column(column)
    for c in report.checks:
        table.add_row(c.check, c.limit, c.worst, Text(c.verdict, colours.get(c.verdict, "dim")))
    lines: list[Text] = []
    for check in report.checks:
        mine = [f for f in report.findings if f.check == check.check]
        lines += [Text(_line(f)) for f in mine[:FINDINGS]]
        if len(mine) > FINDINGS:
            lines.append(Text(f"{check.check}: {len(mine) - FINDINGS} more; --json has them all"))
    console.show(Group(table, *lines))
    console.say("")
    console.sheets([{"shares": report.shares, **report.statistics}], False)


def _line(f: Finding) -> str:
    more = f", and {len(f.ids) - IDS} more" if len(f.ids) > IDS else ""
    return f"{f.level} {f.check}: {f.said}" + (f"\n    {', '.join(f.ids[:IDS])}{more}" if f.ids else "")
