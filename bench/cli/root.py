"""The command ``scrollbench``, before its verbs."""

from __future__ import annotations

from bench.cli.console import App

main = App(
    "scrollbench",
    "Benchmark of panoramic and long-scroll text-to-image generation.",
    "scrollbench run --suite miniature --limit 2",
)
