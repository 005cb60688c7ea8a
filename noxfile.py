"""The project's commands: ``nox -s bench`` (the main job) and ``nox -s tests`` (with lint)."""

import nox

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["bench"]

PINS = ("-c", "constraints.txt")


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite end to end: ``nox -s bench`` or ``nox -s bench -- --suite NAME --limit 8 ...``."""
    session.install("-e", ".", *PINS)
    session.run("scrollbench", "run", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, then lint. Extra arguments go to pytest: ``nox -s tests -- -k windows``."""
    session.install("-e", ".[test]", *PINS)
    session.run("pytest", *session.posargs, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"})
    if not session.posargs:
        session.notify("lint")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (style and format) and strict type checking of the public modules."""
    session.install("-e", ".[test]", *PINS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
