"""The stages of a rehearsal: README's block, and the documented way for each suite of tier full."""

from __future__ import annotations

import json
import logging
import os
import shlex
import stat
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from rehearsal.stand_in import prepare

ROOT = Path(__file__).parents[1]
WARNED = ("Traceback", "Warning")  # words that no output may hold
README = "README"  # the stage that copies its block into a shell
LOGGERS = ("", "diffusers", "transformers", "huggingface_hub")  # the libraries' own do not tell the root
LONG = (README, "pano-1k")
spent: Counter[str] = Counter()  # processor seconds by command, of the stage under way
places: list[Path] = []  # where this process works


class Fault(Exception):
    """A stage that did not go as it should, with what was printed."""


def call(*words: str, codes: tuple[int, ...] = (0,), quiet: bool = True) -> Any:
    """One command in this process. Raises ``Fault`` on other exit codes, exceptions, and warnings where ``quiet``."""
    from typer.testing import CliRunner

    from bench.cli.app import main

    begun = time.process_time()
    with warnings.catch_warnings(record=True) as caught, logged() as told:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        done = CliRunner(env={"COLUMNS": "160"}).invoke(main, list(words))
    spent[" ".join(w for w in words[:2] if not w.startswith("-"))] += round(time.process_time() - begun)
    said = f"scrollbench {shlex.join(words)}\n{done.output}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise Fault(said + "".join(traceback.format_exception(done.exception)))
    if done.exit_code not in codes:
        raise Fault(f"{said}\nexit code {done.exit_code}, expected {' or '.join(map(str, codes))}")
    if wrong := [w for w in WARNED if w in done.output]:
        raise Fault(f"{said}\nholds {', '.join(wrong)}")
    told += [f"warned at {w.filename}:{w.lineno}: {w.message}" for w in caught]
    if quiet and told:
        raise Fault(said + "\n".join(told))
    return done


