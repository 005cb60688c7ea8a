"""The ids of all plug-ins against the project's own source: what is used moves them, nothing else does.

Source is mutated on a copy, whose digests are taken without importing it.
"""

from __future__ import annotations

import ast
import random
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import bench
from bench import source, syntax
from bench.source import reached, source_digest

ROOT = Path(bench.__file__).parents[1]
KINDS = ("methods", "metrics", "backbones")
PLUGINS = {f"{kind}:{e.name}": e.value for kind in KINDS for e in entry_points(group=f"scrollbench.{kind}")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project's source, which digests are taken of."""
    folder = tmp_path_factory.mktemp("source")
    for top in source.OURS:
        shutil.copytree(ROOT / top, folder / top, ignore=lambda at, names: [n for n in names if _no_source(at, n)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_package", lambda top: folder / top if top in source.OURS else None)
        yield folder


def _no_source(at: str, name: str) -> bool:
    return not (name.endswith(".py") or (Path(at) / name).is_dir()) or (
        name in ("weights", "__pycache__") and (Path(at).name == "world" or name == "__pycache__")
    )


def digests(of: Iterable[str] = PLUGINS) -> dict[str, str]:
    return {name: source_digest(PLUGINS[name]) for name in of}


def mutated(text: str, name: str) -> str:
    """The source with one definition changed: another statement in a function or class, another value elsewhere."""
    tree = ast.parse(text)
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            node.body.append(ast.parse("mutated = 0").body[0])
            return ast.unparse(ast.fix_missing_locations(tree))
        if name in syntax.bound([node]):
            tree.body.insert(i + 1, ast.parse(f"{name} = ({name}, 0)").body[0])
            return ast.unparse(ast.fix_missing_locations(tree))
    raise AssertionError(f"no {name}")


def test_a_changed_definition_moves_the_ids_of_all_that_use_it_and_of_no_other(copy: Path) -> None:
    before, users = digests(), {name: reached(value) for name, value in PLUGINS.items()}
    used = sorted({d for definitions in users.values() for d in definitions if d[1]})
    draw = random.Random(0)
    by_file = {path: [n for p, n in used if p == path] for path, _ in used}
    for path, names in by_file.items():
        name, text = draw.choice(names), path.read_text()
        using = {plugin for plugin, definitions in users.items() if (path, name) in definitions}
        others = sorted(set(PLUGINS) - using)
        path.write_text(mutated(text, name))
        # Twelve of the others, drawn anew for every file: in the end each has been asked many times.
        found = digests(using | set(draw.sample(others, min(len(others), 12))))
        moved = {plugin for plugin, value in found.items() if value != before[plugin]}
        path.write_text(text)
        assert moved == using, (path, name)
        assert moved, (path, name)
    assert len(by_file) > 50
    assert digests() == before


def test_a_changed_file_that_nothing_uses_moves_no_id(copy: Path) -> None:
    before = digests()
    used = {path for value in PLUGINS.values() for path, _ in reached(value)}
    idle = [p for p in sorted(copy.rglob("*.py")) if p not in used and p.read_text().strip()]
    assert {"board.py", "index.py", "console.py"} <= {p.name for p in idle}
    for path in idle:
        path.write_text(path.read_text() + "\nmutated = 0\n")
    assert digests() == before


def test_comments_formatting_docstrings_and_the_order_of_imports_move_no_id(copy: Path) -> None:
    before = digests()
    for path in sorted(copy.rglob("*.py")):
        tree = ast.parse(path.read_text())
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        rest = [n for n in tree.body if n not in imports]
        future = [n for n in imports if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body[0] = ast.parse('"Something else."').body[0]
        tree.body = [*future, *reversed([n for n in imports if n not in future]), *rest]
        path.write_text("# a comment\n" + ast.unparse(tree) + "\n# and another\n")
    assert digests() == before
