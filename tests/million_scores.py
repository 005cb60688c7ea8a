"""How long comparing takes on a leaderboard of 1,000,000 score rows: run by hand, prints seconds, asserts no time.

    python tests/million_scores.py

Two methods, 1,000 prompts, 10 seeds, 5 metrics with a curve of 10 views each: 20,000 pictures and 1,000,000 rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from gating import suite_in

from bench.compare import compare
from bench.gate import gate
from bench.index import NAME, query
from bench.store import Store
from bench.tables import TABLES, VIEWS

PROMPTS, SEEDS, METRICS, VIEWS_EACH = 1000, 10, 5, 10

PLUGINS = "\n".join(f'''
@metric("m{i}", scope="image", values={{"m{i}": "lower"}})
def m{i}(sample):
    """Made up."""
    return [Value("m{i}", 0.0)]
''' for i in range(METRICS))  # fmt: skip

SUITE = f"""
name = "million"
version = "1"
tier = "miniature"
seeds = {SEEDS}
[[parts]]
name = "2to1"
width = 16
height = 8
prompts = "many.jsonl"
[[methods]]
ref = "plugins.py@plain"
label = "plain"
""" + "".join(f'[[metrics]]\nref = "plugins.py@m{i}"\nlabel = "m{i}"\n' for i in range(METRICS))


def fill(path: Path, digest: str) -> None:
    """A leaderboard as the index makes it, filled by SQL."""
    import duckdb

    with duckdb.connect(str(path)) as con:
        for table, columns in TABLES.items():
            declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            con.execute(f"create table {table} ({declared})")
        for view, sql in VIEWS.items():
            con.execute(f"create view {view} as {sql}")
        con.execute(f"""create temp table cell as select m as method, printf('p%02d', p) as prompt_id,
            s as seed, m || '-' || p || '-' || s as recipe_id, 'i-' || m || '-' || p || '-' || s as image_id,
            hash(p) % 1000 / 1000.0 + case when m = 'b' then 0.01 else 0 end as level
            from (select unnest(['a', 'b']) as m), range({PROMPTS}) a(p), range({SEEDS}) b(s)""")
        con.execute(f"""insert into member by name select 'million@1' as suite, '{digest}' as suite_digest,
            '2to1' as part, method, false as control, prompt_id, seed, recipe_id, 'many' as prompt_set,
            'miniature' as tier from cell""")
        con.execute("""insert into recipe by name select recipe_id, prompt_id, seed, 16 as width, 8 as height,
            false as loop, method, '{}' as params from cell""")
        con.execute("insert into image by name select recipe_id, image_id, 16 as width, 8 as height from cell")
        con.execute(f"""insert into part by name
            select '{digest}' as suite_digest, '2to1' as part, 16 as width, 8 as height, false as loop""")
        con.execute(f"""insert into protocol by name select 'protocol' || i as protocol, 'm' || i as metric,
            'whole' as view, '{{}}' as params from range({METRICS}) r(i)""")
        con.execute(f"""insert into score by name select image_id, 'protocol' || i as protocol, 'm' || i as metric,
            'm' || i as name, v as "index", level + random() / 10 as value
            from cell, range({METRICS}) r(i), range({VIEWS_EACH}) w(v)""")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        suite = suite_in(Path(folder), prompts=PROMPTS, text=SUITE)
        plugins = Path(folder) / "plugins.py"
        plugins.write_text(plugins.read_text() + PLUGINS)
        store = Store(Path(folder) / "store")
        store.root.mkdir()
        fill(store.root / NAME, suite.digest)
        sys.stdout.write(f"score rows: {query(store, 'select count(*) from score')[1][0][0]:,}\n")
        for name, ask in {
            "compare": lambda: compare(store, suite, "a", "b").comparisons[0].gain,
            "gate": lambda: gate(store, suite, "a", "b", {f"m{i}": 0.05 for i in range(METRICS)}).verdict,
        }.items():
            started, worked = time.perf_counter(), time.process_time()
            said = ask()
            wall, cpu = time.perf_counter() - started, time.process_time() - worked
            sys.stdout.write(f"{name}: {wall:.2f} s ({cpu:.2f} s of CPU): {said}\n")
