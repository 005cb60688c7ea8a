"""The command line: thin calls of documented functions. Data goes to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 something must be installed or fetched, 5 work is left undone.
Heavy libraries are imported inside the verbs that need them, so that help and listings are instant.
"""

from __future__ import annotations

from bench.cli import judging
from bench.cli.claims import reproduce
from bench.cli.prompts import prompts_app
from bench.cli.root import main
from bench.cli.weights import weights_app
from bench.cli.world import world_app

main.add_typer(weights_app, name="weights")
main.add_typer(prompts_app, name="prompts")
main.add_typer(world_app, name="world")
judging.mount(main)


main.verb("scrollbench reproduce drspo:table1 --published-only")(reproduce)
