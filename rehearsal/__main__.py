"""``python -m rehearsal``: go the documented way for every suite of tier full, and say what was covered."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rehearsal.stand_in import prepare, settle

ROOT = Path(__file__).parents[1]
WARNED = ("Traceback", "Warning")  # words that no output may hold
README = "README"  # the stage that copies its block into a shell


class Fault(Exception):
    """A stage that did not go as it should, with what was printed."""


def call(*words: str, codes: tuple[int, ...] = (0,), quiet: bool = True) -> Any:
    """One command in this process. Raises ``Fault`` on other exit codes, exceptions, and warnings where ``quiet``."""
    from typer.testing import CliRunner

    from bench.cli.app import main

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        done = CliRunner(env={"COLUMNS": "160"}).invoke(main, list(words))
    said = f"scrollbench {shlex.join(words)}\n{done.output}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise Fault(said + "".join(traceback.format_exception(done.exception)))
    if done.exit_code not in codes:
        raise Fault(f"{said}\nexit code {done.exit_code}, expected {' or '.join(map(str, codes))}")
    if wrong := [w for w in WARNED if w in done.output]:
        raise Fault(f"{said}\nholds {', '.join(wrong)}")
    if quiet and caught:
        raise Fault(said + "\n".join(f"warned at {w.filename}:{w.lineno}: {w.message}" for w in caught))
    return done


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
    chosen, one = ("--suite", name), ("--suite", name, "--limit", "1", "--seed", "0")
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
    call("board", *one)
    for table in tables_of(name):
        call("reproduce", table, "--limit", "1")
    suite = load_suite(name, {"limit": 1, "seeds": [0]})
    labels = [m.label for m in suite.methods]
    two = ("--suite", name, "--limit", "2", "--seed", "0", "--seed", "1")  # pairs of seeds give margins
    call("run", *two, "--method", labels[0])
    call("gate", "--baseline", labels[0], "--candidate", labels[0], *two, "--own-seeds", codes=(0, 4))
    return {
        "suite": name, "lacked": sum(row["state"] == "missing" for row in lacking if "state" in row),
        "pictures": done["generate"]["made"], "forecast": len(costs),
        "methods": labels, "metrics": [m.label for m in suite.metrics],
    }  # fmt: skip


def tables_of(name: str) -> list[str]:
    """The published tables that a suite follows."""
    from bench.analysis.claims import tables

    return [t.id for t in tables().values() if t.suite == name]


def block() -> list[str]:
    """The commands of README's 'Real weights', line by line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Real weights\n")[2].partition("\n## ")[0]
    lines = [line.strip() for line in text.splitlines() if line.startswith("    scrollbench ")]
    return [line for line in lines if not line.startswith("scrollbench start")]


def readme(work: Path) -> dict[str, Any]:
    """Copy the block into a shell, with `scrollbench` on its path; what is fetched comes from the mirror."""
    fill("pano-1k", work / "mirror")
    command = work / "bin" / "scrollbench"
    command.parent.mkdir(exist_ok=True)
    inner = shlex.join([sys.executable, "-m", "rehearsal.stand_in", str(work)])
    mirror = shlex.quote(str(work / "mirror"))
    command.write_text(
        f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nmore=""\n'
        f'case "$1 $2" in "weights fetch") more="--mirror {mirror}";; "run --suite") more="--limit 1";; esac\n'
        f'exec {inner} "$@" $more\n'
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
    return {"suite": README, "lines": lines}


def main() -> int:
    """Run what the command line asks for; what was done before in the same folder is not done again."""
    parser = argparse.ArgumentParser(prog="nox -s rehearsal --")
    parser.add_argument("--only", action="append", help="this suite, or README; may be repeated")
    parser.add_argument("--work", type=Path, help="folder to work in, kept: the same command again goes on")
    told = parser.parse_args()
    work = (told.work or Path(tempfile.mkdtemp(prefix="scrollbench-rehearsal-"))).resolve()
    settle(work)
    names = prepare(work)
    stages: dict[str, Callable[[], dict[str, Any]]] = {n: lambda n=n: go(n, work) for n in names}  # type: ignore[misc]
    stages[README] = lambda: readme(work)
    for name in told.only or ():
        if name not in stages:
            parser.error(f"--only takes one of {', '.join(stages)}; got {name!r}")
    wrong = []
    for name in told.only or stages:
        kept, start = work / "done" / f"{name}.json", time.monotonic()
        kept.parent.mkdir(exist_ok=True)
        if not kept.exists():
            try:
                kept.write_text(json.dumps(stages[name]()), encoding="utf-8")
            except Fault as fault:
                wrong.append(name)
                print(f"{name}: FAULT\n{fault}", flush=True)
                continue
        print(f"{name} ({time.monotonic() - start:.0f} s)", flush=True)
        for key, value in json.loads(kept.read_text(encoding="utf-8")).items():
            print(f"  {key}: {', '.join(value) if isinstance(value, list) else value}", flush=True)
    print(f"{len(told.only or stages) - len(wrong)} of {len(told.only or stages)} went through; work: {work}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
