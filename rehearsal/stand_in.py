"""``python -m rehearsal.stand_in WORK WORDS``: scrollbench as a rehearsal has it, with small suites and networks."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def settle(work: Path) -> None:
    """Home and caches in a folder, and no network; before anything is imported that reads them."""
    home = work / "home"
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "HOME": str(home), "HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch"), "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "SCROLLBENCH_STORE": str(work / "store"), "COLUMNS": "160",
    }  # fmt: skip


def prepare(work: Path) -> list[str]:
    """What a process of a rehearsal needs before the command line is called; returns the suites of tier full."""
    settle(work)
    from rehearsal import sizes, suites

    sizes.shrink(work)
    names = suites.full()
    for name in names:
        suites.reduce(name, work / "suites")
    return names


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
    from bench.cli.app import main

    main(sys.argv[2:])
