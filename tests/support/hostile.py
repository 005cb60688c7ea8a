"""A suite whose prompts and labels hold what breaks pages: tags, quotes, ends of scripts, text from right to left."""

from __future__ import annotations

import json
from pathlib import Path

from bench.store import Store
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.support.gating import SUITE, run, suite_in

HOSTILE = "</script><img src=x onerror='window.broken=1'>\"<b>&amp; \u2028 مرحبا بالعالم 🏞️"


def hostile(folder: Path) -> tuple[Suite, Store]:
    """The suite with its pictures and scores, two methods, two prompts, and their store."""
    label = "<img src=x onerror=window.broken=1>"
    text = SUITE.replace('label = "plain"', f'label = "{label}"')
    second = '[[methods]]\nref = "plugins.py@dark"\nlabel = "عتمة \\"quoted\\" 🌙"\n'
    suite_in(folder, prompts=2, text=text.replace("[[metrics]]", second + "[[metrics]]", 1))
    lines = [
        {"id": f"p{i:02}", "text": f"{HOSTILE}{' ' * i}".strip() + str(i or ""), "theme": "<i>sea"} for i in range(2)
    ]
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    suite, store = load_suite(folder / "gated.toml"), Store(folder / "store")
    run(suite, store)
    return suite, store
