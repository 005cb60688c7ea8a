"""The command line: thin calls of documented functions. Data goes to stdout, progress and errors to stderr.

Exit codes: :class:`bench.errors.Exit`.
Verbs reach everything through ``bench``, whose rooms open when they are entered, so that help is instant.
"""

from __future__ import annotations

from bench.cli import judging, looking, making, reports, store, training
from bench.cli.preferences import preferences_app
from bench.cli.prompts import prompts_app
from bench.cli.root import main as main
from bench.cli.weights import weights_app
from bench.cli.world import world_app

VERBS = (
    judging,
    looking,
    making,
    training,
    reports,
)  # they declare verbs on ``main``, in this order
main.add_typer(weights_app, name="weights")
main.add_typer(prompts_app, name="prompts")
main.add_typer(world_app, name="world")
main.add_typer(preferences_app, name="preferences")
main.add_typer(store.store_app, name="store")
