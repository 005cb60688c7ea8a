"""A suite that fills every page of a report, with text that breaks pages: tags, quotes, ends of scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from bench.analysis.claims import COLUMNS, Table, tables
from bench.pipeline.run import run
from bench.store import Store
from bench.store.index import query
from bench.suites.load import load_suite
from bench.suites.suite import Suite
from tests.support import small

HOSTILE = "</script><img src=x onerror='window.broken=1'>\"<b>&amp; \u2028 مرحبا بالعالم 🏞️"
CONTROL, DARK, DARKER = "<img src=x onerror=window.broken=1>", "dark by=1/8", 'عتمة "quoted" 🌙 by=1/4'
METHODS = {"plain": "", DARK: "by = 0.125, stripe = true", DARKER: "by = 0.25, steps = 9"}  # label -> knobs

PLUGINS = (
    small.PLUGINS
    + '''
import numpy as np

@method("field", family="latent")
def field(backbone, prompt, canvas, noise, *, by: float = 0.0, stripe: bool = False, steps: int = 3):
    """Grey, another for every picture; darker by so much, or with a seam in the last quarter."""
    backbone.meter.nfe += steps
    own = 0.5 + 0.05 * noise.generator("canvas").standard_normal((3, 1, 1))
    out = (own - by) * np.ones((1, canvas.height, canvas.width))
    out[:, :, -3] = 1.0 if stripe else out[:, :, -3]
    return out

@metric("level", scope="image", values={"level": "higher"}, unit="levels")
def level(sample):
    """Mean value."""
    return [Value("level", float(sample.rgb.mean()))]

@metric("seam", scope="image", values={"seam": "lower"})
def seam(sample):
    """Largest step between columns, in quarters along the picture."""
    steps = np.abs(np.diff(sample.rgb.astype(float), axis=1)).max((0, 2))
    return [Value("seam", float(s), i) for i, s in enumerate(np.append(steps, 0.0).reshape(4, -1).max(1))]
'''
)

SUITE = """
name = "shown"
version = "1"
tier = "miniature"
seeds = [0, 1]
backbone = "plugins.py@fake"
[[parts]]
name = "2to1"
width = 16
height = 8
loop = true
prompts = "prompts.jsonl"
[[methods]]
ref = "plugins.py@grain"
label = "<img src=x onerror=window.broken=1>"
[[metrics]]
ref = "plugins.py@level"
label = "level"
[[metrics]]
ref = "plugins.py@seam"
label = "seam"
"""
CLAIMS = """
tiny,table1,Plain,Level,127,,higher,,8x16,,,paper,here
tiny,table1,Dark by=1/8,Level,96.0,,higher,,8x16,,,paper,here
"""
INDEX = """
[papers]
tiny = { title = "Tiny </script>", own = "Plain" }
["tiny:table1"]
title = "Table 1"
suite = "shown"
columns = { Level = ["level"] }
differs = ["everything is made up"]
"""


class Reported(NamedTuple):
    """A suite, its store, and the folder of its report."""

    suite: Suite
    store: Store
    out: Path


def prepared(folder: Path) -> tuple[Suite, Store]:
    """The suite with pictures and scores: a control, three methods, six prompts of two themes, two seeds."""
    methods = "".join(
        f"[[methods]]\nref = 'plugins.py@field'\nlabel = {json.dumps(label, ensure_ascii=False)}\nset = {{ {knobs} }}\n"
        for label, knobs in METHODS.items()
    )
    file = small.write_suite(folder, SUITE.replace("[[metrics]]", methods + "[[metrics]]", 1), PLUGINS)
    texts = [HOSTILE, *(f"a photo of thing {i}" for i in range(5))]
    lines = [{"id": f"p{i}", "text": text, "theme": ("<i>sea", "land")[i % 2]} for i, text in enumerate(texts)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    suite, store = load_suite(file), Store(folder / "store")
    run(suite, store)
    return suite, store


def claimed(folder: Path) -> dict[str, Table]:
    """Tables of a paper that claims things of the suite's methods."""
    folder.mkdir()
    (folder / "tiny.csv").write_text(",".join(COLUMNS) + CLAIMS, encoding="utf-8")
    (folder / "tables.toml").write_text(INDEX, encoding="utf-8")
    return dict(tables(folder))


def asked(store: Store) -> dict[str, dict[tuple[Any, ...], float]]:
    """Page -> what a number is of -> the number, as the leaderboard says it: by SQL of its own."""

    def of(sql: str) -> dict[tuple[Any, ...], float]:
        return {tuple(row[:-1]): row[-1] for row in query(store, sql)[1]}

    knob = "case when method like '%by=1/8' then 0.125::double when method like '%by=1/4' then 0.25::double end"
    return {
        "board": of("select method, metric, value from leaderboard where metric in ('level', 'seam', 'seconds', 'nfe')"
                    "and value is not null"),
        "themes": of("""select method, metric, if(prompt_id in ('p0', 'p2', 'p4'), '<i>sea', 'land'), avg(value)
                     from pairs where metric in ('level', 'seam') group by all"""),
        "compare": of("select method, metric, prompt_id, value from pairs where metric in ('level', 'seam')"),
        "claims": of("select method, value from leaderboard where metric = 'level'"
                     " and method in ('plain', 'dark by=1/8')"),
        "knobs": of(f"""select {knob}, metric, avg(value) from pairs where metric in ('level', 'seam')
                    and method like '%by=%' group by all"""),
        "along": of('select method, metric, "index", avg(value) from curve group by all'),
        "cost": {
            key: value for name in ("seconds", "nfe", "peak_bytes")
            for key, value in of(f"select method, '{name}', avg({name}) from picture group by all").items()
            if value is not None
        },
    }  # fmt: skip


def data(out: Path, name: str) -> Any:
    """What a page finds in ``window.DATA``."""
    text = (out / "data" / f"{name}.js").read_text(encoding="ascii")
    head = f'(window.DATA = window.DATA || {{}})["{name}"] = '
    assert text.startswith(head)
    return json.loads(text.removeprefix(head).removesuffix(";\n"))
