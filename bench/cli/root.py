"""The command ``scrollbench``, before its verbs."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.console import App
from bench.version import __version__

main = App(
    "scrollbench",
    "Benchmark of panoramic and long-scroll text-to-image generation.",
    "scrollbench run --suite miniature --limit 2",
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"scrollbench {__version__}")
        raise typer.Exit


@main.callback()
def scrollbench(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Benchmark of panoramic and long-scroll text-to-image generation."""
