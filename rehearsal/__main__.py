"""``python -m rehearsal``: go the documented way for every suite of tier full, and say what was covered."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rehearsal.stand_in import prepare

ROOT = Path(__file__).parents[1]
WARNED = ("Traceback", "Warning")  # words that no output may hold
README = "README"  # the stage that copies its block into a shell
LOGGERS = ("", "diffusers", "transformers", "huggingface_hub")  # the libraries' own do not tell the root
spent: Counter[str] = Counter()  # processor seconds by command, of the stage under way


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
    """Put what a suite needs into the mirror, and photographs where users put theirs."""
    from bench.catalogue.needs import needed
    from bench.suites.load import load_suite
    from rehearsal import suites
    from rehearsal.mirror import write

    suite = load_suite(name)
    for model in needed(suite):
        with warnings.catch_warnings():
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
    """One prompt; two where the network's own squares are a set to compare with, since one square is no set."""
    from bench.suites.load import load_suite

    return "2" if any(r["kind"] == "native" for r in load_suite(name).references.values()) else "1"


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


def covered(found: list[dict[str, Any]]) -> str:
    """Suites, methods and metrics that went through, as a table in Markdown."""
    rows = ["| suite | methods | metrics |", "|---|---|---|"]
    suites = [(f["suite"], f["methods"], f["metrics"]) for f in found if "methods" in f]
    rows += [f"| {suite} | {', '.join(methods)} | {', '.join(metrics)} |" for suite, methods, metrics in suites]
    pairs = sum(len(methods) * len(metrics) for _, methods, metrics in suites)
    return "\n".join(rows) + f"\n\n{len(rows) - 2} suites, {pairs} methods x metrics\n"


def stage(name: str, work: Path, do: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Do a stage, or take what it covered when it was done before; None after a fault, which is printed."""
    kept, begun = work / "done" / f"{name}.json", processor()
    kept.parent.mkdir(exist_ok=True)
    if not kept.exists():
        spent.clear()
        try:
            found = do()
        except Fault as fault:
            print(f"{name}: FAULT\n{fault}\n{dict(spent)}", flush=True)
            return None
        found |= {"processor seconds": round(processor() - begun), "of which": [f"{k} {n}" for k, n in spent.items()]}
        kept.write_text(json.dumps(found), encoding="utf-8")
    told: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    for key, value in told.items():
        text = ", ".join(value) if isinstance(value, list) else value
        print(f"{'' if key == 'suite' else '  '}{key}: {text}", flush=True)
    return told


def processor() -> float:
    """Processor seconds of this process and of those it waited for."""
    return sum(os.times()[:4])


def main() -> int:
    """Run what the command line asks for; what was done before in the same folder is not done again."""
    if "--gpu" in sys.argv:
        from rehearsal import gpu

        return gpu.main()
    parser = argparse.ArgumentParser(prog="nox -s rehearsal --")
    parser.add_argument("--only", action="append", help="this suite, or README; may be repeated")
    parser.add_argument("--work", type=Path, help="folder to work in, kept: the same command again goes on")
    parser.add_argument("--gpu", action="store_true", help="instead, `start` on full-size weights: rehearsal/gpu.py")
    told = parser.parse_args()
    work = (told.work or Path(tempfile.mkdtemp(prefix="scrollbench-rehearsal-"))).resolve()
    names = prepare(work)
    stages: dict[str, Callable[[], dict[str, Any]]] = {README: lambda: readme(work)}
    stages |= {n: lambda n=n: go(n, work) for n in names}  # type: ignore[misc]
    for name in told.only or ():
        if name not in stages:
            parser.error(f"--only takes one of {', '.join(stages)}; got {name!r}")
    done = [stage(name, work, stages[name]) for name in told.only or stages]
    went = [found for found in done if found is not None]
    said = covered(went)
    (work / "covered.md").write_text(said, encoding="utf-8")
    print(f"\n{said}\n{len(went)} of {len(done)} went through in {processor() / 60:.1f} minutes of a core: {work}")
    return 0 if len(went) == len(done) else 1


if __name__ == "__main__":
    sys.exit(main())