@contextmanager
def logged() -> Iterator[list[str]]:
    """What libraries log as a warning or worse while the block runs."""
    found: list[str] = []
    heard: list[logging.LogRecord] = []  # some loggers tell the root as well

    def emit(record: logging.LogRecord) -> None:
        if record not in heard:
            heard.append(record)
            found.append(f"{record.name} logged: {record.getMessage()}")

    handler = logging.Handler(logging.WARNING)
    handler.emit = emit  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def fill(name: str, mirror: Path) -> None:
    """Put what a suite needs into the mirror, one process at a time, and photographs where users put theirs."""
    from filelock import FileLock

    from bench.catalogue.needs import needed
    from bench.suites.load import load_suite
    from rehearsal import suites
    from rehearsal.mirror import write

    suite = load_suite(name)
    for model in needed(suite):
        with FileLock(mirror / ".lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(model, mirror)
    suites.photographs(suite.spec)


def go(name: str, work: Path) -> dict[str, Any]:
    """The documented way for one suite; returns what it covered."""
    from bench.suites.load import load_suite

    mirror = work / "mirror"
    fill(name, mirror)
    chosen = ("--suite", name)
    one = (*chosen, "--limit", few(name), "--seed", "0")
    lacking = json.loads(call("doctor", *chosen, "--json", codes=(0, 3)).stdout)
    call("weights", "fetch", name, "--mirror", str(mirror))
    call("weights", "verify", name)
    call("doctor", *chosen)
    costs = json.loads(call("plan", *one, "--forecast", "--gpu", "a100", "--json").stdout)["forecast"]
    done = json.loads(call("run", *one, "--json").stdout)
    call("score", *one)
    again = json.loads(call("run", *one, "--json").stdout)
    if again["generate"]["made"] or again["score"]["scored"]:
        raise Fault(f"{name}: the second run made {again['generate']['made']} pictures more")
    if empty := [cell for board in again["board"] for cell in without_number(board)]:
        raise Fault(f"{name}: no number for {', '.join(empty)}")
    call("board", *one)
    for table in tables_of(name):
        call("reproduce", table, "--limit", few(name))
    suite = load_suite(name, {"limit": 1, "seeds": [0]})
    labels = [m.label for m in suite.methods]
    two = ("--suite", name, "--limit", "2", "--seed", "0", "--seed", "1")  # pairs of seeds give margins
    call("run", *two, "--method", labels[0])
    call("gate", "--baseline", labels[0], "--candidate", labels[0], *two, "--own-seeds", codes=(0, 4))
    return {
        "suite": name, "lacked": sum(row["state"] == "missing" for row in lacking if "state" in row),
        "made": done["generate"]["made"], "forecast": sum(row["nfe"] is not None for row in costs),
        "without forecast": [f"{row['method']}: {row['note']}" for row in costs if row["nfe"] is None],
        "methods": labels, "metrics": [m.label for m in suite.metrics],
    }  # fmt: skip


def few(name: str) -> str:
    """One prompt; two where a number is of a set of pictures, since one is no set."""
    from bench.suites.load import load_suite

    return "2" if any(m.metric.scope == "set" for m in load_suite(name).metrics) else "1"


def without_number(board: dict[str, Any]) -> list[str]:
    """Cells of a board that stayed empty."""
    columns = [column["label"] for column in board["columns"]]
    return [f"{m['method']} x {label}" for m in board["methods"] for label in columns if label not in m["numbers"]]


def tables_of(name: str) -> list[str]:
    """The published tables that a suite follows."""
    from bench.analysis.claims import tables

    return [t.id for t in tables().values() if t.suite == name]


def block() -> list[str]:
    """The commands of README's 'Real weights', line by line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Real weights\n")[2].partition("\n## ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    scrollbench ")]


def readme(work: Path) -> dict[str, Any]:
    """Copy the block into a shell, with `scrollbench` on its path; what is fetched comes from the mirror.

    One prompt of each suite is drawn, and `start`, which asks before it fetches, is told to go on, and to use the CPU.
    """
    for name in ("start", "pano-1k"):
        fill(name, work / "mirror")
    command = work / "bin" / "scrollbench"
    command.parent.mkdir(exist_ok=True)
    inner = shlex.join([sys.executable, "-m", "rehearsal.stand_in", str(work)])
    mirror, limit = shlex.quote(str(work / "mirror")), few("pano-1k")
    command.write_text(
        f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nmore=""\ncase "$*" in\n'
        f'"weights fetch"*) more="--mirror {mirror}";;\n"run --suite"*) more="--limit {limit} --seed 0";;\n'
        f'start*) more="--yes --precision bf16 --mirror {mirror}";;\nesac\nexec {inner} "$@" $more\n'
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    lines = block()
    for line in lines:
        told = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", line], env=told, capture_output=True, text=True)
        allowed = (0, 3) if "doctor" in line else (0,)
        said = done.stdout + done.stderr
        if done.returncode not in allowed or any(w in said for w in WARNED):
            raise Fault(f"{line}\n{said}\nexit code {done.returncode}")
    return {"suite": README, "lines": [line.partition("#")[0].strip() for line in lines]}


def begin(work: Path, numbers: Queue[int]) -> None:
    """Make this process a worker: a home and a store of its own, one mirror for all."""
    own = work / f"worker-{numbers.get()}"
    own.mkdir(exist_ok=True)
    if not (own / "mirror").is_symlink():
        (own / "mirror").symlink_to(work / "mirror")
    prepare(own)
    places.append(own)


def stage(name: str, work: Path) -> tuple[dict[str, Any] | None, str]:
    """Do a stage, or take what it covered when it was done before; with what is said of it. None after a fault."""
    kept, begun = work / "done" / f"{name}.json", processor()
    if not kept.exists():
        spent.clear()
        try:
            found = readme(places[-1]) if name == README else go(name, places[-1])
        except Fault as fault:
            return None, f"{name}: FAULT\n{fault}\n{dict(spent)}"
        found |= {"processor seconds": round(processor() - begun), "of which": [f"{k} {n}" for k, n in spent.items()]}
        kept.write_text(json.dumps(found), encoding="utf-8")
    told: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    lines = []
    for key, value in told.items():
        text = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"{'' if key == 'suite' else '  '}{key}: {text}")
    return told, "\n".join(lines)


def processor() -> float:
    """Processor seconds of this process and of those it waited for."""
    return sum(os.times()[:4])


def stages() -> list[str]:
    """README's block and every suite of tier full; those that take longest first, so that none is waited for alone."""
    from rehearsal.suites import full

    return sorted([README, *full()], key=lambda name: LONG.index(name) if name in LONG else len(LONG))
